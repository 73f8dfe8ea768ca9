"""Random numbers that depend only on (seed, epoch, sample), the same in numpy and inside FFCV's kernels.

A counter-based generator: an augmentation is the same whichever process, thread or loader computes it, and
wherever a run was interrupted.
"""

import numpy as np
from numpy.typing import NDArray

# Two rounds of a multiplicative hash on 64 bits (constants of SplitMix64, Steele et al., 2014).
GOLDEN, MIX_1, MIX_2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
S27, S30, S31, S40 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(40)
UNIT = np.float64(2.0**-24)


def mix(value):  # type: ignore[no-untyped-def]  # numba compiles this very function
    """Scramble 64 bits; for uint64 scalars and arrays."""
    value = (value ^ (value >> S30)) * MIX_1
    value = (value ^ (value >> S27)) * MIX_2
    return value ^ (value >> S31)


def stream(seed: int, epoch: int) -> np.uint64:
    """Return the key of all random numbers of one epoch."""
    with np.errstate(over="ignore"):
        return np.uint64(mix(mix(np.uint64(seed) + GOLDEN) + np.uint64(epoch) * GOLDEN))


def uniform(key, index, number):  # type: ignore[no-untyped-def]  # numba compiles this very function
    """Return random number `number` (an integer or an array) from [0, 1) of sample `index` under a key."""
    bits = mix(key ^ mix(np.uint64(index) * GOLDEN + np.uint64(number)))
    return np.float64(bits >> S40) * UNIT


def seed_of(key: np.uint64, index: int, number: int) -> int:
    """Return a seed for the `number`-th generator of sample `index` under a key."""
    with np.errstate(over="ignore"):
        return int(mix(key ^ mix(np.uint64(index) * GOLDEN + np.uint64(number))))


def uniforms(key: np.uint64, index: int, count: int) -> NDArray[np.float64]:
    """Return the first `count` random numbers of one sample."""
    with np.errstate(over="ignore"):
        numbers: NDArray[np.float64] = uniform(key, index, np.arange(count, dtype=np.uint64))
    return numbers
