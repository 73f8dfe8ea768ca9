"""Embedding a large batch in little memory: chunk by chunk, each forward pass repeated for its gradient.

The loss needs all embeddings at once, but only one chunk's activations at a time (Gao et al., "Scaling deep
contrastive learning batch size under memory limited setup", 2021).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def embed_with_gradient_cache(backbone: nn.Module, x: Tensor, chunk: int | None) -> Tensor:
    """Return features (B, D) of x (B, ...), computed `chunk` samples at a time, or at once if that is None.

    Gradients are those of embedding the chunks one after another: dropout draws the same in both passes.
    Batch normalization sees one chunk at a time; its running statistics are updated once.
    """
    if chunk is None:
        return backbone(x)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(backbone)

    cached = partial(checkpoint, backbone, use_reentrant=False, context_fn=contexts)
    run = cached if torch.is_grad_enabled() else backbone
    return torch.cat([run(part) for part in x.split(chunk)])


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch normalization as they were before the block."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.data.copy_(before)  # of which the graph, whose layers have saved it, need not know
