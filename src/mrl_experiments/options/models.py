"""Names of timm as options of model=, without importing timm, which takes seconds."""

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore

NAME = re.compile(r"[A-Za-z]\w*(?:\.\w+)?")  # of an architecture, with the tag of its weights
FOLDERS = ("--config-dir=", "-cd=", "hydra.searchpath=", "+hydra.searchpath=")
MODELS = re.compile(r"^def (\w+)\(\s*pretrained", re.MULTILINE)  # as timm defines each architecture
FORMER = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)


def offer_models(arguments: Sequence[str], conf: Path) -> None:
    """Offer to Hydra what model= names on the command line, where it is timm's and has no file.

    model=convnext_tiny means model=timm model.arch=convnext_tiny then, also in a sweep. Files come first:
    those of `conf`, and of the folders that the command line adds.
    """
    typed = [argument.partition("=")[2] for argument in arguments if argument.startswith("model=")]
    for name in NAME.findall(",".join(typed)):
        files = (folder / "model" / f"{name}.yaml" for folder in (conf, *_added(arguments)))
        if name.partition(".")[0] in timm_names() and not any(map(Path.is_file, files)):
            node = {"defaults": ["/base/timm@_here_"], "arch": name}
            ConfigStore.instance().store(group="model", name=name, node=node)


def _added(arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the folders of configuration that a command line adds."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("--config-dir", "-cd"):
            yield Path(following)
        elif argument.startswith(FOLDERS):
            for folder in argument.partition("=")[2].strip("[]").split(","):
                yield Path(folder.strip("'\" ").removeprefix("file://"))


@functools.cache
def timm_names() -> frozenset[str]:
    """Return the names of timm's architectures, today's and former ones, read from its source."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        return frozenset()
    names: set[str] = set()
    for file in Path(spec.origin).parent.glob("models/*.py"):
        text = file.read_text(encoding="utf-8")
        names.update(MODELS.findall(text))
        names.update(re.findall(r"'(\w+)'\s*:", "".join(FORMER.findall(text))))
    return frozenset(names)


def near_models(name: str, conf: Path) -> list[str]:
    """Return the names of files in conf/model and of timm that are most like `name`."""
    known = sorted({file.stem for file in (conf / "model").glob("*.yaml")} | timm_names())
    return difflib.get_close_matches(name, known, n=3)
