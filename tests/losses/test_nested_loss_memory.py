"""What the nested loss takes beside its inputs and their gradients, with a vocabulary of 64k entries."""

from pathlib import Path

import pytest
import torch

from mrl_experiments.losses.nested_cross_entropy import nested_cross_entropy

CLASSES, WIDTH, TOKENS = 65536, 64, 1200
DIMS = (8, 16, 32, 64)
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="reads peak memory from /proc")


def memory(field):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(dims, *, tied):
    """Bytes at the peak of a forward and backward pass above those before it."""
    torch.manual_seed(0)
    z = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = torch.randn(CLASSES, WIDTH) if tied else [torch.randn(CLASSES, dim) for dim in dims]
    for tensor in [weight] if tied else weight:
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    y = torch.randint(CLASSES, (TOKENS,))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    nested_cross_entropy(z, weight, None, y, dims).losses.sum().backward()
    return memory("VmHWM") - before


def test_nesting_a_vocabulary_takes_at_most_a_fifth_more_than_one_size():
    peak(DIMS, tied=True)  # libraries allocate their own at first use
    single = peak((WIDTH,), tied=True)
    logits = TOKENS * CLASSES * 4
    gradient = CLASSES * WIDTH * 4
    assert single < gradient + logits / 2
    assert peak(DIMS, tied=True) < 1.2 * single
    own_gradients = sum(DIMS) * CLASSES * 4
    assert peak(DIMS, tied=False) - own_gradients < 1.2 * single
