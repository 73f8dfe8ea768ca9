"""A run with an index behind the service: in this process, and as a command."""

import numpy as np
import pytest
from composing import composed
from serving import Process


@pytest.fixture(scope="session")
def digits(trained_runs):
    """A run of digits with the embeddings of a split."""
    from mrl_experiments.embed import embed

    run = trained_runs["digits"]
    embed(composed("embed", f"run={run.name}", f"root={run.root}", "splits=[val]", "trainer=cpu"))
    return run


@pytest.fixture(scope="session")
def model(digits):
    from mrl_experiments import load

    return load(digits.folder)


@pytest.fixture(scope="session")
def pictures(digits):
    """Return pixels (N, 32, 32, 1) uint8 of the split."""
    from mrl_experiments.build import stored_data, trusted_config

    with stored_data(digits, trusted_config(digits)) as data:
        return np.stack([pixels for pixels, _ in data.source.open("val")])


@pytest.fixture(scope="session")
def index(digits, tmp_path_factory):
    """The folder of an index of the split, as serve.py builds it."""
    from mrl_experiments import load
    from mrl_experiments.serve.folder import write_split

    folder = tmp_path_factory.mktemp("served") / "index"
    write_split(folder, load(digits.folder), "val", None, "last")
    return folder


@pytest.fixture(scope="session")
def server(digits, index):
    found = Process(digits, f"index={index}")
    yield found
    status, out, err = found.end()
    assert status == 0 and out.endswith("stopped\n") and "Traceback" not in err
