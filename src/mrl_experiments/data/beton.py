"""FFCV's .beton files: writing them with worker processes, and looking at them before FFCV does."""

import multiprocessing as mp
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from mrl_experiments.data.source import Image, Sample
from mrl_experiments.errors import UserError
from mrl_experiments.files import raise_if_disk_full

VERSION, CHUNK = 2, 64
PAGE_SIZES = [1 << bits for bits in range(21, 32)]
# The head of the file as FFCV 1.0 lays it out; read here because FFCV itself crashes on a bad file.
HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
FIELD = np.dtype([("type", "<u1"), ("name", ("<u1", 16)), ("arguments", ("<u1", (1024,)))], align=True)
NAMES = ("image", "label")


@dataclass(frozen=True)
class Storage:
    """How images are kept: `raw` pixels, `jpg`, or `proportion` (a share `jpeg_share` as JPEG).

    max_size: longer sides are reduced to this many pixels first. The paper: train 500 px, half of them
    JPEG at quality 90; validation raw.
    """

    mode: str = "raw"
    max_size: int | None = None
    jpeg_quality: int = 90
    jpeg_share: float = 0.5


def read_image(value: Image | Path, channels: int) -> Image:
    """Return the pixels (H, W, channels) of an image or of an image file.

    Raises UserError that names a file which cannot be read.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        with Pillow.open(value) as picture:
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{value} cannot be read as an image: {error}", remedy="repair or remove the file and repeat"
        ) from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


def write_beton(
    path: Path,
    samples: Sequence[Sample],
    channels: int,
    storage: Storage,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write `samples` to `path`, calling `advance(n)` as n more are done.

    Raises UserError for a sample that cannot be read, a full disk, or a worker that died.
    """
    from ffcv.writer import DatasetWriter

    class Writer(DatasetWriter):
        def _write_common(self, num_samples: int, queue_content: Any, work_fn: Any, extra: Any) -> None:
            # FFCV waits for ever for a worker that died; this does not.
            self.num_samples = num_samples
            self.prepare()
            try:
                self.finalize(_write_parts(self, samples, channels, advance))
            finally:
                self.metadata_sm.close()
                self.metadata_sm.unlink()

    largest = _largest_image(samples, channels, storage)
    page = next(size for size in PAGE_SIZES if size >= 4 * largest or size == PAGE_SIZES[-1])
    writer = Writer(str(path), _fields(samples, channels, storage), page, max(1, workers))
    try:
        writer.from_indexed_dataset(samples)
    except OSError as error:
        raise_if_disk_full(error, path)
        raise


def _fields(samples: Sequence[Sample], channels: int, storage: Storage) -> dict[str, Any]:
    from ffcv.fields import IntField, NDArrayField, RGBImageField

    if channels == 3:
        image: Any = RGBImageField(
            storage.mode, storage.max_size, None, storage.jpeg_quality, storage.jpeg_share
        )
    else:
        image = NDArrayField(np.dtype("uint8"), read_image(samples[0][0], channels).shape)
    return {"image": image, "label": IntField()}


def _largest_image(samples: Sequence[Sample], channels: int, storage: Storage) -> int:
    """Bound the bytes of one image, without reading all: a bound on the side, or the first image's size."""
    if storage.max_size:
        return storage.max_size**2 * channels
    first = samples[0][0]
    return first.nbytes if isinstance(first, np.ndarray) else 1 << 26


def _write_parts(
    writer: Any, samples: Sequence[Sample], channels: int, advance: Callable[[int], None]
) -> list[Any]:
    from ffcv.memory_allocator import MemoryAllocator

    context = mp.get_context("fork")
    todo, done = context.Queue(), context.Queue()
    for start in range(0, len(samples), CHUNK):
        todo.put(range(start, min(start + CHUNK, len(samples))))
    allocator = MemoryAllocator(writer.fname, writer.data_region_start, writer.page_size)
    arguments = (writer, samples, channels, allocator, todo, done)
    processes = [
        context.Process(target=_work, args=arguments, daemon=True) for _ in range(writer.num_workers)
    ]
    for process in processes:
        todo.put(None)
        process.start()
    allocations: list[Any] = []
    working = len(processes)
    try:
        while working:
            try:
                message = done.get(timeout=1.0)
            except queue.Empty:
                _raise_if_died(processes)
                continue
            if isinstance(message, BaseException):
                raise message
            if isinstance(message, int):
                advance(message)
            else:
                allocations.extend(message)
                working -= 1
    finally:
        for process in processes:
            process.kill() if working else process.join()
    return allocations


def _work(
    writer: Any, samples: Sequence[Sample], channels: int, allocator: Any, todo: Any, done: Any
) -> None:
    from ffcv.writer import handle_sample

    metadata = np.frombuffer(writer.metadata_sm.buf, dtype=writer.metadata_type)
    try:
        with allocator:
            while (indices := todo.get()) is not None:
                for index in indices:
                    value, label = samples[index]
                    np.random.seed(index)  # FFCV draws with it which images become JPEG
                    sample = (read_image(value, channels), label)
                    handle_sample(sample, index, metadata.dtype.names, metadata, allocator, writer.fields)
                done.put(len(indices))
        done.put(allocator.allocations)
    except BaseException as error:
        done.put(error if isinstance(error, UserError | OSError) else RuntimeError(repr(error)))


def _raise_if_died(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.exitcode:
            raise UserError(
                f"a process that wrote the data ended with status {process.exitcode}",
                remedy="look for a lack of memory, lower data.workers, and repeat",
            )


def check_beton(path: Path) -> int:
    """Return the number of samples of a .beton file.

    Raises UserError when it is missing, truncated, or not one that this project can read.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist", expected="a .beton file")
    size = path.stat().st_size

    def refuse(why: str) -> UserError:
        return UserError(
            f"{path} {why}",
            expected="a complete FFCV file with the fields image and label",
            remedy="delete it and let the project write it again, or write it with scripts/write_imagenet.py",
        )

    if size < HEADER.itemsize:
        raise refuse(f"has only {size} bytes")
    header = np.fromfile(path, HEADER, 1)[0]
    if header["version"] != VERSION or header["fields"] != len(NAMES):
        raise refuse("is not a file of FFCV 1.0 with two fields")
    if header["samples"] == 0 or header["table"] == 0:
        raise refuse("was never finished: its index is missing")
    if size < header["table"] + 24 * header["samples"]:
        raise refuse(f"is truncated: {size} bytes, its index begins at {header['table']}")
    fields = np.fromfile(path, FIELD, len(NAMES), offset=HEADER.itemsize)
    names = tuple(bytes(name).rstrip(b"\0").decode("ascii", "replace") for name in fields["name"])
    if names != NAMES:
        raise refuse(f"has the fields {names}")
    return int(header["samples"])
