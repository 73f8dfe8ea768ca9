"""Accuracy and cost of cascades over samples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.exits import Exits
from mrl_experiments.adaptive.classification.policies.risk_control import samples_needed
from mrl_experiments.heads import Heads
from mrl_experiments.results import Setting

SINGLE = Setting(policy="single")
Sweep = Callable[[Exits, NDArray[np.int64]], Mapping[Setting, Cascade]]


def all_cascades(
    policies: Sequence[Sweep], exits: Exits, labels: NDArray[np.int64]
) -> dict[tuple[Setting, int], Cascade]:
    """Return each dim alone, and what all policies choose on some samples, by setting and last dim."""
    cascades = {(SINGLE, dim): Cascade((dim,), ()) for dim in exits.dims}
    for sweep in policies if len(exits.dims) > 1 else ():
        cascades |= {(one, cascade.dims[-1]): cascade for one, cascade in sweep(exits, labels).items()}
    return cascades


def saves_nothing(setting: Setting, exits: Exits, labels: NDArray[np.int64] | None, fitted: int) -> str:
    """Describe what would help a cascade that always goes on to the last dim.

    Args:
        setting: The policy and its options.
        exits: Predictions at each dim.
        labels: (N,) of the same samples, or None.
        fitted: How many samples the thresholds were fitted on.
    """
    last = exits.dims[-1]
    said = [f"{setting}: every sample is answered at {last} dims, nothing is saved"]
    if setting.get("policy") == "risk_control":
        needed = samples_needed(setting["drop"], setting["delta"])
        if fitted < needed:
            said.append(f"the promise takes at least {needed:,} labelled samples and has {fitted:,}")
    if labels is not None:
        right = exits.correct(labels).mean(axis=1)
        smallest = exits.dims[int((right >= right[-1]).argmax())]
        if smallest < last:
            said.append(f"of these samples, {smallest} dims alone answer no fewer right")
    return "; ".join(said)


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
