"""Room for what a pass needs for a while: on a CPU each thread keeps its own, of which all passes make use.

Fresh memory costs a page fault every 4 KiB. Views of it cost a call each, and the more so between two large
products, which leave nothing else in the cache: so they are made once and kept with the room.
"""

import math
import threading
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

Views = TypeVar("Views")
_own = threading.local()


def room(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, views: Callable[[Tensor], Views]
) -> Views:
    """Return `views` of uninitialised memory of this shape.

    On a CPU they are only valid until the thread's next call with the same function `views`.
    """
    if device.type != "cpu":
        return views(torch.empty(shape, dtype=dtype, device=device))
    name = f"{views.__qualname__} {dtype}"
    memory, known, made = getattr(_own, name, (None, None, None))
    if known == shape:
        return cast("Views", made)
    size = math.prod(shape)
    if memory is None or len(memory) < size:
        memory = made = None
        setattr(_own, name, (None, None, None))  # freed before the new one is there
        memory = torch.empty(size, dtype=dtype)
    made = views(memory[:size].view(shape))
    setattr(_own, name, (memory, shape, made))
    return made


def release_room() -> None:
    """Give back the memory that this thread keeps for its next pass on the CPU."""
    vars(_own).clear()
