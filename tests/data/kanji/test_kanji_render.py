from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mrl_experiments.data.kanji.render import SIZE, Perturbation, perturb

CLEAN = Perturbation()
SQUARE = ImageOps.expand(Image.new("L", (12, 12), 255), border=1)


def random(seed=0):
    return np.random.default_rng(seed)


def center_of_mass(image):
    ink = image[..., 0].astype(float)
    return [(ink.sum(axis) @ np.arange(SIZE)) / ink.sum() for axis in (0, 1)]


def test_without_perturbation_the_glyph_is_centered_and_unchanged():
    image = perturb(SQUARE, CLEAN, random())
    expected = np.zeros((SIZE, SIZE, 1), dtype=np.uint8)
    expected[10:22, 10:22] = 255
    np.testing.assert_array_equal(image, expected)


@given(
    st.integers(0, 2**32),
    st.builds(
        Perturbation,
        rotation=st.floats(0, 180),
        scale=st.floats(0, 0.9),
        shear=st.floats(0, 1),
        shift=st.floats(0, 16),
        blur=st.floats(0, 8),
        contrast=st.floats(0, 1),
        background=st.floats(0, 1),
        noise=st.floats(0, 1),
        occlusion=st.floats(0, SIZE),
    ),
)
def test_any_perturbation_gives_an_image_that_depends_on_the_seed_alone(seed, bounds):
    image = perturb(SQUARE, bounds, random(seed))
    assert image.shape == (SIZE, SIZE, 1) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, perturb(SQUARE, bounds, random(seed)))


def test_shift_stays_within_its_bound_and_reaches_it():
    moved = [center_of_mass(perturb(SQUARE, replace(CLEAN, shift=4), random(seed))) for seed in range(300)]
    distance = np.abs(np.array(moved) - (SIZE - 1) / 2)
    assert 3.5 < distance.max() <= 4.05


def test_rotation_turns_about_the_center_by_at_most_its_bound():
    bar = ImageOps.expand(Image.new("L", (24, 2), 255), border=1)
    angles = []
    for seed in range(300):
        rows, columns = np.nonzero(perturb(bar, replace(CLEAN, rotation=20), random(seed))[..., 0] > 127)
        angles.append(np.degrees(np.arctan(np.polyfit(columns, rows, 1)[0])))
    assert 17 < np.max(angles) < 22 and -22 < np.min(angles) < -17


def test_scale_changes_the_area_within_its_bound():
    areas = [
        (perturb(SQUARE, replace(CLEAN, scale=0.25), random(seed)) / 255).sum() / 144 for seed in range(300)
    ]
    assert 0.53 < min(areas) < 0.62 and 1.45 < max(areas) < 1.6


def test_blur_keeps_the_ink_and_spreads_it():
    sharp = perturb(SQUARE, CLEAN, random())
    blurred = [perturb(SQUARE, replace(CLEAN, blur=1.5), random(seed)) for seed in range(50)]
    assert all(image.mean() == pytest.approx(sharp.mean(), rel=0.01) for image in blurred)
    assert max((image > 0).sum() for image in blurred) > 1.5 * (sharp > 0).sum()


def test_contrast_is_at_least_its_bound_and_ink_is_brighter_than_paper():
    contrasts = []
    for seed in range(200):
        image = perturb(SQUARE, replace(CLEAN, contrast=0.3), random(seed)).astype(int)
        contrasts.append(image[16, 16, 0] - image[0, 0, 0])
    assert 0.3 * 255 - 1 <= min(contrasts) < 0.35 * 255 and max(contrasts) > 0.9 * 255


def test_noise_has_at_most_its_standard_deviation():
    paper = Image.new("L", (1, 1), 0)
    half_grey = replace(CLEAN, contrast=0.0, noise=0.1)
    deviations = [perturb(paper, half_grey, random(seed)).astype(float).std() / 255 for seed in range(200)]
    assert 0.08 < max(deviations) < 0.11


def test_background_is_smooth_and_bounded():
    paper = Image.new("L", (1, 1), 0)
    bounds = replace(CLEAN, contrast=0.0, background=0.2)
    for seed in range(50):
        image = perturb(paper, bounds, random(seed))[..., 0].astype(float)
        if 51 < image.mean() < 204:  # nothing is clipped
            assert np.ptp(image) <= 2 * 0.2 * 255 + 1
        assert np.abs(np.diff(image, axis=0)).max() < 0.2 * 255 / 4


def test_occlusion_covers_at_most_its_square():
    white = Image.new("L", (SIZE, SIZE), 255)
    hidden = [(perturb(white, replace(CLEAN, occlusion=8), random(seed)) < 250).sum() for seed in range(300)]
    assert max(hidden) == 64 and min(hidden) == 0
    assert all(round(count**0.5) ** 2 == count for count in hidden)
