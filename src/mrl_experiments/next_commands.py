"""Commands that go on where another ended, as messages and the report's page print them, to be pasted."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mrl_experiments.errors import command_line
from mrl_experiments.places import CONF

USUAL_ROOT = "outputs"  # root= in conf/base/command.yaml


def next_command(script: str, root: Path | str, options: Mapping[str, str] | None = None) -> str:
    """Return the command of a script for what lies below `root`, which is named where it is not the usual.

    Example:
        >>> next_command("embed.py", "here/out", {"run": "mrl_s0"})
        'python embed.py run=mrl_s0 root=here/out'
    """
    place = {} if str(root) == USUAL_ROOT else {"root": str(root)}
    return command_line(script, {**(options or {}), **place})


def data_options(dataset: str, home: str | None) -> dict[str, str]:
    """Return the options by which evaluate.py finds the embeddings of a data set.

    Args:
        dataset: Its name.
        home: The name of the data that the run was trained on, which need no option; None if not known.

    Example:
        >>> data_options("kanji4k", "kanji1k"), data_options("kanji1k", "kanji1k"), data_options("mine", None)
        ({'data': 'kanji4k'}, {}, {'data': 'image_folder', 'data.name': 'mine'})
    """
    if dataset == home:
        return {}
    return {"data": dataset} if dataset in _data() else {"data": "image_folder", "data.name": dataset}


@cache
def _data() -> set[str]:
    return {path.stem for path in (CONF / "data").glob("*.yaml")}
