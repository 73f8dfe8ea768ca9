"""The rows that one claim is tested on: those of one data set and model."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from mrl_experiments.report.claims.estimates import Estimate, Interval, over_samples, over_seeds
from mrl_experiments.report.prepare import values

Place = tuple[Any, ...]  # a seed, a split, and what else a claim averages over
Values = Mapping[Place, float]
Samples = Mapping[tuple[str, str, str], int]  # how many, by data set, split and evaluation


def mean(values: Values | None) -> float:
    """Return the mean over all places, infinity without any."""
    return fmean(values.values()) if values else float("inf")


@dataclass(frozen=True)
class Case:
    """frame: tidy rows of all lines and metrics. over: settings that are averaged over, beside the splits.

    samples: how many each value was measured on, where rows say it.
    """

    frame: pd.DataFrame
    over: tuple[str, ...]
    samples: Samples

    def select(self, line: str, metric: str, **wanted: Any) -> pd.DataFrame:
        """Return the rows of a line and a metric with these values."""
        found = self.frame[(self.frame.line == line) & (self.frame.metric == metric)]
        for name, value in wanted.items():
            found = found[values(found, name) == value]
        return found

    def values(self, found: pd.DataFrame) -> Values:
        """Return the value at each place. Raises ValueError where two runs of one seed differ."""
        places = list(zip(*(values(found, name) for name in ("seed", "split", *self.over)), strict=True))
        by_place = dict(zip(places, found.value, strict=True))
        for place, value, run in zip(places, found.value, found.run, strict=True):
            if by_place[place] != value:
                raise ValueError(f"two runs of one seed, {run} among them")
        return by_place

    def by_dim(self, line: str, metric: str, **wanted: Any) -> dict[int, Values]:
        """Return the values of a line at each dim."""
        found = self.select(line, metric, **wanted)
        return {int(dim): self.values(group) for dim, group in found.groupby("dim")}

    def difference(self, ours: Values, theirs: Values, where: str) -> Estimate | None:
        """Estimate the mean of ours - theirs over the places of both, paired by seed; None without any."""
        common = [place for place in ours if place in theirs]
        if not common:
            return None
        by_seed: dict[Any, list[float]] = defaultdict(list)
        for place in common:
            by_seed[place[0]].append(ours[place] - theirs[place])
        seeds = [fmean(found) for found in by_seed.values()]
        interval = over_seeds(seeds) or self._over_samples([(ours[p], theirs[p], str(p[1])) for p in common])
        return Estimate(fmean(seeds), interval, where)

    def _over_samples(self, pairs: list[tuple[float, float, str]]) -> Interval | None:
        columns = (self.frame[name] for name in ("dataset", "split", "evaluation"))
        counts = {place[1]: self.samples.get(place, 0) for place in zip(*columns, strict=True)}
        parts = [(ours, theirs, counts[split]) for ours, theirs, split in pairs]
        known = [(a, b, n) for a, b, n in parts if n]
        return over_samples(known) if len(known) == len(pairs) else None
