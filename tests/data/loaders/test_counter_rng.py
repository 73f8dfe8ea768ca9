import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_experiments.data.loaders import augment
from mrl_experiments.data.loaders.augment import Resolution, center_window, random_window
from mrl_experiments.data.loaders.counter_rng import stream, uniforms


def test_draws_are_uniform_and_differ_by_seed_epoch_sample_and_number():
    numbers = np.array([uniforms(stream(0, 0), index, 4) for index in range(5000)])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(np.histogram(numbers, 10, (0, 1))[0] / numbers.size - 0.1).max() < 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.05
    others = [uniforms(stream(1, 0), 0, 4), uniforms(stream(0, 1), 0, 4), uniforms(stream(0, 0), 1, 4)]
    assert not any(np.array_equal(other, numbers[0]) for other in others)
    assert np.array_equal(uniforms(stream(0, 0), 7, 4), numbers[7])


def test_numba_draws_the_same_numbers():
    kernels = pytest.importorskip("mrl_experiments.data.loaders.ffcv_kernels", reason="FFCV is not installed")
    for index in (0, 1, 12345, 2**40):
        expected = uniforms(stream(3, 9), index, 25)
        drawn = [kernels.uniform(stream(3, 9), index, number) for number in range(25)]
        np.testing.assert_array_equal(drawn, expected)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 1000), st.floats(0.05, 1))
def test_windows_lie_inside_the_image(height, width, index, low):
    numbers = uniforms(stream(0, 0), index, augment.NUMBERS)
    for top, left, h, w in (
        random_window(height, width, low, 1.0, numbers),
        center_window(height, width, low),
    ):
        assert min(top, left) >= 0 and min(h, w) >= 1
        assert top + h <= height and left + w <= width


def test_random_windows_have_the_areas_and_aspects_asked_for():
    windows = [
        random_window(300, 400, 0.25, 1.0, uniforms(stream(0, 0), i, augment.NUMBERS)) for i in range(2000)
    ]
    _, _, heights, widths = map(np.array, zip(*windows, strict=True))
    shares = heights * widths / (300 * 400)
    assert shares.min() > 0.24 and shares.max() <= 1.0 and 0.5 < shares.mean() < 0.68
    assert (widths / heights).min() > 0.72 and (widths / heights).max() < 1.37


def test_the_papers_resolutions():
    ramp = Resolution(160, 192, start_epoch=29, end_epoch=34)
    assert [ramp.at(epoch) for epoch in (0, 29, 30, 31, 32, 34, 39)] == [160, 160, 160, 160, 192, 192, 192]
    assert Resolution(16, 16).at(5) == 16


def test_a_resolution_without_an_end_reaches_it_in_the_last_epoch():
    ramp = Resolution(20, 32, end_epoch=None, step=4)
    assert [[ramp.within(epochs).at(epoch) for epoch in range(epochs)] for epochs in (1, 2, 3)] == [
        [32], [20, 32], [20, 24, 32],
    ]  # fmt: skip
    assert Resolution(160, 192, 29, 34).within(3) == Resolution(160, 192, 29, 34)
    first = Resolution(20, 32, end_epoch=1, step=4)
    assert [first.within(epochs).at(0) for epochs in (1, 2, -1)] == [32, 20, 20]
    assert [first.within(3).at(epoch) for epoch in range(3)] == [20, 32, 32]
