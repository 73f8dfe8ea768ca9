"""Findings as Markdown, CSV and LaTeX, and as what the page shows."""

from collections.abc import Sequence

from mrl_experiments.report.claims.claim import HELD, NOT_HELD, UNDECIDED, UNTESTABLE, Claim, Finding
from mrl_experiments.report.claims.estimates import Estimate
from mrl_experiments.report.formats import csv_text, escaped, markdown_rows
from mrl_experiments.report.metrics import MISSING

HEADINGS = ("Claim of the paper", "Verdict", "Ours", "95 % interval", "Paper", "Test", "On", "Source")
WIDTHS = (4.2, 2, 2.4, 2.4, 2.4, 3.6, 2.4, 2.2)  # in LaTeX, cm
NOTE = (
    "Held and not held go by the interval over at least three seeds (Student's t) at the dim found; with"
    " fewer seeds, or where the interval holds the bound, a claim is not decided. The interval of one seed is"
    " over samples (binomial) or random splits; – where neither is known. Paper: the same test of its printed"
    " values."
)
UNITS = {"points": "points", "x": "times"}


def record(finding: Finding) -> tuple[str, ...]:
    """Return a finding as text, one part a heading."""
    claim = finding.claim
    if claim.test is None:
        parts = [finding.reason, MISSING, MISSING, MISSING, MISSING]
    elif finding.block is None or finding.ours is None:
        parts = [finding.reason, MISSING, MISSING, test(claim), MISSING]
    else:
        parts = [
            estimate(claim, finding.ours),
            interval(claim, finding.ours),
            estimate(claim, finding.paper),
            test(claim),
            finding.block.title,
        ]
    return (claim.title, finding.verdict, *parts, claim.source)


def test(claim: Claim) -> str:
    """Say what is compared with what."""
    return f"{claim.figure}: {'at most' if claim.at_most else 'at least'} {claim.bound:g} {UNITS[claim.unit]}"


def estimate(claim: Claim, found: Estimate | None) -> str:
    """Write a figure and where it was found."""
    return MISSING if found is None else f"{_number(claim, found.value)} ({found.where})"


def interval(claim: Claim, found: Estimate) -> str:
    """Write an interval and what it is over."""
    if found.interval is None:
        return MISSING
    low, high = (_number(claim, end) for end in (found.interval.low, found.interval.high))
    return f"{low} to {high} ({found.interval.over})"


def counted(findings: Sequence[Finding]) -> str:
    """Count the verdicts in a sentence."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in (HELD, NOT_HELD, UNDECIDED, UNTESTABLE))


def markdown(findings: Sequence[Finding]) -> str:
    """Return the findings as a Markdown table."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *map(record, findings)]
    return f"**The paper's claims: {counted(findings)}**\n\n{markdown_rows(rows)}\n\n{NOTE}\n"


def comma_separated(findings: Sequence[Finding]) -> str:
    """Return the findings as CSV: numbers in the claim's unit, nothing where missing."""
    records = [
        ["name", "claim", "source", "test", "unit", "bound", "dataset", "split", "model", "setting", "ours",
         "where", "low", "high", "over", "seeds", "paper", "verdict", "reason"]
    ]  # fmt: skip
    for finding in findings:
        claim, block, ours = finding.claim, finding.block, finding.ours
        place = [block.dataset, block.split, block.model, block.setting] if block else [""] * 4
        found = [_exact(claim, ours.value), ours.where] if ours else [""] * 2
        ends = ours.interval if ours else None
        bounds = [""] * 4
        if ends:
            bounds = [_exact(claim, ends.low), _exact(claim, ends.high), ends.over, str(ends.seeds)]
        paper = _exact(claim, finding.paper.value) if finding.paper else ""
        described = [claim.name, claim.title, claim.source, claim.figure, claim.unit, f"{claim.bound:g}"]
        records.append([*described, *place, *found, *bounds, paper, finding.verdict, finding.reason])
    return csv_text(records)


def latex(findings: Sequence[Finding]) -> str:
    """Return the findings as a LaTeX table for the packages booktabs and longtable."""
    columns = "".join(rf">{{\raggedright\arraybackslash}}p{{{width}cm}}" for width in WIDTHS)
    body = [" & ".join(map(escaped, row)) + r" \\" for row in (HEADINGS, *map(record, findings))]
    return "\n".join(
        [
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{The paper's claims. {escaped(NOTE)}}} \\",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{longtable}",
            "",
        ]
    )


def _number(claim: Claim, value: float) -> str:
    scaled = value * claim.scale
    return f"{scaled:+.2f}" if claim.unit == "points" else f"{scaled:.3g}"


def _exact(claim: Claim, value: float) -> str:
    return f"{value * claim.scale:.6g}"
