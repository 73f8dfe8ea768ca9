"""A claim of the paper, the test that decides it, and what came of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from mrl_experiments.report.aggregate import Block, Counterparts, blocks
from mrl_experiments.report.claims.case import Case, Samples
from mrl_experiments.report.claims.estimates import Estimate
from mrl_experiments.report.specs import View

HELD, NOT_HELD, UNDECIDED, UNTESTABLE = "held", "not held", "not decided", "not testable here"
LEAST = 3  # seeds of an interval that decides


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
    def within(self) -> bool:
        """True if the figure itself, whatever its interval, is on the claim's side of the bound."""
        assert self.ours is not None
        distance = self.ours.value * self.claim.scale - self.claim.bound
        return (-distance if self.claim.at_most else distance) >= 0

    @property
    def verdict(self) -> str:
        """Held or not held where an interval over at least three seeds lies on one side of the bound."""
        if self.ours is None:
            return UNTESTABLE
        interval = self.ours.interval
        if interval is None or interval.seeds < LEAST:
            return UNDECIDED
        if interval.low * self.claim.scale < self.claim.bound < interval.high * self.claim.scale:
            return UNDECIDED
        return HELD if self.within else NOT_HELD

    @property
    def reason(self) -> str:
        """Say why it could not be tested, or nothing."""
        if self.ours is not None:
            return ""
        untold = f"no rows of {' and '.join(self.claim.evaluations)} to compare"
        return self.fault or self.claim.reason or untold


def judge(
    claims: Sequence[Claim], ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts
) -> list[Finding]:
    """Test each claim on each data set and model with rows for it; one finding says so where there are none.

    ours, paper: tidy frames.
    """
    samples = _samples(ours)
    findings = []
    for claim in claims:
        findings += list(_tested(claim, ours, paper, counterparts, samples)) or [Finding(claim)]
    return findings


def _tested(
    claim: Claim, ours: pd.DataFrame, paper: pd.DataFrame, counterparts: Counterparts, samples: Samples
) -> Iterator[Finding]:
    if claim.test is None:
        return
    for block, found, theirs in blocks(claim, ("line", "dim", *claim.over), ours, paper, counterparts):
        try:
            estimate = claim.test(Case(found, claim.over, samples))
        except (ArithmeticError, LookupError, ValueError) as error:  # rows of others may lack a setting
            yield Finding(claim, fault=f"rows that cannot be compared ({type(error).__name__}: {error})")
            continue
        if estimate is not None:
            yield Finding(claim, block, estimate, claim.test(Case(theirs, claim.over, {})))


def _samples(frame: pd.DataFrame) -> Samples:
    """Return how many samples each evaluation measured on; those that took fewer queries say so."""
    counts = frame[frame.metric.isin(["samples", "queries"]) & (frame.value >= 1)]
    return counts.groupby(["dataset", "split", "evaluation"]).value.min().astype(int).to_dict()
