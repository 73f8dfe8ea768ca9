"""The page of --help: one screen, whose examples can be typed."""

import shlex
import subprocess
import sys

import pytest
from commands import ROOT
from composing import composed

from mrl_experiments.options.check import tree_of
from mrl_experiments.options.help import KEYS, WIDTH, examples
from mrl_experiments.options.models import offer_models
from mrl_experiments.options.several import told_apart
from mrl_experiments.options.typed import quoted

COMMANDS = ("train", "embed", "evaluate", "export", "generate", "report", "serve")


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_typed_and_options_are_known(command):
    assert len(examples(command)) == 5 and len(KEYS[command]) <= 10
    for example in examples(command):
        words = [word for word in shlex.split(example, comments=True) if word != "-m"]
        typed = told_apart([quoted(word) for word in words])
        offer_models(typed, ROOT / "conf")
        first = [word if word.startswith("'") or "[" in word else word.split(",")[0] for word in typed]
        tree = tree_of(composed(command, *first), command)
    for key in KEYS[command]:
        node = tree
        for part in key.split("."):
            node = node[part]
        assert node.meaning


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_screen_and_comes_without_torch(command):
    program = (
        "import runpy, sys; sys.argv = [f'{sys.argv[1]}.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'torch', 'timm', 'sklearn', 'pandas'} & {*sys.modules}, 'slow imports'"
    )
    page = subprocess.run(
        [sys.executable, "-c", program, command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.rstrip("\n")
    lines = page.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= WIDTH, page
    assert f"python {command}.py" in lines[0] and "Examples" in lines and "Options" in lines
    if command == "train":
        assert "model=resnet10t" in page and "or a name of timm's" in page and "epochs=4 " in page
        assert "passes over the training data [epochs]" in page
