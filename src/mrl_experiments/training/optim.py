"""Optimisers with their schedules: parameter groups, learning rate per step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

START = 1e-4  # the paper's ramp begins at this share of the learning rate


@dataclass(frozen=True)
class Length:
    """How long a training is: optimiser steps a pass over the data, and passes; images a step.

    epochs: -1 where only `max_steps` ends it. max_steps: optimiser steps at most, -1 without a limit.
    """

    steps_per_epoch: int
    epochs: int
    images_per_step: int
    max_steps: int = -1

    @property
    def steps(self) -> int:
        """All optimiser steps."""
        limits = [self.max_steps, self.steps_per_epoch * self.epochs]
        return min(limit for limit in limits if limit >= 0)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the parameters: no decay on normalisation and biases (all that is one-dimensional)."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (free if parameter.ndim <= 1 else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def sgd_cyclic(
    module: nn.Module,
    length: Length,
    *,
    name: str,
    lr: float,
    lr_images: int,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    warmup_epochs: float,
) -> tuple[Optimizer, LambdaLR]:
    """Build SGD whose rate rises linearly to its peak and falls linearly to zero (the paper's recipe).

    `lr` belongs to `lr_images` images a step and is scaled in proportion to what a step really sees.
    """
    optimizer = SGD(
        parameter_groups(module, weight_decay),
        lr=scaled(lr, lr_images, length),
        momentum=momentum,
        nesterov=nesterov,
    )
    return optimizer, _schedule(optimizer, length, warmup_epochs, lambda progress: 1 - progress)


def adamw_cosine(
    module: nn.Module,
    length: Length,
    *,
    name: str,
    lr: float,
    lr_images: int,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    warmup_epochs: float,
) -> tuple[Optimizer, LambdaLR]:
    """Build AdamW whose rate rises linearly to its peak and falls along a half cosine to zero.

    `momentum` is beta_1. `nesterov` has no meaning here and must stay false.
    """
    assert not nesterov, "AdamW has no Nesterov momentum"
    optimizer = AdamW(
        parameter_groups(module, weight_decay), lr=scaled(lr, lr_images, length), betas=(momentum, 0.999)
    )
    return optimizer, _schedule(
        optimizer, length, warmup_epochs, lambda progress: (1 + math.cos(math.pi * progress)) / 2
    )


def scaled(lr: float, lr_images: int, length: Length) -> float:
    """Scale a learning rate given for `lr_images` images a step to the images of this training's step."""
    return lr * length.images_per_step / lr_images


def _schedule(
    optimizer: Optimizer, length: Length, warmup_epochs: float, fall: Callable[[float], float]
) -> LambdaLR:
    warmup = min(warmup_epochs * length.steps_per_epoch, length.steps / 2)

    def factor(step: int) -> float:
        if step < warmup:
            return START + (1 - START) * step / warmup
        return fall(min(1.0, (step - warmup) / max(1.0, length.steps - warmup)))

    return LambdaLR(optimizer, factor)
