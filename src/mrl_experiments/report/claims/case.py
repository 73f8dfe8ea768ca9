"""The rows that one claim is tested on: those of one data set and model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mrl_experiments.report.claims.estimates import Estimate, Interval, over_samples, over_seeds
from mrl_experiments.report.entries import Entry, Value

Place = tuple[Value, ...]  # a seed, a split, and what else a claim averages over
Values = Mapping[Place, float]
Samples = Mapping[tuple[str, str, str], int]  # how many, by data set, split and evaluation


@dataclass(frozen=True)
class Case:
    """entries: of all lines and metrics. over: settings that are averaged over, beside the splits.

    samples: how many each value was measured on, where rows say it.
    """

    entries: Sequence[Entry]
    over: tuple[str, ...]
    samples: Samples

    def select(self, line: str, metric: str, **wanted: Value) -> list[Entry]:
        """Return the entries of a line and a metric with these values."""
        return [
            entry
            for entry in self.entries
            if entry.line == line
            and entry.row.metric == metric
            and all(entry.get(name) == value for name, value in wanted.items())
        ]

    def values(self, entries: Sequence[Entry]) -> Values:
        """Return the value at each place, the mean where several runs have one seed."""
        found: dict[Place, list[float]] = defaultdict(list)
        for entry in entries:
            place = (entry.row.seed, entry.row.split, *(entry.get(name) for name in self.over))
            found[place].append(entry.row.value)
        return {place: fmean(values) for place, values in found.items()}

    def by_dim(self, line: str, metric: str, **wanted: Value) -> dict[int, Values]:
        """Return the values of a line at each size."""
        sizes: dict[int, list[Entry]] = defaultdict(list)
        for entry in self.select(line, metric, **wanted):
            sizes[entry.row.dim].append(entry)
        return {dim: self.values(group) for dim, group in sorted(sizes.items())}

    def difference(self, ours: Values, theirs: Values, where: str) -> Estimate | None:
        """Estimate the mean of ours - theirs over the places of both, paired by seed; None without any."""
        common = [place for place in ours if place in theirs]
        if not common:
            return None
        by_seed: dict[Value, list[float]] = defaultdict(list)
        for place in common:
            by_seed[place[0]].append(ours[place] - theirs[place])
        seeds = [fmean(values) for values in by_seed.values()]
        interval = over_seeds(seeds) or self._over_samples([(ours[p], theirs[p], str(p[1])) for p in common])
        return Estimate(fmean(seeds), interval, where)

    def _over_samples(self, pairs: Sequence[tuple[float, float, str]]) -> Interval | None:
        counts = {entry.row.split: self._count(entry) for entry in self.entries}
        parts = [(ours, theirs, counts[split]) for ours, theirs, split in pairs]
        known = [(a, b, n) for a, b, n in parts if n]
        return over_samples(known) if len(known) == len(pairs) else None

    def _count(self, entry: Entry) -> int:
        return self.samples.get((entry.row.dataset, entry.row.split, entry.row.evaluation), 0)
