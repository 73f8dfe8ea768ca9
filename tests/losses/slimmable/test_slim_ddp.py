"""Two processes with half the batch each against one process that adds up the gradients of both halves."""

import pytest
import torch
import torch.distributed as dist
from composing import loss_options
from hydra.utils import instantiate
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from mrl_experiments.models.timm_backbone import TimmBackbone

pytestmark = pytest.mark.slow
CLASSES, BATCH, STEPS = 5, 8, 3
MODES = ("switchable", "universal")
HALVES = (slice(0, BATCH // 2), slice(BATCH // 2, BATCH))


def build(mode):
    torch.manual_seed(0)
    config = loss_options("slim", mode=mode)
    backbone = TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=16)
    return instantiate(config)(backbone=backbone, num_classes=CLASSES).double()


def train(method, forward, shares):
    """Batch normalisation sees each share by itself, as it does in processes."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(BATCH, 1, 16, 16, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (BATCH,), generator=generator)
        optimizer.zero_grad()
        for share in shares:
            torch.manual_seed(step)  # the widths of the step
            (forward(x[share], y[share]).loss / len(shares)).backward()
        optimizer.step()
    method.finish(x[share] for share in shares)
    return method.state_dict()


def rank(index, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    for mode in MODES:
        method = build(mode)
        state = train(method, DistributedDataParallel(method), HALVES[index : index + 1])
        torch.save(state, f"{folder}/{mode}{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The states of two processes after they have trained together."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(rank, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_follow_one(mode, folder):
    method = build(mode)
    alone = train(method, method, HALVES)
    # What training gathers is each process's own; the recalibration at the end is over all of them.
    compared = alone if mode == "universal" else dict(method.named_parameters())
    for index in range(2):
        state = torch.load(folder / f"{mode}{index}.pt", weights_only=True)
        for name in compared:
            if "num_batches" not in name:
                torch.testing.assert_close(state[name], alone[name], msg=lambda text, n=name: f"{n}: {text}")
