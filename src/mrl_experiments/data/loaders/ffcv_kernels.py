"""FFCV operations whose draws depend only on (seed, epoch, sample).

FFCV compiles an operation once and numba freezes the values it closes over. The key of the epoch is
therefore read through the address of an array that outlives the compiled code.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv.libffcv import ctypes_memcopy, imdecode, resize_crop
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State

from mrl_experiments.data.loaders import augment
from mrl_experiments.data.loaders.augment import Augment

GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WINDOW_DRAWS, TRIES = augment.WINDOW_DRAWS, augment.CROP_TRIES
FLIP, ROW, COLUMN = augment.FLIP_DRAW, augment.ROW_DRAW, augment.COLUMN_DRAW

window_of = numba.njit(augment.random_window, nogil=True)
centre_of = numba.njit(augment.centre_window, nogil=True)


@numba.njit(nogil=True)
def mix(value):  # type: ignore[no-untyped-def]
    """Scramble 64 bits: draws.mix, with constants numba keeps unsigned."""
    value = np.uint64((value ^ (value >> np.uint64(30))) * np.uint64(MIX_1))
    value = np.uint64((value ^ (value >> np.uint64(27))) * np.uint64(MIX_2))
    return np.uint64(value ^ (value >> np.uint64(31)))


@numba.njit(nogil=True)
def uniform(key, index, number):  # type: ignore[no-untyped-def]
    """Return draws.uniform."""
    bits = mix(key ^ mix(np.uint64(index) * np.uint64(GOLDEN) + np.uint64(number)))
    return np.float64(bits >> np.uint64(40)) * 2.0**-24


@numba.njit(nogil=True)
def read_key(address):  # type: ignore[no-untyped-def]
    """Read the epoch's key."""
    key = np.empty(1, dtype=np.uint64)
    ctypes_memcopy(address, key.ctypes.data, np.uint64(8))
    return key[0]


class Window(ResizedCropRGBImageDecoder):
    """Decode the window of an RGB image that `augment` names and resize it to a square of `size`.

    damaged: (1,) uint64, which gets the number from 1 of a sample whose JPEG cannot be decoded as it stands.
    """

    def __init__(self, size: int, how: Augment, key: np.ndarray | None, damaged: np.ndarray) -> None:
        super().__init__((size, size))
        self.how, self.key, self.damaged = how, key, damaged

    get_crop_generator = None  # generate_code does without

    def generate_code(self) -> Callable[..., Any]:
        """Return the function FFCV compiles."""
        mem_read, my_range = self.memory_read, Compiler.get_iterator()
        decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        random = self.key is not None and self.how.crop is not None
        low, high = self.how.crop or (1.0, 1.0)
        share = self.how.centre if self.key is None else 1.0
        address = 0 if self.key is None else self.key.ctypes.data
        damaged = self.damaged.ctypes.data

        def decode(batch_indices, memory, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, scratch = memory
            for slot in my_range(len(batch_indices)):
                index = batch_indices[slot]
                field = metadata[index]
                data = mem_read(field["data_ptr"], storage_state)
                height, width = np.uint32(field["height"]), np.uint32(field["width"])
                if field["mode"] == 0:  # JPEG
                    if decode_jpeg(
                        data, scratch[slot], height, width, height, width, 0, 0, 1, 1, False, False
                    ):
                        number_of = np.full(1, index + 1, dtype=np.uint64)
                        ctypes_memcopy(number_of.ctypes.data, damaged, np.uint64(8))
                    image = scratch[slot].reshape(-1)[: 3 * height * width].reshape(height, width, 3)
                else:
                    image = data.reshape(height, width, 3)
                if random:
                    key = read_key(address)
                    draws = np.empty(WINDOW_DRAWS)
                    for number in range(WINDOW_DRAWS):
                        draws[number] = uniform(key, index, number)
                    top, left, h, w = window_of(int(height), int(width), low, high, draws)
                else:
                    top, left, h, w = centre_of(int(height), int(width), share)
                resize(image, top, top + h, left, left + w, destination[slot])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class ShiftFlipNormalise(Operation):
    """Translate, mirror and normalise uint8 images (B, H, W, C) to float32 in one pass."""

    def __init__(self, channels: int, how: Augment, key: np.ndarray | None) -> None:
        super().__init__()
        self.channels, self.how, self.key = channels, how, key

    def generate_code(self) -> Callable[..., Any]:
        """Return the function FFCV compiles."""
        my_range, channels = Compiler.get_iterator(), self.channels
        table = self.how.lookup(self.channels)
        random = self.key is not None
        shift, flip = (self.how.shift, self.how.flip) if random else (0, False)
        address = 0 if self.key is None else self.key.ctypes.data

        def run(images, result, indices):  # type: ignore[no-untyped-def]
            height, width = images.shape[1], images.shape[2]
            for slot in my_range(len(indices)):
                down = right = 0
                mirrored = False
                if random:
                    key = read_key(address)
                    down = int(uniform(key, indices[slot], ROW) * (2 * shift + 1)) - shift
                    right = int(uniform(key, indices[slot], COLUMN) * (2 * shift + 1)) - shift
                    mirrored = flip and uniform(key, indices[slot], FLIP) < 0.5
                for row in range(height):
                    source_row = min(max(row + down, 0), height - 1)
                    for column in range(width):
                        source = min(max(column + right, 0), width - 1)
                        if mirrored:
                            source = width - 1 - source
                        for channel in range(channels):
                            level = images[slot, source_row, source, channel]
                            result[slot, row, column, channel] = table[level, channel]
            return result[: len(indices)]

        run.is_parallel = True  # type: ignore[attr-defined]
        run.with_indices = True  # type: ignore[attr-defined]
        return run

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """Tell FFCV what comes out."""
        dtype = np.dtype("float32")
        return (
            replace(previous_state, jit_mode=True, dtype=dtype),
            AllocationQuery(previous_state.shape, dtype),
        )
