"""index=auto: an index chosen for a budget, measured on queries that did not take part in the choice."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.candidates import Candidates
from mrl_experiments.adaptive.retrieval.families import nested_families, wider_families
from mrl_experiments.adaptive.retrieval.quality import recall
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.tuning import Budget, Tuner
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.metrics.ranking import average_precision
from mrl_experiments.notices import print_once
from mrl_experiments.results import Measurement, Setting, measured
from mrl_experiments.search.staged_search import StagedSearch, nested_dims


def auto_retrieval(
    queries: Embeddings,
    database: Embeddings | None,
    dims: Sequence[int],
    *,
    k: int,
    max_loss: float | None,
    max_latency: float | None,
    max_queries: int,
) -> Iterator[Measurement]:
    """Yield the held-out half's mAP@k, its loss against exact search, ms per query and index bytes.

    Without labels the quality is recall@k, of the neighbours that exact search finds. The budget is either
    `max_loss`, the quality lost on new queries like these (kept with 95 % confidence, by `Tuner`), or
    `max_latency`, in ms per query in one batch. A third of the queries chooses; the others test and are
    measured. Where they are too few for `max_loss`, exact search is taken and a line says which loss they
    certify. Small dims are tried first; where their shortlists lose too much, as those of vectors not
    trained nested do, larger ones, indexes of the full width and exact search. `dim` is the chosen D_s,
    `setting` the whole choice. latency_ratio: time of exact search / time of the choice.

    Raises:
        UserError: If nothing keeps the budget.
    """
    budget = Budget(max_loss, max_latency)
    labelled = queries.has_labels and database is not None and database.has_labels
    search = StagedSearch.of(queries, database, k, max_queries, max_queries, labelled=labelled)
    nested = nested_dims(queries, dims)
    if len(search.queries) < 2:
        raise UserError("auto_retrieval of one query", expected="at least two: some choose, the others test")
    whole = IndexSpec((nested[-1],), "Flat", ((nested[-1], search.reach),))
    exact, _ = search.build(whole, Setting())

    nearest = exact.search_stages(search.queries)

    def precision(found: Candidates, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return average_precision(search.relevant(found.ids, rows), k)

    def kept(found: Candidates, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        ids, similarities = search.others(rows, found.ids, found.similarities)
        return share_found(Candidates(similarities, ids), rows)

    ids, similarities = search.others(np.arange(len(search.queries)), nearest.ids, nearest.similarities)
    share_found = recall(Candidates(similarities, ids))
    quality = precision if labelled else kept
    tuner = Tuner(search.queries, nearest, quality, budget, binary=not labelled and k == 1)
    slowest = tuner.measure(exact, tuner.parts[1])
    vectors = search.database.features
    tuned = tuner.choose(
        vectors,
        nested_families(len(vectors), nested, search.reach),
        wider_families(len(vectors), nested, search.reach),
    )
    spec, held_out = tuned.index.spec, tuned.held_out
    if tuned.smallest is not None:
        print_once(
            f"only exact search keeps max_loss={max_loss:g} with {budget.confidence:.0%} confidence, "
            f"{tuner.why()}; evaluation.max_loss={tuned.smallest:.3g} admits more"
        )
    setting = {"index": "auto", "codes": spec.codes, "effort": spec.effort, "stages": spec.stages}
    metric = f"{'mAP' if labelled else 'recall'}@{k}"
    values = {
        metric: held_out.quality,
        f"{metric}_lost": held_out.loss,
        "latency_ms": held_out.latency,
        "latency_ratio": slowest.latency / held_out.latency,
        "index_bytes": tuned.index.shortlist_bytes,
    }
    yield from measured(spec.dims[0], values, setting)
