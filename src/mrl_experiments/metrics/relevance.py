"""Judgments of which documents are relevant to which queries, as BEIR and TREC write them, and metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from mrl_experiments.errors import UserError
from mrl_experiments.files import read_text

Judgments = dict[str, dict[str, int]]  # grade by document, by query
FORMS = {3: (0, 1, 2), 4: (0, 2, 3)}  # columns of BEIR and of TREC: where query, document and grade stand
EXPECTED = (
    "query, document and a whole number in three columns (BEIR), or query, 0, document and number (TREC)"
)


def read_judgments(path: Path) -> Judgments:
    """Read a file of judgments, a query and a document in each line; the first line may be a heading.

    Raises:
        UserError: If a line is none or says something twice, or if a query has no relevant document.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is no file", expected="judgments of relevance, such as qrels/test.tsv of BEIR"
        )
    judgments: Judgments = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split("\t") if "\t" in line else line.split()
        if not cells:
            continue
        places = FORMS.get(len(cells))
        query, document, grade = (cells[place] for place in places) if places else ("", "", "")
        if not grade.strip().lstrip("-").isdecimal():
            if number == 1 and grade.strip().isalpha():  # a heading
                continue
            raise UserError(f"{path}, line {number}: {line[:60]!r}", expected=EXPECTED)
        if document in judgments.setdefault(query, {}):
            raise UserError(
                f"{path}, line {number}: query {query} and document {document} stand there twice",
                expected="one judgment of each pair",
                remedy="remove one of them",
            )
        judgments[query][document] = int(grade)
    none = [query for query, grades in judgments.items() if max(grades.values()) <= 0]
    if none or not judgments:
        raise UserError(
            f"{path}: {len(none)} queries have no relevant document, such as {none[0]}"
            if none
            else f"{path} holds no judgment",
            expected="a document with a grade of 1 or more for each query",
            remedy="leave out queries that have none: no ranking of theirs is better than another",
        )
    return judgments


def rows_of(ids: NDArray[np.str_] | None, wanted: Sequence[str], what: str, path: Path) -> dict[str, int]:
    """Return the row of each wanted id.

    Args:
        ids: (N,) of a file of embeddings.
        wanted: Those that judgments name.
        what: "query" or "document", for messages.
        path: The judgments.

    Raises:
        UserError: If there are no ids, one stands there twice, or a wanted one is missing.
    """
    if ids is None:
        raise UserError(
            f"the {what} embeddings have no ids, by which {path} names them",
            expected="an array or a column ids of strings or integers; of x.npy in x.ids.npy or, an id per "
            "line, x.ids.txt",
        )
    if len(places := {name: row for row, name in enumerate(ids.tolist())}) < len(ids):
        name, count = Counter(ids.tolist()).most_common(1)[0]
        raise UserError(f"the {what} id {name} stands there {count} times", expected="ids without repetition")
    if missing := [name for name in wanted if name not in places]:
        raise UserError(
            f"{len(missing)} of {len(wanted)} {what} ids of {path} are not those of embeddings, such as "
            f"{missing[0]} (there: {ids[0]}, ...)",
            expected=f"the embeddings of every {what} that is judged",
        )
    return {name: places[name] for name in wanted}


def scores(
    ranked: NDArray[np.int64], grades: Sequence[Mapping[int, int]], first: int, k: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Return nDCG@first, MRR@first, and recall@k for each k, of each query (Q,), by trec_eval.

    nDCG: the gain of a document is its grade, divided by log2(1 + rank); their sum over that of the best
    order. MRR: 1 over the rank of the first relevant document, 0 where none is among the first. recall: of
    all that are relevant.

    Args:
        ranked: (Q, K) rows of documents, the best first.
        grades: Q times the grade of each judged document, by row.
        first: Ranks that nDCG and MRR look at.
        k: Those of recall, each at most K.
    """
    judged = {str(q): {str(d): grade for d, grade in one.items()} for q, one in enumerate(grades)}
    measures = {f"ndcg_cut_{first}": f"nDCG@{first}", "recip_rank": f"MRR@{first}"}
    values = _by_trec_eval(ranked[:, :first], judged, measures)
    return values | _by_trec_eval(ranked, judged, {f"recall_{count}": f"recall@{count}" for count in k})


def _by_trec_eval(
    ranked: NDArray[np.int64], judged: Mapping[str, Mapping[str, int]], measures: Mapping[str, str]
) -> dict[str, NDArray[np.float64]]:
    run = {
        str(q): {str(d): -float(rank) for rank, d in enumerate(row)} for q, row in enumerate(ranked.tolist())
    }
    found = pytrec_eval.RelevanceEvaluator(judged, set(measures)).evaluate(run)
    each = [found[query] for query in run]
    return {name: np.array([values[measure] for values in each]) for measure, name in measures.items()}
