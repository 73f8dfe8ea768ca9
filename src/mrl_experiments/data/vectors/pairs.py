"""Queries with documents that answer them: row by row, or as BEIR and TREC judge them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.loaders.loaders import BatchReader, at_once
from mrl_experiments.data.vectors.rows import Rows, check_parts, is_held_out, read_rows
from mrl_experiments.errors import UserError
from mrl_experiments.external.vector_file import READERS, VectorFile, read_matrix, read_vectors
from mrl_experiments.metrics.relevance import read_judgments, rows_of
from mrl_experiments.notices import print_once
from mrl_experiments.search.same_rows import evenly_spaced

QUERIES, POSITIVES = ("queries", "query", "anchor"), ("positives", "positive", "documents", "document")
CORPUS = ("corpus", "documents", "docs")  # what the file of documents in a folder is called
POOL = 100_000  # documents at most in which neighbours are searched
JUDGED = ("qrels.tsv", "qrels/train.tsv")  # never those of a test

Given = str | Sequence[str] | None


class Pairs(NamedTuple):
    """Queries with a document each that answers them, row by row; both may stand in several pairs."""

    queries: Rows
    positives: Rows

    def take(self, which: NDArray[Any]) -> "Pairs":
        """Return some of the pairs, by their places or a mask."""
        return Pairs(self.queries.take(which), self.positives.take(which))


def pair_reader(pairs: Pairs) -> BatchReader:
    """Return a reader of pairs; y (B, 2) says which query and document each is: equal ones may be one."""
    same = np.column_stack([np.unique(side.keys, return_inverse=True)[1] for side in pairs]).astype(np.int64)
    return at_once(lambda index, _: (tuple(side[index] for side in pairs), same[index]))


def files_of(given: Given) -> list[Path]:
    """Return the files of vectors that `data.pairs` names."""
    paths = [Path(path).expanduser() for path in ([given] if isinstance(given, str) else given or [])]
    if len(paths) == 1 and (judged := _judged(paths[0])) is not None:
        return list(judged[:2])
    return paths


def read_pairs(given: str | Sequence[str], width: int, share: float) -> dict[str, Pairs]:
    """Return the pairs of both splits: neither a query nor a document of one is in the other.

    Raises:
        UserError: For files that do not hold pairs, do not fit each other, or hold too few.
    """
    files = files_of(given)
    folder = Path(given).expanduser() if isinstance(given, str) else None
    judged = None if folder is None else _judged(folder)
    found = _of_judgments(*judged, width) if judged else _row_by_row(given, files, width)
    held_out = is_held_out(found.positives.keys, share)
    seen = np.isin(found.queries.keys, found.queries.keys[held_out])
    check_parts(int((~held_out & ~seen).sum()), int(held_out.sum()), f"data.share={share} of the pairs")
    return {"train": found.take(~held_out & ~seen), "val": found.take(held_out)}


def read_queries(
    path: Path, documents: Mapping[str, Rows], share: float, similarity: str
) -> dict[str, Pairs]:
    """Return queries with their nearest document each, by all dims, in both splits of the documents.

    Raises:
        UserError: If the queries cannot be read, are of another width, or too few.
    """
    from mrl_experiments.search.neighbours import nearest  # which loads FAISS

    queries, said = read_rows(read_matrix(path), path)
    print_once(f"queries: {said}")
    width = documents["train"].shape[1]
    if queries.shape[1] != width:
        raise UserError(f"data.queries={path} has {queries.shape[1]} dims", expected=f"{width}, as data.base")
    held_out = is_held_out(queries.keys, share)
    check_parts(int((~held_out).sum()), int(held_out.sum()), f"data.share={share} of the queries")
    found = {}
    for split, asked in (("train", queries.take(~held_out)), ("val", queries.take(held_out))):
        pool = documents[split].take(evenly_spaced(len(documents[split]), POOL))
        near = nearest(asked[:], pool[:], [width], 1, similarity=similarity)[width].positions[:, 0]
        found[split] = Pairs(asked, pool.take(near))
    return found


def _row_by_row(given: str | Sequence[str], files: Sequence[Path], width: int) -> Pairs:
    if len(files) == 1 and files[0].suffix != ".npy":
        sides = [read_matrix(files[0], names) for names in (QUERIES, POSITIVES)]
    elif len(files) == 2:
        sides = [read_matrix(path) for path in files]
    else:
        raise UserError(
            f"data.pairs={given} names {len(files)} array{'s' * (len(files) > 1)}",
            expected="queries and positives: [queries.npy,positives.npy], or a .npz or table with both",
        )
    shapes = [side.shape for side in sides]
    if shapes[0] != shapes[1] or shapes[0][1] != width:
        raise UserError(
            f"data.pairs: queries of shape {shapes[0]} and positives of {shapes[1]}",
            expected=f"as many of each, row by row, with {width} dims as data.base",
        )
    rows = np.arange(len(sides[0]))
    return _paired(sides, (files[0], files[-1]), rows, rows)


def _judged(folder: Path) -> tuple[Path, Path, Path] | None:
    """Return the files of queries, documents and judgments of a folder of BEIR; None of others."""
    if not folder.is_dir() or not any((folder / name).exists() for name in ("qrels.tsv", "qrels")):
        return None
    qrels = next((folder / name for name in JUDGED if (folder / name).is_file()), None)
    there = {path.name: path for path in folder.iterdir()}
    queries, corpus = (
        next((there[f"{name}{form}"] for name in names for form in READERS if f"{name}{form}" in there), None)
        for names in (("queries",), CORPUS)
    )
    if queries is None or corpus is None or qrels is None:
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())[:8]
        raise UserError(
            f"data.pairs={folder} holds {', '.join(found)}",
            expected=f"files of vectors with ids called queries and corpus, and {' or '.join(JUDGED)}",
        )
    return queries, corpus, qrels


def _of_judgments(queries: Path, corpus: Path, qrels: Path, width: int) -> Pairs:
    """Return a pair for each document that is relevant to a query, whatever the grade above 0."""
    judgments = read_judgments(qrels)
    parts: list[VectorFile] = [read_vectors(path) for path in (queries, corpus)]
    for path, part in zip((queries, corpus), parts, strict=True):
        if part.features.shape[1] != width:
            raise UserError(f"{path} has {part.features.shape[1]} dims", expected=f"{width}, as data.base")
    named = [(query, document) for query, grades in judgments.items() for document in grades]
    asked = rows_of(parts[0].ids, [*judgments], "query", qrels)
    found = rows_of(parts[1].ids, [*{document for _, document in named}], "document", qrels)
    relevant = [(asked[q], found[d]) for q, d in named if judgments[q][d] > 0]
    rows = np.array(relevant).T
    return _paired([part.features for part in parts], (queries, corpus), rows[0], rows[1])


def _paired(sides: Sequence[NDArray[Any]], paths: tuple[Path, Path], *rows: NDArray[np.int64]) -> Pairs:
    """Return pairs of some rows of both sides, without those of which one has no direction."""
    read = [read_rows(side, path) for side, path in zip(sides, paths, strict=True)]
    print_once("pairs: " + " | ".join(dict.fromkeys(said for _, said in read)))
    places = []
    for side, (found, _), numbers in zip(sides, read, rows, strict=True):
        place = np.full(len(side), -1)
        place[found.numbers] = np.arange(len(found))
        places.append(place[numbers])
    kept = (places[0] >= 0) & (places[1] >= 0)
    return Pairs(*(found.take(place[kept]) for (found, _), place in zip(read, places, strict=True)))
