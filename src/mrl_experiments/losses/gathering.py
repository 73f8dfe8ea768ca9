"""Tensors of all processes, with gradients that find their way back."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_processes() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(x: Tensor) -> Tensor:
    """Return the x (B, ...) of all W processes, (W B, ...), in the order of their ranks.

    What the losses of all processes ask of a sample comes back to the process that it belongs to. All
    processes must call it alike.
    """
    if rank_and_processes()[1] == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
