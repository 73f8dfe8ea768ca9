"""What evaluate.py prints: a table by dim for each split, and how few dims are enough."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from mrl_experiments.cost import FLOAT32_BYTES
from mrl_experiments.metric_names import LESS, SIGNED, metric, written
from mrl_experiments.results import DRAW, SPREAD, ResultRow, Setting

# What a table shows: the first of these that was measured, else what the evaluation gives first.
MAIN = (
    "nDCG@10",
    "nDCG@*",
    "mAP@10",
    "mAP@*",
    "recall@1",
    "recall@*",
    "overlap@10",
    "overlap@*",
    "bits_per_byte",
    "mean_per_class",
    "top1",
    "class_gap",
)
COSTS = {  # heading and format of what a table says beside it
    "expected_dim": ("dims used", ",.1f"),
    "latency_ms": ("ms/query", ",.4f"),
    "macs": ("multiply-adds", ",.0f"),
    "head_macs": ("multiply-adds", ",.0f"),
    "tokens_per_s": ("tokens/s", ",.0f"),
}
# Settings among which a user chooses; others ask something else of the same dims.
CHOICES = {"index", "policy"}
TOO_GOOD = "oracle"  # a policy that knows the labels
NEAR = 0.01  # what counts as full quality: at most this share less
ROUNDING = 1e-9
PERCENT = f"{NEAR * 100:.0f} %"
MOST_COLUMNS, MOST_LINES = 6, 30
ENOUGH = "<- enough"

Place = tuple[int, Setting]


def tables(rows: Sequence[ResultRow]) -> Iterator[str]:
    """Yield a table for each split in the rows of one evaluation of one run, and of its subnetworks.

    Settings are columns, at most MOST_COLUMNS. Where they are a choice, such as of an index, each is a line
    of its own; of more than MOST_LINES only the best of each dim.
    """
    by_split = sorted(rows, key=lambda row: (row.split, row.label))
    for (split, label), group in groupby(by_split, key=lambda row: (row.split, row.label)):
        found = _Found.of(list(group))
        if found is not None:
            first = rows[0]
            named = [first.run, label, f"{first.dataset}/{split}", first.evaluation]
            named += [] if first.reduction == "prefix" else [first.reduction]
            samples = [f"{found.samples:,} samples"] if found.samples else []
            lines = _choices(found) if found.chosen else _by_dim(found)
            yield "\n".join([f"\n{'  '.join(filter(None, [*named, *samples]))}", *lines])


@dataclass(frozen=True)
class _Found:
    """The values of one split: of the main metric, of its deviation and of costs, by dim and setting."""

    main: str
    values: Mapping[Place, float]
    spread: Mapping[Place, float]
    costs: Mapping[str, Mapping[Place, float]]
    samples: int

    @classmethod
    def of(cls, rows: Sequence[ResultRow]) -> "_Found | None":
        by_metric: dict[str, dict[Place, float]] = {}
        for row in rows:
            if DRAW not in row.setting and row.setting.get("policy") != TOO_GOOD:
                by_metric.setdefault(row.metric, {})[row.dim, Setting(row.setting)] = row.value
        samples = int(next(iter(by_metric.pop("samples", {}).values()), 0))
        names = [name for name in by_metric if name not in COSTS and not SPREAD.search(name)]
        if not names:
            return None
        main = next((n for wanted in MAIN for n in names if fnmatchcase(n, wanted)), names[0])
        costs = {name: by_metric[name] for name in COSTS if name in by_metric}
        return cls(main, by_metric[main], by_metric.get(f"{main}_std", {}), costs, samples)

    @property
    def chosen(self) -> bool:
        """Whether settings are a choice."""
        return any(CHOICES & setting.keys() for _, setting in self.values)

    def is_near(self, place: Place, best: Place) -> bool:
        """Return whether a value is within NEAR of another one."""
        worse = self.values[best] - self.values[place]
        return (-worse if self.main in LESS else worse) <= NEAR * abs(self.values[best]) + ROUNDING

    def best(self, places: Sequence[Place]) -> Place:
        """Return the place of the best value, the cheapest of equal ones."""
        sign = -1 if self.main in LESS else 1
        return max(places, key=lambda place: (sign * self.values[place], -self.cost(place)))

    def cost(self, place: Place) -> float:
        """Return what a choice costs, by the first cost that is known of it."""
        return next((part[place] for part in self.costs.values() if place in part), float(place[0]))

    def text(self, place: Place) -> str:
        """Return a value as it is shown, "" for none."""
        if place not in self.values:
            return ""
        return written(self.main, self.values[place], self.spread.get(place))

    def cost_texts(self, place: Place) -> list[str]:
        """Return the cells of the columns of costs."""
        return [
            f"{part[place]:{COSTS[name][1]}}" if place in part else "" for name, part in self.costs.items()
        ]


def _by_dim(found: _Found) -> Iterator[str]:
    """Yield the lines of a table with a column for each setting, and how few dims are enough."""
    settings = list(dict.fromkeys(setting for _, setting in found.values))
    shown, main = settings[:MOST_COLUMNS], settings[0]
    dims = sorted({dim for dim, _ in found.values})
    measured = [dim for dim in dims if (dim, main) in found.values]
    full = (measured[-1], main)
    enough = next((dim for dim in measured if found.is_near((dim, main), full)), full[0])
    says = len(measured) > 1 and found.main not in SIGNED
    headings = [f"{metric(found.main).title} {main}".rstrip(), *map(str, shown[1:])]
    yield from aligned(
        [
            ["dims", "bytes", *headings, *(COSTS[name][0] for name in found.costs), ""],
            *(
                [str(dim), f"{dim * FLOAT32_BYTES:,}", *(found.text((dim, setting)) for setting in shown),
                 *found.cost_texts((dim, main)), ENOUGH * (says and dim == enough)]
                for dim in dims
            ),
        ]
    )  # fmt: skip
    if says:
        yield _how_few(enough, full[0], found.text((enough, main)), found.text(full), headings[0])
    if hidden := len(settings) - len(shown):
        yield f"{hidden} more settings are in the file"


def _how_few(enough: int, full: int, value: str, best: str, measure: str) -> str:
    if enough == full:
        return f"no fewer than all {full} dims are within {PERCENT} of {best} ({measure})"
    return (
        f"{enough} of {full} dims are within {PERCENT} of all: {value} and {best} ({measure}),"
        f" {enough * FLOAT32_BYTES:,} and {full * FLOAT32_BYTES:,} bytes per vector"
    )


def _choices(found: _Found) -> Iterator[str]:
    """Yield the lines of a table with a line for each choice, and the cheapest that is near the best."""
    places = sorted(found.values, key=lambda place: place[0])
    best = found.best(places)
    cheapest = min((p for p in places if found.is_near(p, best)), key=found.cost)
    if len(places) > MOST_LINES:
        dims = groupby(places, key=lambda place: place[0])
        places = sorted({*(found.best(list(group)) for _, group in dims), cheapest}, key=lambda p: p[0])
    several = len(found.values) > 1
    common = set.intersection(*(set(setting.items()) for _, setting in found.values)) if several else set()

    def named(place: Place) -> str:
        return str(Setting(dict(item for item in place[1].items() if item not in common)))

    yield from aligned(
        [
            ["dims", metric(found.main).title, *(COSTS[name][0] for name in found.costs), " setting"],
            *(
                [str(place[0]), found.text(place), *found.cost_texts(place),
                 f" {named(place)} {ENOUGH if several and place == cheapest else ''}".rstrip()]
                for place in places
            ),
        ]
    )  # fmt: skip
    if len(found.values) > len(places):
        yield f"the best of each dim; all {len(found.values)} choices are in the file"
    if several:
        which = ", ".join(filter(None, (f"{cheapest[0]} dims", named(cheapest))))
        yield (
            f"the cheapest within {PERCENT} of the best: {which}: {found.text(cheapest)} and"
            f" {found.text(best)} ({metric(found.main).title})"
        )


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines, with numbers under one another and the last column to the left.

    Example:
        >>> list(aligned([["dims", "top-1", ""], ["8", "97.5", "best"]]))
        ['  dims  top-1', '     8   97.5  best']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, last in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
        line = "  ".join(["", *numbers, last]).rstrip()
        yield "".join(sign if sign.isprintable() else "?" for sign in line)
