import gc
import sys
from pathlib import Path

import pytest

from mrl_experiments.deferred import defer_metrics

sys.path.insert(0, str(Path(__file__).parent))  # tests import tests/commands.py
defer_metrics()  # as each command does


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
