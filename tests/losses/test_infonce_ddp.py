"""Two processes with half the pairs each against one process with all of them."""

import pytest
import torch
import torch.distributed as dist
from composing import loss_options
from hydra.utils import instantiate
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow
B, D, STEPS = 16, 16, 3


class Towers(nn.Module):
    width = D

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleDict({"6": nn.Linear(6, D), "5": nn.Linear(5, D)})

    def forward(self, x):
        return self.towers[str(x.shape[1])](x)


def train(wrap, share, chunk):
    torch.manual_seed(0)
    config = loss_options("infonce")
    make = instantiate(config, dims=[2, 8, 16], weights=[1.0, 2.0, 0.5], cache_chunk=chunk)
    method = make(backbone=Towers(), num_classes=9).double()
    wrapped = wrap(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(1)
    losses, grads = [], []
    for _ in range(STEPS):
        x = tuple(torch.randn(B, size, generator=generator, dtype=torch.float64) for size in (6, 5))
        y = torch.randint(B // 2, (B,), generator=generator)  # some pairs of both processes show the same
        optimizer.zero_grad()
        out = wrapped(tuple(side[share] for side in x), y[share])
        out.loss.backward()
        losses.append(out.losses)
        grads += [parameter.grad.clone() for parameter in method.parameters()]
        optimizer.step()
    return torch.stack(losses), grads


def rank(index, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=index, world_size=2)
    half = slice(index * B // 2, (index + 1) * B // 2)
    torch.save([train(DistributedDataParallel, half, chunk) for chunk in (None, 3)], f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path):
    spawn(rank, (str(tmp_path),), nprocs=2)
    losses, grads = train(nn.Identity(), slice(None), None)
    ranks = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2)]
    for found in zip(*ranks, strict=True):  # as it is, and with chunks
        torch.testing.assert_close((found[0][0] + found[1][0]) / 2, losses)
        for _, theirs in found:
            for got, wanted in zip(theirs, grads, strict=True):
                torch.testing.assert_close(got, wanted)
