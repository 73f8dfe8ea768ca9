"""Two processes with half the batch each against one process, for MRL and MRL-E."""

import pytest
import torch
import torch.distributed as dist
from composing import loss_options
from hydra.utils import instantiate
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow
CLASSES, BATCH, STEPS = 11, 16, 3


class Backbone(nn.Linear):
    width = 32


def train(loss, wrap, share):
    torch.manual_seed(0)
    config = loss_options(loss)
    method = instantiate(config)(backbone=Backbone(6, 32), num_classes=CLASSES).double()
    wrapped = wrap(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)
        y = torch.randint(CLASSES, (BATCH,), generator=generator)
        optimizer.zero_grad()
        wrapped(x[share], y[share]).loss.backward()
        optimizer.step()
    return method.state_dict()


def rank(index, loss, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    half = slice(index * BATCH // 2, (index + 1) * BATCH // 2)
    state = train(loss, DistributedDataParallel, half)
    torch.save(state, f"{folder}/{index}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("loss", ["mrl", "mrl_e"])
def test_two_processes_follow_one(loss, tmp_path):
    spawn(rank, (loss, str(tmp_path)), nprocs=2)
    alone = train(loss, nn.Identity(), slice(None))
    for index in range(2):
        state = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value)
