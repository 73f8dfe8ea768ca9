"""Writing FFCV's .beton files with worker processes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_experiments.data.images.read_image import Readings, gathered, read_image
from mrl_experiments.data.loaders.beton import Storage
from mrl_experiments.data.loaders.parallel import run_workers
from mrl_experiments.data.source import Image, Sample
from mrl_experiments.files import explain_os_errors

PAGE_SIZES = [1 << bits for bits in range(21, 32)]
UNKNOWN_SIZE = 1 << 26  # bytes of the largest image, where the files may hold any
LONGEST_SIDE = 65500  # pixels that a JPEG and the fields of a .beton file can hold


def write_beton(
    path: Path,
    samples: Sequence[Sample],
    channels: int,
    storage: Storage,
    workers: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Write `samples` to `path`, calling `advance(n)` as n more are done; return what `gathered` returns.

    Images and labels do not depend on `workers`; where in the file an image lies does.

    Raises:
        UserError: If samples cannot be read, all of which are counted, for a full disk, or a worker that
            died.
    """
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter

    class Writer(DatasetWriter):
        def _write_common(self, num_samples: int, queue_content: Any, work_fn: Any, extra: Any) -> None:
            # Instead of FFCV's own, which waits for ever for a worker that died.
            self.num_samples = num_samples
            self.prepare()
            try:
                allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
                work = _encoder(self, samples, channels, storage, allocator)
                parts = run_workers(num_samples, self.num_workers, work, advance)
                described.update(gathered((readings for _, readings in parts), num_samples))
                self.finalize([allocation for allocations, _ in parts for allocation in allocations])
            finally:
                self.metadata_sm.close()
                self.metadata_sm.unlink()

    described: dict[str, Any] = {}
    largest = _largest_image(samples, channels, storage)
    page = next(size for size in PAGE_SIZES if size >= 4 * largest or size == PAGE_SIZES[-1])
    writer = Writer(str(path), _fields(samples, channels, storage), page, max(1, workers))
    with explain_os_errors(path):
        writer.from_indexed_dataset(samples)
    return described


def _encoder(
    writer: Any, samples: Sequence[Sample], channels: int, storage: Storage, allocator: Any
) -> Callable[[Iterator[range]], Any]:
    from ffcv.writer import handle_sample

    def encode(chunks: Iterator[range]) -> Any:
        metadata = np.frombuffer(writer.metadata_sm.buf, dtype=writer.metadata_type)
        readings = Readings()
        with allocator:
            for indices in chunks:
                for index in indices:
                    value, label = samples[index]
                    np.random.seed(index)  # FFCV draws with it which images become JPEG
                    image = readings.read(index, value, channels)
                    if image is None:
                        continue  # to count them all; the file is not finished then
                    sample = (_narrowest(image, storage.max_size), label)
                    handle_sample(sample, index, metadata.dtype.names, metadata, allocator, writer.fields)
        return allocator.allocations, readings

    return encode


def _narrowest(image: Image, max_size: int | None) -> Image:
    """Reduce an image of which FFCV's own reduction would leave no row or column, or no writable side."""
    height, width = image.shape[:2]
    ratio = (max_size or LONGEST_SIDE) / max(height, width)
    if ratio >= 1 or (min(height, width) * ratio >= 1 and max_size is not None):
        return image
    import cv2

    size = (max(1, int(width * ratio)), max(1, int(height * ratio)))
    reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, np.uint8).reshape(size[1], size[0], image.shape[2])


def _fields(samples: Sequence[Sample], channels: int, storage: Storage) -> dict[str, Any]:
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES

    if channels == 3:
        _ = IMAGE_MODES["raw"]  # numba compiles the look-up: here once, or else in each worker process
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
    return first.nbytes if isinstance(first, np.ndarray) else UNKNOWN_SIZE
