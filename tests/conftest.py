import gc
import sys
from collections import Counter
from pathlib import Path

import pytest

from mrl_experiments.deferred import defer_metrics

sys.path.insert(0, str(Path(__file__).parent))  # tests import tests/commands.py
defer_metrics()  # as each command does
# Files of few tests that take long, in this order.
LONG = ["test_pages", "test_ddp", "test_graphs", "test_reproduce", "test_wheel", "test_notebooks"]
LONG += ["test_first_run", "test_train_command", "test_embed_evaluate", "test_loaders", "test_resume"]
LONG += ["test_vector_file", "test_report_page", "test_embed_images", "test_export", "test_load"]
LONG += ["test_write_report", "test_process", "test_next_commands", "test_never_blocked", "test_two_at_once"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that no core waits for one at the end."""
    tests = Counter(item.path for item in items)

    def place(item):
        name = item.path.stem
        return LONG.index(name) if name in LONG else len(LONG), -tests[item.path]

    items.sort(key=place)


def pytest_collection_finish():
    """Let the collector leave alone what stays until the end, a million objects of torch and of all tests.

    Each full collection would take half a second, and one in a fork would copy them all.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def data_cache(tmp_path_factory):
    """Keep prepared data out of the user's cache, and share it among the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRL_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("WANDB_MODE", "offline")
        yield


@pytest.fixture(autouse=True)
def seeded():
    import torch  # which the process that only hands out tests does without

    torch.default_generator.manual_seed(0)  # torch.manual_seed keeps a stack trace for each other device


@pytest.fixture(scope="session")
def trained_runs(data_cache, tmp_path_factory):
    """Small runs by their kinds, each trained when it is first asked for."""
    from trained_runs import TrainedRuns

    return TrainedRuns(tmp_path_factory.mktemp("trained"))
