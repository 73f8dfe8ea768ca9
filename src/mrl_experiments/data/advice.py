"""What is said of a training set that is small, or whose classes are of very different sizes."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

FEW_STEPS = 10  # an epoch
FEW_IMAGES = 10  # of a class
UNEVEN = 10  # times as many images in the largest class as in the smallest


def smaller_batch(count: int, processes: int = 1) -> int:
    """Return a batch size of one process, a power of two, with which `count` samples are some ten steps."""
    return 1 << max(1, (count // (FEW_STEPS * processes)).bit_length() - 1)


def advice(
    name: str,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    batch_size: int,
    *,
    processes: int = 1,
    balance: float | None = None,
) -> Iterator[str]:
    """Yield what to know of a training set, with values that help; nothing of an ordinary one.

    Args:
        name: Of the data.
        labels: (N,) of the images, below C.
        classes: The names of the C classes.
        batch_size: Of one process.
        processes: That train together.
        balance: data.balance.
    """
    count, batch = len(labels), batch_size * processes
    smaller = smaller_batch(count, processes)
    if 0 < (steps := count // batch) < FEW_STEPS and smaller < batch_size:
        left = f", and {count % batch:,} images are left out of each" if count % batch else ""
        yield (
            f"{name}: {count:,} images are {steps} step{'s' if steps > 1 else ''} an epoch at"
            f" data.batch_size={batch_size}{left}; data.batch_size={smaller} makes"
            f" {count // (smaller * processes)}"
        )
    counts = np.bincount(labels, minlength=len(classes))
    if few := int((counts < FEW_IMAGES).sum()):
        least = f"{classes[int(counts.argmin())]} with {counts.min()}"
        yield (
            f"{name}: {few} of {len(classes)} classes have fewer than {FEW_IMAGES} images, such as {least};"
            " model.pretrained=true, where there are such weights, learns from fewer"
        )
    there = np.where(counts > 0, counts, counts.max())
    if counts.max() >= UNEVEN * there.min() and not balance:
        most, least = (
            f"{classes[int(label)]} has {counts[label]:,} images"
            for label in (counts.argmax(), there.argmin())
        )
        yield f"{name}: {most}, {least}; data.balance=1 draws all classes equally often"
