"""Fine-tuning: start from the backbone of another run, and train only some of the parameters."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mrl_experiments.build import difference, load_method
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.runs import Run
from mrl_experiments.trust import Trust


def take_backbone(method: Method, name: str, root: Path, trust: Trust = False) -> None:
    """Copy the backbone's weights and statistics from the finished run `name` under `root`/runs.

    trust: what that run may name besides this project's classes, see trust.py.
    Raises UserError when there is no such run, or its backbone has another form.
    """
    run = Run(root / "runs" / name)
    if not run.finished.exists():
        finished = sorted(path.parent.name for path in (root / "runs").glob("*/finished.json"))
        raise UserError(
            f"init_from={name}: no finished run of this name under {root / 'runs'}",
            expected=f"one of {', '.join(finished)}" if finished else "a run that train.py has finished",
            remedy="train it first, or name another run: init_from=<run>",
        )
    theirs = load_method(run, trust).backbone.state_dict()
    try:
        method.backbone.load_state_dict(theirs)
    except RuntimeError as error:
        odd = difference(method.backbone.state_dict(), theirs)
        raise UserError(
            f"init_from={name}: its {run.config.model.name} does not fit this run's backbone: {odd}",
            expected="the same architecture with the same options, for images of the same kind",
        ) from error


def freeze(method: nn.Module, train_only: Sequence[str]) -> None:
    """Leave only the parameters trainable that a pattern names.

    train_only: globs of names of parameters, or of modules, which stand for all that is in them: "head",
    "backbone.net.layer4.2.conv*". BatchNorm that no pattern names goes to evaluation mode for good: it
    normalizes by the statistics it has and leaves them as they are (Lightning keeps a module's mode).
    Raises UserError for a pattern that names nothing.
    """
    parameters = dict(method.named_parameters())
    for pattern in train_only:
        if not any(_named([pattern], name) for name in parameters):
            raise UserError(
                f"train_only={list(train_only)}: {pattern} names no parameter",
                expected=f"globs of parameters or modules, such as {', '.join(_near(pattern, method))}",
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(_named(train_only, name))
    for name, module in method.named_modules():
        if isinstance(module, _NormBase) and not _named(train_only, f"{name}.running_mean"):
            module.eval()


def _named(patterns: Sequence[str], name: str) -> bool:
    """Return whether a pattern names a parameter, or a module that it is in."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def _near(pattern: str, method: nn.Module) -> list[str]:
    """Return the names closest to a pattern; the outermost modules where none is close."""
    names = [name for name, _ in method.named_parameters()]
    names += {name.rpartition(".")[0] for name in names}
    return difflib.get_close_matches(pattern.strip("*."), names, n=4) or [
        n for n, _ in method.named_children()
    ]
