"""Real FFCV files: what is in them, and what is wrong with others."""

import io
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from commands import need_ffcv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrl_experiments.data.loaders.beton import (
    FIELD,
    HEADER,
    JPG,
    PLACE,
    RAW,
    RGB,
    SAMPLES,
    Storage,
    _jpeg_sizes,
    check_beton,
)
from mrl_experiments.data.loaders.beton_writer import write_beton
from mrl_experiments.errors import UserError

need_ffcv()
RNG = np.random.default_rng(0)
SMALL = Storage(max_size=100)
PHOTOGRAPHS = [
    (RNG.integers(0, 256, (20 + 3 * i % 50, 90 - i % 40, 3), dtype=np.uint8), i % 7) for i in range(150)
]


def written(path, samples=PHOTOGRAPHS, channels=3, storage=SMALL, workers=2):
    counts = []
    write_beton(path, samples, channels, storage, workers, counts.append)
    assert sum(counts) == len(samples)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("beton") / "whole.beton")


def images(path):
    """Return the stored bytes and labels by sample, as FFCV's reader finds them."""
    from ffcv.reader import Reader

    reader, content = Reader(str(path)), path.read_bytes()
    places = {int(sample): (int(start), int(size)) for sample, start, size in reader.alloc_table}
    return [
        (content[places[i][0] : sum(places[i])], int(reader.metadata[i]["f1"]))
        for i in range(reader.num_samples)
    ]


def test_pixels_and_labels_come_back(whole):
    for (stored, label), (image, expected) in zip(images(whole), PHOTOGRAPHS, strict=True):
        assert stored == image.tobytes() and label == expected
    assert len(check_beton(whole, channels=3, num_classes=7)) == len(PHOTOGRAPHS)


def test_content_does_not_depend_on_the_number_of_workers(tmp_path):
    kept = Storage("proportion", max_size=40, jpeg_quality=90, jpeg_share=0.5)
    one, three = (written(tmp_path / f"{n}.beton", storage=kept, workers=n) for n in (1, 3))
    assert images(one) == images(three)
    from ffcv.reader import Reader

    pictures = Reader(str(one)).metadata["f0"]
    assert max(pictures["width"].max(), pictures["height"].max()) == 40
    assert 0.35 < np.mean(pictures["mode"] == 0) < 0.65  # JPEG


def test_one_channel_arrays(tmp_path):
    digits = [(image[:16, :16, :1], label) for image, label in PHOTOGRAPHS]
    path = written(tmp_path / "digits.beton", digits, channels=1)
    assert [stored for stored, _ in images(path)] == [image.tobytes() for image, _ in digits]
    assert len(check_beton(path, channels=1, num_classes=7)) == len(digits)
    with pytest.raises(UserError, match=r"has the fields \{'image': 4"):
        check_beton(path, channels=3, num_classes=7)


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_no_truncated_file_is_taken(whole, share):
    part = whole.with_name("part.beton")
    shutil.copy(whole, part)
    os.truncate(part, int(share * whole.stat().st_size))
    with pytest.raises(UserError, match=r"scripts/write_imagenet\.py"):
        check_beton(part, channels=3, num_classes=7)


def test_foreign_and_damaged_files_are_refused(whole, tmp_path):
    from ffcv.fields import FloatField, IntField
    from ffcv.writer import DatasetWriter

    def refused(path, why, **kind):
        with pytest.raises(UserError, match=why):
            check_beton(path, **{"channels": 3, "num_classes": 7, **kind})

    refused(tmp_path / "none.beton", "does not exist")
    (tmp_path / "text.beton").write_text("no beton " * 1000)
    refused(tmp_path / "text.beton", "not a file of FFCV")
    fields = {"image": FloatField(), "label": IntField()}
    DatasetWriter(str(tmp_path / "floats.beton"), fields, 1 << 21, 1).from_indexed_dataset([(0.5, 1)] * 9)
    refused(tmp_path / "floats.beton", "has the fields")
    refused(whole, "labels from 0 to 6, not 5 classes", num_classes=5)

    damaged = bytearray(whole.read_bytes())
    start = HEADER.itemsize + 2 * FIELD.itemsize + 5  # the address in the first sample's entry
    damaged[start : start + 8] = (1 << 40).to_bytes(8, "little")
    (tmp_path / "damaged.beton").write_bytes(damaged)
    refused(tmp_path / "damaged.beton", "sample 0 has its pixels where they cannot be .1 of 150 samples")


@pytest.fixture(scope="module")
def half_jpeg(tmp_path_factory):
    kept = Storage("proportion", max_size=100, jpeg_quality=90, jpeg_share=0.5)
    return written(tmp_path_factory.mktemp("beton") / "half.beton", storage=kept)


@pytest.fixture
def changed(half_jpeg, tmp_path):
    """Return a function that changes what a file says of the first picture of a mode, or its bytes."""

    def change(mode, edit):
        content = bytearray(half_jpeg.read_bytes())
        header = np.frombuffer(content, HEADER, 1)[0]
        start = HEADER.itemsize + 2 * FIELD.itemsize
        entries = np.frombuffer(content, SAMPLES[RGB], header["samples"], offset=start)["image"]
        places = np.frombuffer(content, PLACE, offset=int(header["table"]))
        sample = int(np.flatnonzero(entries["mode"] == mode)[0])
        (row,) = np.flatnonzero(places["sample"] == sample)
        edit(entries, places, sample, row, content)
        (tmp_path / "changed.beton").write_bytes(content)
        return tmp_path / "changed.beton", sample

    return change


def set_entry(field, value):
    def edit(entries, places, sample, row, content):
        entries[field][sample] = value(entries[field][sample]) if callable(value) else value

    return edit


def set_place(field, value):
    def edit(entries, places, sample, row, content):
        places[field][row] = value(places[field][row])

    return edit


def exchange(entries, places, sample, row, content):
    other = np.flatnonzero(entries["mode"] == entries["mode"][sample])[1]
    entries[[sample, other]] = entries[[other, sample]]


def set_bytes(offset, value):
    def edit(entries, places, sample, row, content):
        start, end = int(places["start"][row]), int(places["start"][row] + places["bytes"][row])
        at = start + offset if offset >= 0 else end + offset
        content[at : at + len(value)] = value

    return edit


DAMAGED = {
    "no width": (JPG, set_entry("width", 0)),
    "no height": (JPG, set_entry("height", 0)),
    "no width, raw": (RAW, set_entry("width", 0)),
    "wider": (JPG, set_entry("width", lambda width: width + 1)),
    "wider, raw": (RAW, set_entry("width", lambda width: width + 1)),
    "lower": (JPG, set_entry("height", lambda height: height - 1)),
    "largest": (JPG, set_entry("width", 65535)),
    "raw, it says": (JPG, set_entry("mode", RAW)),
    "JPEG, it says": (RAW, set_entry("mode", JPG)),
    "of no mode": (JPG, set_entry("mode", 7)),
    "elsewhere": (JPG, set_entry("start", lambda start: start + 1)),
    "in the header": (JPG, set_entry("start", 5)),
    "beyond the file": (JPG, set_entry("start", 1 << 62)),
    "shorter": (JPG, set_place("bytes", lambda size: size - 5)),
    "longer": (JPG, set_place("bytes", lambda size: size + 5)),
    "longer than the file": (JPG, set_place("bytes", lambda size: 1 << 62)),
    "without bytes": (JPG, set_place("bytes", lambda size: 0)),
    "of another sample": (JPG, exchange),
    "of another sample, raw": (RAW, exchange),
    "no JPEG": (JPG, set_bytes(0, b"\x89PNG")),
    "cut": (JPG, set_bytes(-2, b"\0\0")),
    "zeros from the first marker on": (JPG, set_bytes(2, bytes(300))),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_every_samples_header_is_compared_with_what_lies_there(changed, kind):
    path, sample = changed(*DAMAGED[kind])
    with pytest.raises(UserError, match=rf"is damaged: sample {sample} .*\([12] of 150 samples\)"):
        check_beton(path, channels=3, num_classes=7)


ARGUMENTS_AT = HEADER.itemsize + FIELD.fields["arguments"][1]  # of the field image: a shape, then a type
SAMPLES_AT, PAGE_AT = (HEADER.fields[name][1] for name in ("samples", "page"))
STATED = {
    "arrays of fewer rows, which FFCV would write beyond": (ARGUMENTS_AT, 8),
    "arrays without end": (ARGUMENTS_AT, 1 << 62),
    "arrays of one more dim": (ARGUMENTS_AT + 24, 2),
    "a type of no length": (ARGUMENTS_AT + 256, 0),
    "fewer samples than lie there": (SAMPLES_AT, 149),
    "pages without bytes": (PAGE_AT, 0),
    "pages of 3 bytes": (PAGE_AT, 3),
}


@pytest.mark.parametrize("kind", STATED)
def test_what_the_head_of_a_file_states_is_compared_with_what_lies_there(kind, tmp_path):
    digits = [(image[:16, :16, :1], label) for image, label in PHOTOGRAPHS]
    path = written(tmp_path / "digits.beton", digits, channels=1)
    content, (at, value) = bytearray(path.read_bytes()), STATED[kind]
    size = HEADER.fields["page"][0].itemsize if at == PAGE_AT else 8
    content[at : at + size] = value.to_bytes(size, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"digits\.beton"):
        check_beton(path, channels=1, num_classes=7)


def test_arrays_have_the_size_of_the_data_and_the_bytes_of_their_shape(tmp_path):
    digits = [(image[:16, :16, :1], label) for image, label in PHOTOGRAPHS]
    path = written(tmp_path / "digits.beton", digits, channels=1)
    assert len(check_beton(path, channels=1, num_classes=7, size=16)) == len(digits)
    with pytest.raises(UserError, match=r"shape \(16, 16, 1\), not \(32, 32, 1\)"):
        check_beton(path, channels=1, num_classes=7, size=32)
    content = bytearray(path.read_bytes())
    places = np.frombuffer(content, PLACE, offset=int(np.frombuffer(content, HEADER, 1)[0]["table"]))
    places["bytes"][4] -= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="has not the bytes of an array of the shape"):
        check_beton(path, channels=1, num_classes=7)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_jpeg_that_cannot_be_decoded_is_named_and_not_shown_as_another(changed, share):
    """FFCV leaves in its memory what was there before."""
    from mrl_experiments.data.loaders.augment import Augment
    from mrl_experiments.data.loaders.ffcv_loader import FFCVLoader

    def inside(entries, places, sample, row, content):
        at = int(places["start"][row] + share * places["bytes"][row])
        content[at : at + 40] = b"\xff\xd0" * 20  # markers where pixels should be

    path, sample = changed(JPG, inside)
    count = len(check_beton(path, channels=3, num_classes=7))
    loader = FFCVLoader(path, 3, Augment(), 50, 1, None)
    with pytest.raises(UserError, match=f"JPEG of sample {sample} cannot be decoded"):
        list(loader.run(np.array_split(np.arange(count), 3), 32, 0))


def test_whole_files_with_jpegs_of_any_make_are_taken(half_jpeg, tmp_path):
    assert len(check_beton(half_jpeg, channels=3, num_classes=7)) == len(PHOTOGRAPHS)
    for options in ({"progressive": True}, {"comment": b"x" * 999}, {"subsampling": 0, "optimize": True}):
        buffer = io.BytesIO()
        Image.fromarray(PHOTOGRAPHS[0][0]).save(buffer, "JPEG", **options)
        content = np.frombuffer(b"any" + buffer.getvalue() + b"thing", np.uint8)
        starts, ends = np.array([3, 0]), np.array([len(content) - 5, 9])
        assert _jpeg_sizes(content, starts, ends).tolist() == [[90, 20], [0, 0]]


class Slow:
    """Samples that take their time, in a process that says which one it is."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.01)
        return PHOTOGRAPHS[index % 100]


def test_a_worker_that_dies_ends_the_writing(tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()

    def kill_one():
        while not (found := list(pids.iterdir())):
            time.sleep(0.01)
        os.kill(int(found[0].name), signal.SIGKILL)

    threading.Thread(target=kill_one).start()
    with pytest.raises(UserError, match="ended with status -9"):
        written(tmp_path / "died.beton", Slow(pids))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(UserError, match=r"broken\.jpg cannot be read as an image"):
        written(tmp_path / "out.beton", [*PHOTOGRAPHS[:80], (broken, 0)])
