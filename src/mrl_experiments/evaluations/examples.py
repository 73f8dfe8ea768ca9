"""Examples to look at: which classes few dims confuse, and what they find for the same queries."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.directions import unit_prefixes
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.evaluations.funnel import funnel_stages
from mrl_experiments.examples import Confusion, Examples, Query, Sample, Stage, plain_text
from mrl_experiments.metrics.ranking import relevant_last
from mrl_experiments.results import Measurement
from mrl_experiments.search.database import labelled, neighbours
from mrl_experiments.search.neighbours import nearest
from mrl_experiments.search.same_rows import same_rows, without_self

Rows = NDArray[np.int64]


def examples(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    columns: int,
    shown: int,
    k: int,
    shortlists: Sequence[int],
    confusions: int,
    seed: int,
) -> Iterator[Measurement]:
    """Yield 1-NN accuracy at a few dims, with examples: confusions, neighbours, and ways through a funnel.

    top1: queries whose nearest neighbour has their label / Q; a tie counts against the label.
    confused_pairs: pairs (class, other class) of which a query is taken for the other. The measurement at the
    last dim holds the examples.

    Args:
        columns: How many of `dims` stand side by side: the least, the largest, and others of even ratio.
        shown: Queries, of all kinds in turn: found by many dims only, by none, by all.
        k: Neighbours of each.
        shortlists: Lengths that a funnel keeps at all dims but the last.
        confusions: The commonest of each dim.
        seed: Draws the queries.

    Raises:
        UserError: Without a database, when k exceeds N, or when a query's label is not in the database.
    """
    database = labelled(queries, database)
    few = spread(dims, columns)
    near = neighbours(queries, database, few, k)
    positions = np.stack([near[dim].positions for dim in few], axis=1)  # (Q, L, k)
    found = database.labels[positions[:, :, 0]]
    hits = found == queries.labels[:, None]
    pairs = [_pairs(queries.labels, labels) for labels in found.T]
    samples = _Samples(queries, database)
    rows = select(hits, queries.labels, shown, seed)
    ways = _funnels(queries, database, rows, funnel_stages(few, shortlists, k), k, samples)
    asked = [
        Query(samples.query(row), [samples.found(places) for places in positions[row]], way)
        for row, way in zip(rows, ways, strict=True)
    ]
    common = dict.fromkeys(pair for counts in pairs for pair, _ in counts.most_common(confusions))
    confused = [_confusion(pair, pairs, queries.labels, found, positions, samples) for pair in common]
    top1 = hits.mean(axis=0).tolist()
    for dim, share, counts in zip(few, top1, pairs, strict=True):
        yield Measurement(dim, "top1", share)
        yield Measurement(
            dim, "confused_pairs", float(len(counts)),
            examples=Examples(few, top1, asked, confused, samples.listed) if dim == few[-1] else None,
        )  # fmt: skip


def spread(dims: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of ascending dims, the first and the last among them, in even ratios.

    Example:
        >>> spread([8, 16, 32, 64, 128, 256, 512], 3)
        [8, 64, 512]
    """
    wanted = np.geomspace(dims[0], dims[-1], count) if count > 1 else [dims[-1]]
    return sorted({min(dims, key=lambda dim: abs(np.log(dim / ideal))) for ideal in wanted})


def select(hits: NDArray[np.bool_], labels: Rows, count: int, seed: int) -> list[int]:
    """Return `count` queries, of different classes where there are as many.

    Args:
        hits: (Q, L) which dims find a neighbour of the query's class.
        labels: (Q,).
        count: How many.
        seed: Draws them.
    """
    kinds: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(hits)).tolist():
        kinds[tuple(hits[row].tolist())].append(row)
    in_turn = [kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind[0], not kind[-1]))]
    order = [row for turn in zip_longest(*in_turn) for row in turn if row is not None]
    first_of_class = {int(labels[row]): row for row in reversed(order)}
    again = [row for row in order if first_of_class[int(labels[row])] != row]
    return [*(row for row in order if first_of_class[int(labels[row])] == row), *again][:count]


@dataclass
class _Samples:
    """Samples that examples name, each once."""

    queries: Embeddings
    database: Embeddings
    listed: list[Sample] = field(default_factory=list)
    places: dict[tuple[bool, int], int] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)  # a number for each label, which may be any

    def query(self, row: int) -> int:
        """Return the place of a query."""
        return self._place(True, int(row))

    def found(self, rows: Rows) -> list[int]:
        """Return the places of rows of the database."""
        return [self._place(False, int(row)) for row in rows]

    def _place(self, of_queries: bool, row: int) -> int:
        if (of_queries, row) not in self.places:
            part = self.queries if of_queries else self.database
            label, names = int(part.labels[row]), part.classes.get("name", ())
            name = plain_text(str(names[label])) if 0 <= label < len(names) else str(label)
            number = self.classes.setdefault(label, len(self.classes))
            self.places[of_queries, row] = len(self.listed)
            self.listed.append(Sample(of_queries, row, number, name))
        return self.places[of_queries, row]


def _pairs(labels: Rows, found: Rows) -> Counter[tuple[int, int]]:
    wrong = labels != found
    return Counter(zip(labels[wrong].tolist(), found[wrong].tolist(), strict=True))


def _confusion(
    pair: tuple[int, int],
    pairs: Sequence[Counter[tuple[int, int]]],
    labels: Rows,
    found: Rows,
    positions: NDArray[np.int64],
    samples: _Samples,
) -> Confusion:
    """Describe a confused pair by the first query that the least dim so takes."""
    counts = [count[pair] for count in pairs]
    column = next(column for column, count in enumerate(counts) if count)
    row = int(np.flatnonzero((labels == pair[0]) & (found[:, column] == pair[1]))[0])
    (other,) = samples.found(positions[row, column, :1])
    return Confusion(samples.query(row), other, counts, int((labels == pair[0]).sum()))


def _funnels(
    queries: Embeddings,
    database: Embeddings,
    rows: Sequence[int],
    stages: Sequence[tuple[int, int]],
    k: int,
    samples: _Samples,
) -> list[list[Stage]]:
    """Return for each query of `rows` what is left after each stage; ties count against its class."""
    same, (dim, keep) = same_rows(queries, database), stages[0]
    asked, labels = queries.features[rows], queries.labels[rows]
    reach = min(keep + same, len(database))
    found = nearest(asked, database.features, [dim], reach, (labels, database.labels))[dim].positions
    if same:
        (found,) = without_self(np.asarray(rows), found)
    ways: list[list[Stage]] = [[] for _ in rows]
    for dim, keep in stages:
        scores = np.stack([
            unit_prefixes(np.array(database.features[places]), dim) @ unit_prefixes(query[None], dim)[0]
            for query, places in zip(asked, found, strict=True)
        ])  # fmt: skip
        order = relevant_last(scores, database.labels[found] == labels[:, None])[:, :keep]
        found = np.take_along_axis(found, order, axis=1)
        right = (database.labels[found] == labels[:, None]).sum(axis=1).tolist()
        for way, places, count in zip(ways, found, right, strict=True):
            way.append(Stage(dim, len(places), count, samples.found(places[:k])))
    return ways
