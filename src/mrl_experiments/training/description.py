"""What is said once of a run: its options, what its model costs at each dim, and how long it trains."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mrl_experiments.cost import head_macs, network_macs
from mrl_experiments.losses.method import Inputs, Method


class Description(pl.Callback):
    """Print what is trained on what, and log the options and costs, with the first batch."""

    def __init__(self, cfg: DictConfig) -> None:
        options: Any = OmegaConf.to_container(cfg, resolve=True)
        self._facts: dict[str, Any] | None = options

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Describe the run, once a process."""
        if self._facts is None or not trainer.is_global_zero:
            return
        x, size = batch[0], pl_module.inputs.get("size")
        if isinstance(x, Tensor) and x.ndim == 4 and size:  # training may begin with smaller images
            x = x.new_zeros(1, x.shape[1], size, size)
        cost = model_cost(pl_module.method, x, pl_module.inputs.get("num_classes", 0))
        for logger in trainer.loggers:
            logger.log_hyperparams({**self._facts, "cost": cost})
        self._facts = None
        trainer.print(_summary(trainer, pl_module, cost), flush=True)


def _summary(trainer: Any, module: Any, cost: Mapping[str, int]) -> str:
    """Return two lines: the model with its device, and the length of the training."""
    length, device = module.length(), trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    many = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    macs = cost[f"macs@{module.method.spec.dims[-1]}"]
    seen = length.steps_per_epoch * length.images_per_step
    epochs = f", {length.epochs:,} epochs of {seen:,}" if length.epochs > 0 else ""
    begun = f", resumed at step {trainer.global_step:,}" if trainer.global_step else ""
    return (
        f"{_short(cost['parameters'])} parameters, {_short(macs)} multiply-adds a sample, "
        f"on {many}{name} with {trainer.precision}\n"
        f"{length.steps:,} steps of {length.images_per_step:,} samples{epochs}{begun}"
    )


def _short(count: int) -> str:
    """Return a number in the unit that leaves it below a thousand.

    Example:
        >>> _short(4_902_440), _short(512)
        ('4.9 M', '512')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def model_cost(method: Method, x: Inputs, classes: int) -> dict[str, int]:
    """Return {parameters, macs@<dim>, ...} of a method: multiply-adds of one sample, with a classifier's.

    x: a batch (B, ...), of which one sample is embedded. classes: 0 where there are no classifiers.
    """
    macs = forward_macs(method, x)
    parameters = sum(parameter.numel() for parameter in method.parameters())
    return {"parameters": parameters} | {
        f"macs@{dim}": macs + head_macs(dim, classes) for dim in method.spec.dims
    }


def forward_macs(method: Method, x: Inputs) -> int:
    """Return the multiply-adds of embedding one sample of a batch x (B, ...); the method is left as it is.

    Where x is a pair of batches, one sample of each is embedded.
    """
    modes = {module: module.training for module in method.modules()}
    try:
        with torch.no_grad():
            return network_macs(lambda: [method.eval().embed(side[:1]) for side in tree_leaves(x)])
    finally:
        for module, training in modes.items():
            module.training = training
