"""FFCV operations whose random numbers depend only on (seed, epoch, sample).

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
from numba.extending import register_jitable

from mrl_experiments.data.loaders import augment as windows
from mrl_experiments.data.loaders import counter_rng
from mrl_experiments.data.loaders.augment import Augment

WINDOW_NUMBERS, FLIP, ROW, COLUMN = windows.WINDOW_NUMBERS, windows.FLIP, windows.ROW, windows.COLUMN

register_jitable(counter_rng.mix)
uniform = numba.njit(counter_rng.uniform, nogil=True)
window_of = numba.njit(windows.random_window, nogil=True)
center_of = numba.njit(windows.center_window, nogil=True)


@numba.njit(nogil=True)
def read_key(address):  # type: ignore[no-untyped-def]
    """Return the epoch's key."""
    key = np.empty(1, dtype=np.uint64)
    ctypes_memcopy(address, key.ctypes.data, np.uint64(8))
    return key[0]


class Window(ResizedCropRGBImageDecoder):
    """Decode the window of an RGB image that `augment` names and resize it to a square of `size`.

    damaged: (1,) uint64, which gets the number from 1 of a sample whose JPEG cannot be decoded as it stands.
    """

    def __init__(self, size: int, augment: Augment, key: np.ndarray | None, damaged: np.ndarray) -> None:
        super().__init__((size, size))
        self.augment, self.key, self.damaged = augment, key, damaged

    get_crop_generator = None  # generate_code does without

    def generate_code(self) -> Callable[..., Any]:
        """Return the function FFCV compiles."""
        mem_read, my_range = self.memory_read, Compiler.get_iterator()
        decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        random = self.key is not None and self.augment.crop is not None
        low, high = self.augment.crop or (1.0, 1.0)
        share = self.augment.center if self.key is None else 1.0
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
                    numbers = np.empty(WINDOW_NUMBERS)
                    for number in range(WINDOW_NUMBERS):
                        numbers[number] = uniform(key, index, number)
                    top, left, h, w = window_of(int(height), int(width), low, high, numbers)
                else:
                    top, left, h, w = center_of(int(height), int(width), share)
                resize(image, top, top + h, left, left + w, destination[slot])
            return destination[: len(batch_indices)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class ShiftFlipNormalize(Operation):
    """Translate, mirror and normalize uint8 images (B, H, W, C) to float32 in one pass."""

    def __init__(self, channels: int, augment: Augment, key: np.ndarray | None) -> None:
        super().__init__()
        self.channels, self.augment, self.key = channels, augment, key

    def generate_code(self) -> Callable[..., Any]:
        """Return the function FFCV compiles."""
        my_range, channels = Compiler.get_iterator(), self.channels
        table = self.augment.lookup(self.channels)
        random = self.key is not None
        shift, flip = (self.augment.shift, self.augment.flip) if random else (0, False)
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
        """Return the type and shape of what comes out."""
        dtype = np.dtype("float32")
        return (
            replace(previous_state, jit_mode=True, dtype=dtype),
            AllocationQuery(previous_state.shape, dtype),
        )
