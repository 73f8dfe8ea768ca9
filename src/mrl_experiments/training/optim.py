"""Optimizers with their schedules: parameter groups, learning rate per step."""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn, optim
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from mrl_experiments.errors import UserError

START = 1e-4  # the paper's ramp begins at this share of the learning rate


@dataclass(frozen=True)
class TrainingLength:
    """How long a training is.

    Attributes:
        steps_per_epoch: Optimizer steps per pass over the data.
        epochs: Passes over the data, -1 where only `max_steps` ends the training.
        images_per_step: Images of all processes and accumulated batches.
        max_steps: Optimizer steps at most, -1 without a limit.
    """

    steps_per_epoch: int
    epochs: int
    images_per_step: int
    max_steps: int = -1

    @property
    def steps(self) -> int:
        """All optimizer steps."""
        limits = [self.max_steps, self.steps_per_epoch * self.epochs]
        if max(limits) < 0:
            raise UserError(
                "this training has no end, which a schedule follows from",
                expected="max_epochs or max_steps",
            )
        return min(limit for limit in limits if limit >= 0)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters: no decay on normalization and biases (all that is one-dimensional).

    Their order is that of the optimizer's state in checkpoints; timm's own is the other way round.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (free if parameter.ndim <= 1 else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def sgd_cyclic(
    module: nn.Module,
    length: TrainingLength,
    *,
    name: str = "sgd_cyclic",
    lr: float,
    lr_images: int = 256,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    warmup_epochs: float = 1.0,
) -> tuple[Optimizer, LambdaLR]:
    """Build SGD whose rate rises linearly to its peak and falls linearly to zero (the paper's recipe).

    `lr` belongs to `lr_images` images per step and is scaled in proportion to what a step really sees.
    """
    optimizer = SGD(
        parameter_groups(module, weight_decay),
        lr=scaled(lr, lr_images, length),
        momentum=momentum,
        nesterov=nesterov,
        fused=_on_cpu(module),
    )
    return _clippable(optimizer), _schedule(optimizer, length, warmup_epochs, lambda progress: 1 - progress)


def adamw_cosine(
    module: nn.Module,
    length: TrainingLength,
    *,
    name: str = "adamw_cosine",
    lr: float,
    lr_images: int = 256,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    warmup_epochs: float = 1.0,
) -> tuple[Optimizer, LambdaLR]:
    """Build AdamW whose rate rises linearly to its peak and falls along a half cosine to zero.

    `momentum` is beta_1. `nesterov` has no meaning here and must stay false.
    """
    assert not nesterov, "AdamW has no Nesterov momentum"
    optimizer = AdamW(
        parameter_groups(module, weight_decay),
        lr=scaled(lr, lr_images, length),
        betas=(momentum, 0.999),
        fused=_on_cpu(module),
    )
    return _clippable(optimizer), _schedule(
        optimizer, length, warmup_epochs, lambda progress: (1 + math.cos(math.pi * progress)) / 2
    )


def timm_optim(
    module: nn.Module,
    length: TrainingLength,
    *,
    name: str = "timm",
    opt: str = "adamw",
    lr: float,
    lr_images: int = 256,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    options: Mapping[str, Any] | None = None,
    warmup_epochs: float = 1.0,
    schedule: str = "cosine",
    min_lr: float = 0.0,
    schedule_options: Mapping[str, Any] | None = None,
) -> tuple[Optimizer, "Scheduler | Plateau | None"]:
    """Build any optimizer and any schedule of timm.

    Args:
        module: A method, whose backbone may be one of timm's.
        length: Of the training.
        name: How the configuration is called.
        opt: The optimizer, as `timm.optim.create_optimizer_v2` knows it.
        lr: The peak rate, for `lr_images` images per step; scaled in proportion to what a step really sees.
        lr_images: See `lr`.
        momentum: Of SGD; beta_1 of Adam and its kin.
        nesterov: Of `opt=sgd`.
        weight_decay: Of all but normalization, biases, and what the network itself says does not decay.
        layer_decay: The rate of each layer, as a share of that of the next one; the heads have the full rate.
        options: Further arguments of the optimizer.
        warmup_epochs: In which the rate rises linearly, at most half of the training.
        schedule: As `timm.scheduler.create_scheduler_v2` knows it; `plateau`, which follows the top-1 of
            validation, is torch's, without warm-up: timm's loses its state in a checkpoint.
        min_lr: Where the rate ends.
        schedule_options: Further arguments of the schedule.

    Raises:
        UserError: If timm does not know a name, or an argument does not fit it.
    """
    groups = _timm_groups(module, weight_decay, layer_decay)
    peak = scaled(lr, lr_images, length)
    epochs = length.steps / length.steps_per_epoch
    lengths: dict[str, Any] = {"num_epochs": epochs, "warmup_epochs": min(warmup_epochs, epochs / 2)}
    lengths |= {"step_on_epochs": False, "updates_per_epoch": length.steps_per_epoch}
    kind = "momentum" if opt == "sgd" and not nesterov else opt
    try:
        optimizer = create_optimizer_v2(groups, kind, lr=peak, momentum=momentum, **(options or {}))
        if schedule == "plateau":
            options = {"mode": "max", "min_lr": min_lr, **(schedule_options or {})}
            return optimizer, Plateau(optimizer, **options)
        scheduler, _ = create_scheduler_v2(
            optimizer,
            schedule,
            warmup_lr=START * peak,
            min_lr=min_lr,
            **lengths,
            **(schedule_options or {}),
        )
    except (ValueError, TypeError, AssertionError) as error:
        known = difflib.get_close_matches(opt, [str(known) for known in list_optimizers()], n=4)
        raise UserError(
            f"optim.opt={opt} optim.schedule={schedule}: {error}",
            expected=f"names and arguments of timm{', such as ' + ', '.join(known) if known else ''}",
        ) from error
    return optimizer, scheduler


def _timm_groups(module: nn.Module, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]]:
    """Return timm's groups of parameters of a method: those of the network's layers, then the others."""
    backbone = getattr(module, "backbone", module)
    net: Any = getattr(backbone, "net", backbone)
    spared = net.no_weight_decay() if hasattr(net, "no_weight_decay") else ()
    if layer_decay is None:
        inside = param_groups_weight_decay(net, weight_decay, no_weight_decay_list=spared)
    else:
        inside = param_groups_layer_decay(net, weight_decay, spared, layer_decay=layer_decay)
    taken = {id(parameter) for group in inside for parameter in group["params"]}
    rest = [group for group in parameter_groups(module, weight_decay) if group["params"]]
    for group in rest:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    return [group for group in [*inside, *rest] if group["params"]]


class Plateau:
    """torch's ReduceLROnPlateau, whose step by Lightning an epoch's last checkpoint would lack."""

    def __init__(self, optimizer: Optimizer, **options: Any) -> None:
        self.optimizer = optimizer
        self._schedule = ReduceLROnPlateau(optimizer, **options)

    def step(self, metric: float) -> None:
        """Lower the rate if the metric of a validation has not become better for long enough."""
        self._schedule.step(metric)

    def state_dict(self) -> dict[str, Any]:
        """Return how long it has not, and the best."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._schedule.load_state_dict(state)


def _on_cpu(module: nn.Module) -> bool | None:
    """Return whether one pass over the parameters is to do a whole step: on CPUs a fifth of the time."""
    return all(parameter.is_cpu for parameter in module.parameters()) or None


@contextmanager
def _as_in_memory(optimizer: Optimizer) -> Iterator[None]:
    """Show a step convolutions in `channels_last` in the order of their memory, in which they are contiguous.

    A step in one pass copies all that is not, which took longer than the step itself. Other steps, such as
    a GPU's, see them as they are.
    """
    moved = []
    groups = optimizer.param_groups if optimizer.defaults["fused"] else []
    for parameter in (one for group in groups for one in group["params"]):
        if (grad := parameter.grad) is not None and parameter.ndim == 4 and not parameter.is_contiguous():
            moved.append((parameter, parameter.data, grad))
            parameter.data, parameter.grad = parameter.data.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
            _permute(optimizer.state[parameter], (0, 2, 3, 1))
    try:
        yield
    finally:
        for parameter, data, grad in moved:
            parameter.grad = None  # which must have the parameter's shape
            parameter.data, parameter.grad = data, grad
            _permute(optimizer.state[parameter], (0, 3, 1, 2))


def _permute(state: dict[str, Any], order: tuple[int, ...]) -> None:
    moments = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.ndim == 4}
    state.update({key: value.permute(order) for key, value in moments.items()})


class _InMemoryOrder(Optimizer):
    """An optimizer of torch whose step in one pass copies no convolutions."""

    def step(self, closure: Any = None) -> Any:
        """Take a step, after the closure, which computes loss and gradients."""
        with torch.enable_grad():
            loss = closure() if closure else None
        with _as_in_memory(self):
            super().step()
        return loss


class SGD(_InMemoryOrder, optim.SGD):
    """torch's, whose name the learning rates are logged by."""


class AdamW(_InMemoryOrder, optim.AdamW):
    """torch's, whose name the learning rates are logged by."""


def _clippable(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer whose gradients Lightning clips, also where it does a step in one pass on a CPU.

    Lightning refuses it since such a step also unscales gradients; on a CPU none are scaled.
    """
    if optimizer.defaults["fused"]:
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def scaled(lr: float, lr_images: int, length: TrainingLength) -> float:
    """Scale a learning rate given for `lr_images` images per step to the images of this training's step."""
    return lr * length.images_per_step / lr_images


def _schedule(
    optimizer: Optimizer, length: TrainingLength, warmup_epochs: float, decay: Callable[[float], float]
) -> LambdaLR:
    warmup = min(warmup_epochs * length.steps_per_epoch, length.steps / 2)

    def factor(step: int) -> float:
        if step < warmup:
            return START + (1 - START) * step / warmup
        return decay(min(1.0, (step - warmup) / max(1.0, length.steps - warmup)))

    return LambdaLR(optimizer, factor)
