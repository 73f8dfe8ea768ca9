"""A sum of losses of one model, of which only one holds its graph at a time."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HALF_SCALE = 1024.0  # keeps gradients inside float16's range until they reach the float32 parameters


def sequential_backward(losses: Iterable[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the sum (), whose gradients with respect to `parameters` are ready when it is returned.

    Several passes through one model in a step can keep all their graphs until the sum's backward pass, or
    call `backward` once each. The first takes the memory of all passes together; the second takes the step
    out of the trainer's hands, and with DDP reduces all gradients once a pass. Here each loss is
    differentiated before the next is asked for, and the sum hands the added gradients on in its own backward
    pass: the memory of one pass and of one more gradient, one reduction, and nothing a trainer need know.
    Precision, accumulation and clipping work as for any loss.

    Args:
        losses: () each, made while iterated, so that none is there before its turn.
        parameters: The leaves to be trained. Other leaves get no gradient.
    """
    values: list[Tensor] = []
    sums: list[Tensor | None] = [None] * len(parameters)
    for loss in losses:
        values.append(loss.detach())
        if not loss.requires_grad:
            continue
        device = loss.device.type
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        scale = HALF_SCALE if half else 1.0
        gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        for index, (before, new) in enumerate(zip(sums, gradients, strict=True)):
            if before is not None and new is not None:
                before.add_(new, alpha=1 / scale)
            elif new is not None:
                sums[index] = new if scale == 1 else new / scale
    return _HandOn.apply(torch.stack(values).sum(), sums, *parameters)


class _HandOn(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(None if grad is None else grad * outer for grad in ctx.gradients))
