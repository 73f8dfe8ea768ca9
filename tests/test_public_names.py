"""What people import from the package, and the examples in its docstrings."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mrl_experiments

SOURCE = Path(mrl_experiments.__file__).parent
WITH_EXAMPLES = [path for path in sorted(SOURCE.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", mrl_experiments.__all__)
def test_every_public_name_is_there_and_described(name):
    assert getattr(mrl_experiments, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nested_crossentropy'"):
        mrl_experiments.nested_crossentropy  # noqa: B018


def test_importing_the_package_costs_nothing():
    program = "import sys, mrl_experiments; print({'torch', 'numpy', 'faiss'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_there_are_examples():
    assert WITH_EXAMPLES


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_examples_in_docstrings_run(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    module = importlib.import_module(".".join(("mrl_experiments", *parts)))
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted and not found.failed


def test_a_method_is_loaded_from_its_folder():
    method = mrl_experiments.load_method(Path(__file__).parent / "stored_run")
    assert mrl_experiments.truncate(method, 8).linear.in_features == 8
