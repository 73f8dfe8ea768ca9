"""Tables as Markdown, LaTeX and CSV, in which no text from outside is markup, a command or a formula."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

FORMULA = re.compile(r"[=+@\t\r-]")  # begins one
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
        "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "\n": " ", "\r": " ",
    }
)  # fmt: skip
MARKDOWN = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "\\`|*"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " ", "\r": " "}
)


def markdown_rows(rows: Sequence[Sequence[str]], keys: int | None = None) -> str:
    r"""Return a Markdown table, whose first row is its heading; columns after the first `keys` are numbers.

    Example:
        >>> print(markdown_rows([["dim", "a|b"], ["8", "0.5"]], keys=1))
        | dim | a\|b |
        | --- | ---: |
        | 8 | 0.5 |
    """
    header, *body = rows
    keys = len(header) if keys is None else keys
    rule = ["---"] * keys + ["---:"] * (len(header) - keys)
    return "\n".join(f"| {' | '.join(map(escaped_markdown, row))} |" for row in (header, rule, *body))


def latex_rows(rows: Iterable[Sequence[str]]) -> list[str]:
    r"""Return the lines of a LaTeX table with booktabs' rules; the first row is its heading.

    Example:
        >>> latex_rows([["dim", "%"], ["8", "50"]])
        ['\\toprule', 'dim & \\% \\\\', '\\midrule', '8 & 50 \\\\', '\\bottomrule']
    """
    header, *body = (" & ".join(map(escaped, row)) + r" \\" for row in rows)
    return [r"\toprule", header, r"\midrule", *body, r"\bottomrule"]


def csv_text(records: Iterable[Sequence[str]]) -> str:
    r"""Return records as CSV in which a spreadsheet finds no formula.

    Example:
        >>> csv_text([["name", "value"], ["=1+1", "-0.5"]])
        "name,value\n'=1+1,-0.5\n"
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(map(escaped_csv, record) for record in records)
    return file.getvalue()


def escaped(text: str) -> str:
    """Return text for LaTeX."""
    # After a row's end, a bracket or a star would be an option of that end.
    return "{}" * text.startswith(("[", "*")) + text.translate(LATEX)


def escaped_markdown(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.translate(MARKDOWN).replace("](", "]\\(")  # no links


def escaped_csv(text: str) -> str:
    """Return text for a CSV file that a spreadsheet does not take for a formula."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
