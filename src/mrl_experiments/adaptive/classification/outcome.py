"""Accuracy and cost of cascades over samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.heads import Heads
from mrl_experiments.results import Setting

Sweep = Callable[[Exits, NDArray[np.int64]], Mapping[Setting, Cascade]]


def all_cascades(
    policies: Sequence[Sweep], exits: Exits, labels: NDArray[np.int64]
) -> Iterator[tuple[Setting, Cascade]]:
    """Yield what all policies choose on some samples, by setting."""
    for sweep in policies:
        yield from sweep(exits, labels).items()


def outcome(
    cascade: Cascade, exits: Exits, heads: Heads, values: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Return means over N samples: of `values` (L, N) where each is answered, of dims and of their cost."""
    stop = cascade.stop(exits)
    answered_at = np.asarray(exits.dims)[stop]
    computed = [dim if dim in cascade.pruned().dims else 0 for dim in exits.dims]
    cumulative = np.cumsum(computed)[stop]
    # Tied classifiers share their columns: a longer prefix adds the new ones alone.
    macs = heads.classes * (answered_at if heads.tied else cumulative)
    costs = {"expected_dim": answered_at, "expected_dim_cumulative": cumulative, "head_macs": macs}
    answered = {name: value[stop, np.arange(len(stop))] for name, value in values.items()}
    return {name: float(value.mean()) for name, value in (answered | costs).items()}
