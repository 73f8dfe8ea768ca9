"""Both loaders on the same images, against a slow reference."""

import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from commands import need_ffcv

from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.data.loaders import augment, order
from mrl_experiments.data.loaders.counter_rng import stream, uniforms
from mrl_experiments.errors import UserError

VARIED = {"shift": 3, "flip": True, "mean": (0.2, 0.4, 0.6), "std": (0.3, 0.2, 0.1)}


@pytest.fixture(params=["ffcv", "torch"])
def loader(request):
    if request.param == "ffcv":
        need_ffcv()
    return request.param


def copied(batches):
    """Return all batches; FFCV uses a batch's memory again."""
    return [tuple(part.clone() for part in batch) for batch in batches]


def reference(pixels, index, epoch, *, shift, flip, mean, std):
    """Mirror, translate with a repeated border and normalise, pixel by pixel."""
    numbers = uniforms(stream(0, epoch), index, augment.NUMBERS)
    down = int(numbers[augment.ROW] * (2 * shift + 1)) - shift
    right = int(numbers[augment.COLUMN] * (2 * shift + 1)) - shift
    side, _, channels = pixels.shape
    mirrored = pixels[:, ::-1] if flip and numbers[augment.FLIP] < 0.5 else pixels
    out = np.empty((channels, side, side))
    for row in range(side):
        for column in range(side):
            level = mirrored[np.clip(row + down, 0, side - 1), np.clip(column + right, 0, side - 1)]
            out[:, row, column] = (level / 255 - np.array(mean)) / np.array(std)
    return out


@pytest.mark.slow
def test_no_workers_are_none_and_null_is_as_many_as_torch_has_threads(loader, pictures, image_data):
    """The batches are the same; with the torch loader no process is started."""
    none, some = (image_data(pictures(), loader, workers=workers) for workers in (0, 2))
    assert image_data(pictures(), loader, workers=None).workers == torch.get_num_threads()
    batches, others = (copied(data.val_dataloader()) for data in (none, some))
    assert all(torch.equal(*pair) for pair in zip(batches[0], others[0], strict=True))
    assert none.workers == 0


def test_a_limit_of_open_files_that_would_block_workers_is_raised_or_refused(
    pictures, image_data, monkeypatch
):
    data = image_data(pictures(), "torch", workers=2, augment={"crop": (0.5, 1.0)})
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (24, 24))
    with pytest.raises(UserError, match=r"24 files open, data\.workers=2 need") as refused:
        copied(data.val_dataloader())
    assert "data.workers=0" in refused.value.remedy
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (24, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: raised.append(limits))
    assert copied(data.val_dataloader())
    ((soft, hard),) = raised
    assert 24 < soft <= hard == 4096


def test_training_batches_are_the_reference_and_go_on_where_they_stopped(loader, pictures, image_data):
    source = pictures()
    data = image_data(source, loader, augment=VARIED)
    samples, batches = source.open("train"), data.train_dataloader()
    epochs = []
    for epoch in (0, 1):
        batches.sampler.set_epoch(epoch)
        epochs.append(copied(batches))
    for epoch, (images, labels, index) in [(0, epochs[0][-1]), (1, epochs[1][0])]:
        assert images.dtype == torch.float32 and labels.dtype == index.dtype == torch.int64
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, label, i in zip(images, labels, index.tolist(), strict=True):
            np.testing.assert_allclose(image, reference(samples[i][0], i, epoch, **VARIED), atol=1e-5)
            assert label == samples[i][1]

    batches.sampler.set_epoch(2)
    whole = copied(batches)
    batches.sampler.set_epoch(3)
    batches.sampler.set_epoch(2)
    stopped = iter(batches)
    for _ in range(4):
        next(stopped)
    state = batches.state_dict()
    stopped.close()
    assert not any(type(thread).__name__ == "EpochIterator" for thread in threading.enumerate())
    batches.sampler.set_epoch(7)
    batches.load_state_dict(state)
    batches.sampler.set_epoch(2)  # as Lightning does after a resume
    rest = copied(batches)
    assert len(rest) == len(whole) - 4 == len(batches) - 4
    for resumed, expected in zip(rest, whole[4:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(resumed, expected, strict=True))


@pytest.mark.slow
def test_reading_leaves_the_random_numbers_of_training_alone(loader, pictures, image_data):
    """Else a run that resumes inside an epoch, and so starts reading anew, trains with others."""
    data = image_data(pictures(), loader, augment=VARIED)
    before = torch.get_rng_state()
    copied(data.train_dataloader())
    copied(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_shows_every_sample_once_in_order_unvaried(loader, pictures, image_data, monkeypatch):
    source = pictures(channels=1)
    data = image_data(source, loader, augment={"shift": 3, "flip": True, "mean": [0.5], "std": [0.25]})
    split = data.val_dataloader()
    assert split.count == 150 and len(split) == 10
    batches = copied(split)
    assert [len(labels) for _, labels, _ in batches] == [16] * 9 + [6]
    images, labels, index = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert index.tolist() == list(range(150))
    pixels = np.stack([image for image, _ in source.open("val")]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(images, (pixels / 255 - 0.5) / 0.25, atol=1e-5)
    assert labels.tolist() == [label for _, label in source.open("val")]

    monkeypatch.setattr(order, "world", lambda: (1, 4))
    shares = copied(split)
    assert len(shares) == len(split) == 3
    own = torch.cat([index[index % 4 == 1] for _, _, index in shares])
    assert own.tolist() == list(range(1, 150, 4))
    for part, _, index in shares:
        assert torch.equal(part, images[index])


@pytest.mark.slow
def test_both_loaders_cut_the_same_windows_out_of_photographs(photographs, image_data):
    need_ffcv()
    options = {"augment": {"crop": (0.2, 1.0), "flip": True, "center": 0.8}, "size": 48, "batch_size": 8}
    options["resolution"] = {"start": 32, "end": 64, "start_epoch": 0, "end_epoch": 1}
    source = ImageFolder("photographs", str(photographs), val_share=0.1, seed=0)
    both = [image_data(source, loader, **options) for loader in ("ffcv", "torch")]
    training, validation = (
        [data.train_dataloader() for data in both],
        [data.val_dataloader() for data in both],
    )
    for epoch, loaders, side in [(0, training, 32), (1, training, 64), (0, validation, 48)]:
        if loaders is training:
            for one in loaders:
                one.sampler.set_epoch(epoch)
        for ours, theirs in zip(*loaders, strict=True):
            assert ours[0].shape == theirs[0].shape == (8, 3, side, side)
            assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
            grey_levels = (ours[0] - theirs[0]).abs() / 2 * 255
            assert grey_levels.mean() < 1.5  # the filters differ a little, another window would by about 30


LEAVE = """
import sys
import torch
from mrl_experiments.data.images.image_data import ImageData
from mrl_experiments.data.images.image_folder import ImageFolder

torch.set_num_threads(3)
data = ImageData(
    name="photographs", source=ImageFolder("photographs", sys.argv[1], 0.1, 0), root=None, loader="ffcv",
    batch_size=2, workers=1000, cache=sys.argv[2], size=32, resolution=None, augment={"crop": (0.5, 1.0)},
    storage={"default": {"mode": "proportion", "max_size": 100}}, betons={}, seed=0,
)
batches, kept = iter(data.train_dataloader()), iter(data.val_dataloader())
assert torch.get_num_threads() == 3
next(batches), next(kept)
assert torch.get_num_threads() == 3
sys.exit(7)
"""


@pytest.mark.slow
@pytest.mark.parametrize("one_cpu", [False, True])
def test_a_process_may_end_inside_an_epoch_and_keeps_its_threads(photographs, tmp_path, one_cpu):
    need_ffcv()
    only = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n" if one_cpu else ""
    command = [sys.executable, "-c", only + LEAVE, str(photographs), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.slow
def test_gray_images_of_a_smaller_resolution_are_the_same_ones_reduced(loader, pictures, image_data):
    source, augment = pictures(channels=1), {"shift": 3, "mean": [0.5], "std": [0.25]}
    resolution = {"start": 8, "end": 16, "start_epoch": 0, "end_epoch": 1, "step": 4}
    small, whole = (
        image_data(source, loader, augment=augment, resolution=of).train_dataloader()
        for of in (resolution, None)
    )
    for epoch, side in enumerate((8, 16)):
        for data in (small, whole):
            data.sampler.set_epoch(epoch)
        for (images, *others), (expected, *rest) in zip(copied(small), copied(whole), strict=True):
            assert images.shape[2:] == (side, side)
            assert all(torch.equal(*pair) for pair in zip(others, rest, strict=True))
            reduced = torch.nn.functional.interpolate(expected, (side, side), mode="bilinear", antialias=True)
            torch.testing.assert_close(images, reduced)
    assert {
        images.shape[-1] for images, *_ in image_data(source, loader, resolution=resolution).val_dataloader()
    } == {16}
