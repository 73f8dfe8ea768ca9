"""Muon: momentum made orthogonal, for matrices and convolutions; AdamW for all other parameters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor, nn
from torch.optim import AdamW

from mrl_experiments.training.precision import best_precision

# Of five steps of Newton and Schulz, which bring all singular values near 1 (Jiacheng You, modded-nanogpt).
STEPS = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]


class Muon(AdamW):
    """Muon (Jordan et al., 2024) for the groups that say `orthogonal: True`, AdamW for the others.

    An update changes what a layer gives by about the learning rate, whatever its shape: its singular values
    are sqrt(outputs / inputs). Unlike in timm's Muon, products are in float32 where bfloat16 is emulated, and
    taps of a kernel that never meet a map, as those around one of 1x1, are left out, which are most of the
    work for small images.

    Args:
        params: Groups, each with its `lr` and `weight_decay`; orthogonal ones with `momentum`.
        options: Of AdamW.
    """

    def __init__(self, params: Iterable[dict[str, Any]], **options: Any) -> None:
        super().__init__(params, **options)
        on_gpu = any(parameter.is_cuda for group in self.param_groups for parameter in group["params"])
        native = best_precision("gpu" if on_gpu else "cpu") == "bf16-mixed"
        self.dtype = torch.bfloat16 if native else torch.float32

    def __setstate__(self, state: dict[str, Any]) -> None:
        for own in state["state"].values():
            own.setdefault("step", torch.tensor(0.0))  # which AdamW asks of every parameter
        super().__setstate__(state)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; the gradients of the orthogonal groups are used up."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("orthogonal"):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)
                        parameter.grad = None  # AdamW passes over it
        super().step()
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        met = _met(grad)
        grad, mean, weight = (tensor[met] for tensor in (grad, state["momentum_buffer"], parameter))
        mean.lerp_(grad, 1 - group["momentum"])
        taps = grad.lerp(mean, group["momentum"]).movedim(1, -1)  # as channels_last has them in memory
        matrix = taps.flatten(1)
        rate = group["lr"] * (len(matrix) / matrix.shape[1]) ** 0.5
        matrix = zeropower_via_newtonschulz(matrix, len(STEPS), STEPS, dtype=self.dtype)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        weight.sub_(matrix.view(taps.shape).movedim(-1, 1), alpha=rate)


def _met(grad: Tensor) -> tuple[slice, ...]:
    """Return the part of a kernel (O, I, ...) whose taps have gradients: a box, all of it where none has."""
    box = [slice(None), slice(None)]
    if grad.ndim > 2:
        size = torch.linalg.vector_norm(grad, dim=(0, 1))
        for places in size.nonzero().T if size.any() else []:
            box.append(slice(int(places.min()), int(places.max()) + 1))
    return tuple(box)


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained parameters that are matrices or convolutions of several channels, and the others."""

    def trained(orthogonal: bool) -> Iterator[nn.Parameter]:
        for parameter in module.parameters():
            if parameter.requires_grad and (parameter.ndim > 1 and parameter.shape[1] > 1) == orthogonal:
                yield parameter

    return [*trained(True)], [*trained(False)]
