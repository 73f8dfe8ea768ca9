"""What the commands make of errors."""

import pytest
from commands import succeed
from torch._utils import ExceptionWrapper

from mrl_experiments.command import as_user_error
from mrl_experiments.errors import UserError


def raised_in_a_worker(error):
    """Return what torch's DataLoader raises for an error in one of its processes."""
    try:
        raise error
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    try:
        wrapper.reraise()
    except Exception as again:
        return again


@pytest.mark.parametrize(
    "error, shown",
    [
        (UserError("a.png cannot be read", expected="a picture", remedy="remove it"), None),
        (UserError("a.png cannot be read"), None),
        (RuntimeError("unable to write: File too large"), "RuntimeError: unable to write: File too large"),
        (KeyError("abc"), "KeyError: 'abc'"),
    ],
)
def test_an_error_in_a_process_that_reads_data_is_shown_as_it_was(error, shown):
    assert str(as_user_error(raised_in_a_worker(error))) == (shown or str(error))


def test_a_process_that_reads_data_and_dies_is_one_message():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible")
    assert "/dev/shm" in str(as_user_error(error))


@pytest.mark.parametrize("script", ["train.py", "generate.py"])
def test_help_lists_the_groups_that_can_be_chosen_from(script):
    listed = {
        line.partition(": ")[0] for line in succeed(script, "--help").partition("Options")[0].splitlines()
    }
    assert {"data", "loss", "experiment/paper"} <= listed
    assert not {"base", "hydra"} & {name.partition("/")[0] for name in listed}
