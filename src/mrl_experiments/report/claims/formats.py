"""Findings as Markdown, CSV and LaTeX, and as what the page shows."""

from collections.abc import Sequence

from mrl_experiments.metric_names import MISSING
from mrl_experiments.report.claims.claim import HELD, NOT_HELD, UNDECIDED, UNTESTABLE, Claim, Finding
from mrl_experiments.report.claims.estimates import Estimate
from mrl_experiments.text_tables import csv_text, escaped, latex_rows, markdown_rows

HEADINGS = ("Claim of the paper", "Verdict", "Ours", "95 % interval", "Paper", "Test", "On", "Source")
COLUMNS = (  # of CSV
    "name", "claim", "source", "test", "unit", "bound", "dataset", "split", "model", "setting", "ours",
    "where", "low", "high", "over", "seeds", "paper", "verdict", "reason",
)  # fmt: skip
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
    claim, ours, paper, block = finding.claim, finding.ours, finding.paper, finding.block
    limit = "at most" if claim.at_most else "at least"
    test = f"{claim.figure}: {limit} {claim.bound:g} {UNITS[claim.unit]}" if claim.test else MISSING
    found = [estimate(claim, ours) if ours else finding.reason, interval(claim, ours), estimate(claim, paper)]
    place = block.title if block and ours else MISSING
    return (claim.title, finding.verdict, *found, test, place, claim.source)


def estimate(claim: Claim, found: Estimate | None) -> str:
    """Write a figure and where it was found."""
    return MISSING if found is None else f"{_number(claim, found.value)} ({found.where})"


def interval(claim: Claim, found: Estimate | None) -> str:
    """Write an interval and what it is over."""
    if found is None or found.interval is None:
        return MISSING
    low, high = (_number(claim, end) for end in (found.interval.low, found.interval.high))
    return f"{low} to {high} ({found.interval.over})"


def counted(findings: Sequence[Finding]) -> str:
    """Count the verdicts in a sentence."""
    verdicts = [finding.verdict for finding in findings]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in (HELD, NOT_HELD, UNDECIDED, UNTESTABLE))


def markdown(findings: Sequence[Finding]) -> str:
    """Return the findings as a Markdown table."""
    table = markdown_rows([HEADINGS, *map(record, findings)])
    return f"**The paper's claims: {counted(findings)}**\n\n{table}\n\n{NOTE}\n"


def comma_separated(findings: Sequence[Finding]) -> str:
    """Return the findings as CSV: numbers in the claim's unit, nothing where missing."""
    records = map(_exact, findings)
    return csv_text([COLUMNS, *([record.get(name, "") for name in COLUMNS] for record in records)])


def _exact(finding: Finding) -> dict[str, str]:
    claim, ours, paper = finding.claim, finding.ours, finding.paper
    found = {"name": claim.name, "claim": claim.title, "test": claim.figure, "bound": f"{claim.bound:g}"}
    found |= {"source": claim.source, "unit": claim.unit, "where": ours.where if ours else ""}
    found |= {"verdict": finding.verdict, "reason": finding.reason}
    numbers = {"ours": ours.value if ours else None, "paper": paper.value if paper else None}
    if ours and ours.interval:
        numbers |= {"low": ours.interval.low, "high": ours.interval.high}
        found |= {"over": ours.interval.over, "seeds": str(ours.interval.seeds)}
    exact = {name: f"{value * claim.scale:.6g}" for name, value in numbers.items() if value is not None}
    return found | exact | (vars(finding.block) if finding.block else {})


def latex(findings: Sequence[Finding]) -> str:
    """Return the findings as a LaTeX table for the packages booktabs and longtable."""
    layout = "".join(rf">{{\raggedright\arraybackslash}}p{{{width}cm}}" for width in WIDTHS)
    caption = rf"\caption{{The paper's claims. {escaped(NOTE)}}} \\"
    rows = latex_rows([HEADINGS, *map(record, findings)])
    return "\n".join([rf"\begin{{longtable}}{{{layout}}}", caption, *rows, r"\end{longtable}", ""])


def _number(claim: Claim, value: float) -> str:
    scaled = value * claim.scale
    return f"{scaled:+.2f}" if claim.unit == "points" else f"{scaled:.3g}"
