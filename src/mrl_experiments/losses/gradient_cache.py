"""Embedding a large batch in little memory: chunk by chunk, each forward pass repeated for its gradient.

The loss needs all embeddings at once, but only one chunk's activations at a time (Gao et al., "Scaling deep
contrastive learning batch size under memory limited setup", 2021).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def embed_with_gradient_cache(backbone: nn.Module, x: Tensor, chunk: int) -> Tensor:
    """Return features (B, D) of x (B, ...), computed `chunk` samples at a time.

    Gradients are those of embedding the chunks one after another: dropout draws the same in both passes.
    Batch normalization sees one chunk at a time; its running statistics are updated once.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_statistics(backbone)

    run: Callable[[Tensor], Tensor] = backbone
    if torch.is_grad_enabled():
        chunks = [checkpoint(run, part, use_reentrant=False, context_fn=contexts) for part in x.split(chunk)]
    else:
        chunks = [run(part) for part in x.split(chunk)]
    return torch.cat(chunks)


@contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch normalization alone inside the block."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
