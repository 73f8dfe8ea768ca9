"""A claim of the paper, the test that decides it, and what came of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mrl_experiments.report.claims.case import Case, Samples
from mrl_experiments.report.claims.estimates import Estimate
from mrl_experiments.report.entries import Entry
from mrl_experiments.report.pivot import Block, Counterparts, beside, blocks
from mrl_experiments.report.views import View

HELD, NOT_HELD, UNTESTABLE = "held", "not held", "not testable here"


@dataclass(frozen=True, kw_only=True)
class Claim(View):
    """What the paper says, in our words (`title`), and how rows decide it; as a View, which rows.

    source: where it says so. figure: what the test gives, in words. unit: "points" (of accuracy or mAP) or
    "x", a factor. bound: it holds from this figure on, or with `at_most` up to it.
    over: settings whose values are averaged. test: None where no row can decide it; reason: why not.
    """

    source: str
    figure: str = ""
    unit: str = "points"
    bound: float = 0.0
    at_most: bool = False
    over: tuple[str, ...] = ()
    test: Callable[[Case], Estimate | None] | None = None
    reason: str = ""

    @property
    def scale(self) -> float:
        """What estimates are multiplied by to have the claim's unit."""
        return 100.0 if self.unit == "points" else 1.0


@dataclass(frozen=True)
class Finding:
    """A claim on the rows of one block: ours and the paper's own figure by the same test.

    block: None where there were no rows to test it on. fault: what is wrong with the rows, or nothing.
    """

    claim: Claim
    block: Block | None = None
    ours: Estimate | None = None
    paper: Estimate | None = None
    fault: str = ""

    @property
    def verdict(self) -> str:
        """Whether the figure itself, whatever its interval, is on the claim's side of the bound."""
        if self.ours is None:
            return UNTESTABLE
        distance = self.ours.value * self.claim.scale - self.claim.bound
        return HELD if (-distance if self.claim.at_most else distance) >= 0 else NOT_HELD

    @property
    def clear(self) -> bool | None:
        """Whether the bound lies outside the interval; None without an interval."""
        if self.ours is None or self.ours.interval is None:
            return None
        interval = self.ours.interval
        return not interval.low * self.claim.scale < self.claim.bound < interval.high * self.claim.scale

    @property
    def reason(self) -> str:
        """Say why it could not be tested, or nothing."""
        if self.ours is not None:
            return ""
        return (
            self.fault or self.claim.reason or f"no rows of {' and '.join(self.claim.evaluations)} to compare"
        )


def judge(
    claims: Sequence[Claim],
    ours: Sequence[Entry],
    paper: Mapping[str, Sequence[Entry]],
    counterparts: Counterparts,
) -> list[Finding]:
    """Test each claim on each data set and model with rows for it; one finding says so where there are none.

    paper: the published entries by table.
    """
    samples = _samples(ours)
    findings = []
    for claim in claims:
        theirs = [entry for table in claim.paper for entry in paper.get(table, ())]
        findings += list(_tested(claim, ours, theirs, counterparts, samples)) or [Finding(claim)]
    return findings


def _tested(
    claim: Claim,
    ours: Sequence[Entry],
    paper: Sequence[Entry],
    counterparts: Counterparts,
    samples: Samples,
) -> Iterator[Finding]:
    if claim.test is None:
        return
    shown = ("line", "dim", *claim.over)
    for block, found in blocks(ours, claim, shown).items():
        try:
            estimate = claim.test(Case(found, claim.over, samples))
        except (ArithmeticError, LookupError, ValueError) as error:  # rows of others may lack a setting
            yield Finding(claim, fault=f"rows that cannot be compared ({type(error).__name__}: {error})")
            continue
        if estimate is not None:
            published = beside(paper, claim, block, shown, counterparts)
            yield Finding(claim, block, estimate, claim.test(Case(published, claim.over, {})))


def _samples(entries: Sequence[Entry]) -> Samples:
    """Read how many samples each evaluation measured on; those that took fewer queries say so."""
    counts: dict[tuple[str, str, str], int] = {}
    for metric in ("samples", "queries"):
        for entry in entries:
            if entry.row.metric == metric and entry.row.value >= 1:
                place = entry.row.dataset, entry.row.split, entry.row.evaluation
                counts[place] = min(int(entry.row.value), counts.get(place, int(entry.row.value)))
    return counts
