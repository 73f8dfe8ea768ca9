"""Overrides as they are typed: values that Hydra's grammar cannot read are text."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mrl_experiments.options.models import near_models

# A value's parts: quoted text, brackets, commas and keys of mappings stay, and what lies between is text.
KEPT = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[\[\]{},]|(?<=[{,])\s*\w+:)""")
# Signs for which Hydra's own messages are clear.
KNOWN = re.compile(r"""[\w\s.,:=+\-/\[\]{}"'@%*?|]*""", re.ASCII)
ADDRESS = re.compile(r"\w+://[^\s'\"]+")  # of a server, which is one text with all its signs

PAGE = "docs/paper_tables.md"
GONE = {  # recipes that were others with a page of their own: what replaces each
    "paper/table02": f"experiment=paper/table01, see {PAGE}",
    "paper/table08": f"experiment=paper/table01, see {PAGE}",
    "paper/table10": f"experiment=paper/resnet50_imagenet, see {PAGE}",
    "ablation/shortlist_length": f"the same command without it, see {PAGE}",
}


MOVED = {  # how options were typed before, and how they are now
    r"\+trainer\.(?=[a-z_]+=)": "++trainer.",  # Lightning's arguments are all there
    r"(\+{0,2})data\.augment\.centre=": r"\1data.augment.center=",
    r"(\+{0,2})index(?=@)": r"\1codes",  # index= is the folder that serve.py searches
    r"\+{0,2}logger\.(?=(project|entity|mode)=)": "++logger.wandb.",
}


def renamed(argument: str) -> str:
    """Return an argument of the command line as it is typed today."""
    for before, now in MOVED.items():
        argument = re.sub(f"^{before}", now, argument)
    return argument


def replacement(message: str, conf: Path) -> str | None:
    """Return what replaces what Hydra's message says is missing: a recipe that has gone, a model's name."""
    missing = re.search(r"Could not (?:find|load) '(experiment|model)/([\w/.-]+)'", message)
    if not missing:
        return None
    group, name = missing.groups()
    near = near_models(name, conf) if group == "model" else []
    return f"model={', or model='.join(near)}; or any name that timm knows" if near else GONE.get(name)


def typed_overrides() -> list[str]:
    """Return what the command line overrides, as it was typed."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def typed_keys() -> set[str]:
    """Return the keys that the command line names."""
    return {override.partition("=")[0].lstrip("+~") for override in typed_overrides()}


def completed(arguments: Sequence[str]) -> list[str]:
    """Return a command line on which a failed job does not end the others of Optuna either."""
    optuna, rate = "hydra/sweeper=optuna", "hydra.sweeper.max_failure_rate"
    given = optuna not in arguments or any(argument.startswith(f"{rate}=") for argument in arguments)
    return [*arguments, *([] if given else [f"{rate}=1.0"])]


def quoted(argument: str) -> str:
    """Return an argument of the command line with quotation marks where Hydra needs them.

    data.root=~/photos becomes data.root='~/photos', and label=a#1,b becomes label='a#1',b. What Hydra can
    read stays, and so do options of the program that begin with a dash.
    """
    key, equals, value = argument.partition("=")
    if ADDRESS.fullmatch(value) and not _readable(argument):
        return f"{key}={_quoted(value)}"
    if not equals or key.startswith("-") or KNOWN.fullmatch(value) or _readable(argument):
        return argument
    parts = KEPT.split(value)
    parts[::2] = [_quoted(part) for part in parts[::2]]
    changed = f"{key}={''.join(parts)}"
    return changed if _readable(changed) else argument


def _quoted(part: str) -> str:
    if not part.strip() or _readable(f"key={part}"):
        return part
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", part.strip()) + "'"


def _readable(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True
