"""What the nested loss takes beside its inputs and their gradients, with a vocabulary of 64k entries."""

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mrl_experiments.losses.cross_entropy import CHUNK_BYTES, nested_cross_entropy

CLASSES, WIDTH, TOKENS = 65536, 64, 2400
DIMS = (8, 16, 32, 64)
FLOAT = 4


def peak(dims, scale, *, tied):
    """Bytes allocated at the peak of a forward and backward pass, gradients of the parameters aside."""
    torch.manual_seed(0)
    z = torch.randn(TOKENS, WIDTH, requires_grad=True)
    classes = CLASSES // scale
    weights = [torch.randn(classes, dim) * 0.1 for dim in ((WIDTH,) if tied else dims)]
    for tensor in weights:
        tensor.requires_grad_()
    y = torch.randint(classes, (TOKENS,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        nested_cross_entropy(
            z, weights[0] if tied else weights, None, y, dims, chunk_bytes=CHUNK_BYTES // scale
        ).total.backward()
    events = trace.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(itertools.accumulate(changes)) - sum(tensor.grad.nbytes for tensor in weights)


@pytest.mark.parametrize("scale", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_the_logits_of_a_vocabulary_never_exist_as_a_whole(scale):
    """Also with an eighth of the classes, where as many samples fit into an eighth of the bytes."""
    logits = TOKENS * CLASSES // scale * FLOAT  # of one dim; a plain head takes more than twice as much
    assert peak((WIDTH,), scale, tied=True) < logits / 8
    assert peak(DIMS, scale, tied=False) < logits / 3  # all dims
    assert peak(DIMS, scale, tied=True) < logits / 3
