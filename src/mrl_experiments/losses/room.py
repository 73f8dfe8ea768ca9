"""Room for what a pass needs for a while: on a CPU each thread keeps its own, of which all passes make use.

Fresh memory costs a page fault every 4 KiB, and views of it cost a call each.
"""

import math
import threading
from typing import NamedTuple

import torch
from torch import Tensor

_own = threading.local()


class Room(NamedTuple):
    """whole: (n, ...) uninitialised. each: its n parts."""

    whole: Tensor
    each: tuple[Tensor, ...]


def room(purpose: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Room:
    """Return room of this shape; on a CPU it is only valid until the thread's next call for that purpose."""
    if device.type != "cpu":
        whole = torch.empty(shape, dtype=dtype, device=device)
        return Room(whole, whole.unbind())
    name = f"{purpose} {dtype}"
    memory, last = getattr(_own, name, (None, None))
    if last is not None and last.whole.shape == shape:
        return last
    size = math.prod(shape)
    if memory is None or len(memory) < size:
        memory = last = None
        setattr(_own, name, (None, None))  # freed before the new one is there
        memory = torch.empty(size, dtype=dtype)
    whole = memory[:size].view(shape)
    last = Room(whole, whole.unbind())
    setattr(_own, name, (memory, last))
    return last


def release_room() -> None:
    """Give back the memory that this thread keeps for its next pass on the CPU."""
    vars(_own).clear()
