"""From a configuration to a method, and from a run back to its trained method."""

import inspect
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from mrl_experiments.checkpoint import read_checkpoint
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.runs import Run

PREFIX = "method."  # of the method's parameters in a checkpoint of the LightningModule


def construct(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a node of the configuration; a UserError from inside comes out as it is."""
    try:
        return instantiate(node, **arguments)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise cause or error from None


def build_method(cfg: DictConfig, *, num_classes: int, **inputs: int) -> Method:
    """Build backbone and heads for the data that `inputs` describe, such as images of channels and size.

    Raises UserError when the backbone is made for data of another kind.
    """
    make = construct(cfg.model)
    try:
        inspect.signature(make).bind(**inputs)
    except TypeError as error:
        raise UserError(
            f"model={cfg.model.name} does not take what data={cfg.data.name} gives: {error}",
            expected=f"a model whose inputs are described by {', '.join(inputs)}",
            remedy="choose model= and data= of one kind: images, text, or both",
        ) from error
    method = construct(cfg.loss)(backbone=make(**inputs), num_classes=num_classes)
    assert isinstance(method, Method)
    return method


def load_method(run: Run) -> Method:
    """Rebuild the trained method of a run, in evaluation mode on the CPU.

    Raises UserError when the run has no checkpoint yet.
    """
    checkpoint = _checkpoint(run)
    cfg = run.config
    cfg.model.pretrained = None  # the checkpoint brings the weights
    method = build_method(cfg, **checkpoint["inputs"])
    state = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    method.load_state_dict(state)
    return method.eval()


def check_data(run: Run, data: Any) -> None:
    """Raise UserError when data is not as a run needs it, such as text of another vocabulary."""
    kept = _checkpoint(run).get(type(data).__qualname__)  # where Lightning puts the data's state
    if kept is not None:
        data.load_state_dict(kept)


def _checkpoint(run: Run) -> dict[str, Any]:
    if not run.checkpoint.exists():
        raise UserError(
            f"run {run.name} has no checkpoint", remedy="train it first: repeat its train.py command"
        )
    return read_checkpoint(run.checkpoint)
