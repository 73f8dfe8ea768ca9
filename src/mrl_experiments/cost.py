"""Costs of queries and predictions: multiply-adds (MACs, the paper's FLOPs) and bytes."""

import itertools
from collections.abc import Callable, Sequence

FLOAT32_BYTES = 4


def search_macs(scanned: float, stages: Sequence[Sequence[int]]) -> float:
    """Return multiply-adds per query of a scan and its re-ranks, the MFLOPs of Tables 8 to 14 times 1e6.

    That is N D_s + sum_i K_i D_i; a single stage is plain search.

    Args:
        scanned: Vectors compared in the scan, N for exact search.
        stages: [[D_s, K_1], [D_1, K_2], ...], the dim of each stage and how many it keeps.

    Example:
        >>> search_macs(600, [(8, 40), (32, 10)])
        6080
    """
    reranked = sum(keep * dim for (_, keep), (dim, _) in itertools.pairwise(stages))
    return scanned * stages[0][0] + reranked


def head_macs(dim: int, classes: int) -> int:
    """Return multiply-adds per prediction of a linear classifier of `dim` features."""
    return dim * classes


def network_macs(run: Callable[[], object]) -> int:
    """Return the multiply-adds of the convolutions and matrix products that happen while `run` is called.

    Attention counts as its two products, T x T x D each for T tokens of width D. It is computed as these,
    without compiled code: which fused kernels are counted, and how they pad, differs between devices. That
    takes the memory of all weights (T x T for each head and sample), so `run` should be small.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # which loads triton

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch.nn.MultiheadAttention in one uncounted call
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.compiler.set_stance("force_eager"),
            FlopCounterMode(display=False) as counter,
        ):
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def index_bytes(count: int, dim: int) -> float:
    """Return the bytes of `count` stored vectors of `dim` float32 values (Table 20: an exact index)."""
    return float(count * dim * FLOAT32_BYTES)
