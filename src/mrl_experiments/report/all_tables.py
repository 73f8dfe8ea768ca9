"""The tables of the report. To add one, describe it here; an evaluation that none shows gets one anyway."""

from collections.abc import Iterable

import pandas as pd

from mrl_experiments.metric_names import DEVIATION
from mrl_experiments.report.specs import LINEAR, MRL, Table, View, elsewhere

OTHERS = "evaluation-"  # begins the names of tables that are not described here
LONGEST = 60  # characters of an evaluation's name; the names of its files hold more

CURVE = ("mAP@10", "mAP@25", "mAP@50", "mAP@100", "P@10", "P@25", "P@50", "P@100")
RETRIEVAL = ("MFLOPs", "top1", "top5", "top10", *CURVE)
RECALL = ("recall@1", "recall@5", "recall@10")
RECALLED = ("recall@10", "recall@100")
KNN = Table(
    name="table02", title="1-NN: top-1", paper=("table02",), evaluations=("knn",), metrics=("top1",),
    settings={"k": 1},
)  # fmt: skip
COSINES = Table(
    name="table06", title="Mean cosine of images and texts", paper=("table06",), evaluations=("cosine_span",),
    metrics=("cosine",), index=("pairs", "dim"),
)  # fmt: skip
SEARCHED = Table(
    name="table08", title="Retrieval", paper=("table08",), evaluations=("retrieval",), metrics=RETRIEVAL,
    index=("line", "dim"), columns=("metric",), interpolated="with",
)  # fmt: skip
ADAPTIVE = Table(
    name="table11", title="Adaptive retrieval, shortlist of 200", paper=("table11",),
    evaluations=("adaptive_retrieval",), metrics=("MFLOPs", "top1", *CURVE), index=("dim", "rerank"),
    columns=("metric",), settings={"shortlist": 200},
)  # fmt: skip
FUNNEL = Table(
    name="table13", title="Funnel retrieval", paper=("table13",), evaluations=("funnel",), metrics=RETRIEVAL,
    index=("dim", "shortlist"), columns=("metric",), ignore=("stages",),
)  # fmt: skip
LENGTHS = Table(
    name="table30", title="Length of the shortlist", paper=("table30",), index=("rerank", "shortlist"),
    evaluations=("adaptive_retrieval",), metrics=("MFLOPs", "top1", *CURVE), columns=("metric",),
    settings={"dim": 16},
)  # fmt: skip
CROSS_MODAL = Table(
    name="table-recall", title="Retrieval between images and texts", evaluations=("cross_modal",),
    metrics=RECALL, index=("direction", "dim"), columns=("line", "metric"),
)  # fmt: skip
TABLES = (
    Table(
        name="table01", title="Linear classification: top-1", paper=("table01",), evaluations=LINEAR,
        metrics=("top1",),
    ),
    Table(
        name="table01-cost", title="Linear classification and the cost of the whole network",
        evaluations=("linear",), metrics=("network_MFLOPs", "top1"), index=("line", "dim"),
        columns=("metric",),
    ),
    KNN,
    Table(
        name="table03", title="Adaptive classification with the paper's thresholds", paper=("table03",),
        evaluations=("adaptive_classification",), metrics=("expected_dim", "top1"), columns=("metric",),
        settings={"policy": "paper"}, ignore=("cap",),
    ),
    elsewhere(KNN, "unseen", "table02-unseen", "1-NN of unseen classes: top-1"),
    Table(
        name="table04", title="k-NN of a vision transformer, k=20", paper=("table04",), evaluations=("knn",),
        metrics=("top1", "top5"), columns=("line", "metric"), settings={"k": 20, "model": "*vit*"},
        theirs={"model": "jft_vit_b16"},
    ),
    Table(
        name="table05", title="1-NN at dims never trained: top-1", evaluations=("knn",), metrics=("top1",),
        settings={"k": 1}, interpolated="only",
    ),
    COSINES,
    elsewhere(COSINES, "unseen", "table06-unseen", "Mean cosine of images and texts of unseen classes"),
    Table(
        name="table07", title="Masked language model: tokens found", paper=("table07",),
        evaluations=("language",), metrics=("top1",), settings={"model": "*bert*"},
    ),
    Table(
        name="table-language", title="Causal language model", evaluations=("language",),
        metrics=("perplexity", "bits_per_byte"), columns=("line", "metric"),
    ),
    Table(
        name="table-decoding", title="Adaptive decoding of a causal language model",
        evaluations=("adaptive_decoding",), columns=("metric",), ignore=("cap", "delta"),
        metrics=("expected_dim", "head_MFLOPs", "tokens_per_s", "top1", "perplexity", "bits_per_byte"),
        index=("line", "policy", "dim", "threshold", "drop"),
    ),
    SEARCHED,
    elsewhere(SEARCHED, "shift", "table09", "Retrieval with shifted queries", "table09"),
    elsewhere(SEARCHED, "unseen", "table10", "Retrieval of unseen classes", "table10"),
    ADAPTIVE,
    elsewhere(
        ADAPTIVE, "unseen", "table12",
        "Adaptive retrieval of unseen classes, shortlist of 200", "table12",
    ),
    FUNNEL,
    elsewhere(FUNNEL, "unseen", "table14", "Funnel retrieval of unseen classes", "table14"),
    Table(
        name="table15", title="Few-shot nearest class mean: top-1", paper=("table15",), role="shift",
        evaluations=("few_shot",), metrics=("top1",), columns=("line", "shots"),
    ),
    Table(
        name="table16", title="Long-tail stream", paper=("table16",), evaluations=("stream",),
        metrics=("pretrain_head", "novel_head", "pretrain_tail", "novel_tail", "mean_per_class", "top1"),
        index=("line", "dim"), columns=("metric",), role="stream",
    ),
    Table(
        name="table17", title="Linear classification under shift: top-1", paper=("table17",), role="shift",
        evaluations=("linear",), metrics=("top1",), columns=("split", "line"),
    ),
    Table(
        name="table18", title="Zero-shot classification: top-1", paper=("table18",),
        evaluations=("zero_shot",), metrics=("top1",),
    ),
    Table(
        name="table18-shift", title="Zero-shot classification under shift: top-1", paper=("table18",),
        role="shift", evaluations=("zero_shot",), metrics=("top1",), columns=("split", "line"),
    ),
    Table(
        name="table18-unseen", title="Zero-shot classification of unseen classes", role="unseen",
        evaluations=("zero_shot",), metrics=("top1", "top5"), columns=("line", "metric"),
    ),
    CROSS_MODAL,
    elsewhere(
        CROSS_MODAL, "unseen", "table-recall-unseen",
        "Retrieval between images and texts of unseen classes",
    ),
    Table(
        name="table-ir", title="Retrieval of judged documents", evaluations=("ir",),
        metrics=("nDCG@10", "nDCG@10_ci95", "nDCG@10_lost", "nDCG@10_lost_ci95", "MRR@10", *RECALLED),
        index=("line", "dim"), columns=("metric",), interpolated="with",
    ),
    Table(
        name="table-agreement", title="Neighbours of the full vectors that are kept",
        evaluations=("agreement",), metrics=("overlap@10", "overlap@100", "rank_correlation"),
        index=("line", "dim"), columns=("metric",), interpolated="with",
    ),
    Table(
        name="table-served", title="An engine beside exact search and AdaptiveIndex", evaluations=("served",),
        metrics=("recall@10", "mAP@10", "same_ids", "latency_ms", "single_latency_ms"),
        index=("index", "dim", "shortlist"), columns=("metric",),
    ),
    Table(
        name="table22", title="Share first correct at each dim, and right at any", paper=("table22",),
        evaluations=("adaptive_classification",), metrics=("first_correct", "top1", "always_wrong"),
        settings={"policy": "oracle"}, columns=("line", "metric"),
    ),
    Table(
        name="table23", title="Right at any dim, under shift: top-1", paper=("table23",), role="shift",
        evaluations=("adaptive_classification",), metrics=("top1",), settings={"policy": "oracle"},
        index=("split",),
    ),
    Table(
        name="table24", title="Superclasses and their classes", paper=("table24",),
        evaluations=("superclass",), metrics=("classes",), settings={"within": "?*"}, index=("within",),
        columns=("metric",),
    ),
    Table(
        name="table25", title="Superclasses: top-1", paper=("table25", "figure10"),
        evaluations=("superclass",), metrics=("top1",), settings={"superclasses": 30},
    ),
    Table(
        name="table25-within", title="Classes inside their superclass: top-1", evaluations=("superclass",),
        metrics=("top1",), settings={"within": "all"},
    ),
    Table(
        name="table-trends", title="Classes by the trend of their accuracy", paper=("figure12",),
        evaluations=("trends",), metrics=("classes",), settings={"trend": "?*"}, index=("trend",),
    ),
    Table(
        name="table26", title="Fine-tuning of a fixed-feature model: top-1", paper=("table26",),
        evaluations=("linear",), metrics=("top1",), settings=MRL, ablation="unfrozen",
    ),
    Table(
        name="table27", title="Weights of the losses", paper=("table27",), evaluations=("linear",),
        metrics=("top1", "top5"), columns=("line", "metric"), settings=MRL, ablation="weights",
    ),
    Table(
        name="table28", title="The first nested dim: top-1", paper=("table28",), evaluations=("linear",),
        metrics=("top1",), settings=MRL, ablation="first",
    ),
    Table(
        name="table29", title="Spacing of the nested dims: 1-NN top-1", paper=("table29",),
        evaluations=("knn",), metrics=("top1",), settings={"k": 1, **MRL}, ablation="spacing",
    ),
    LENGTHS,
    elsewhere(LENGTHS, "unseen", "table31", "Length of the shortlist, unseen classes", "table31"),
)  # fmt: skip


def others(found: pd.DataFrame, described: Iterable[View]) -> list[Table]:
    """Return a table of all metrics of each evaluation that no view of this role shows, by its settings."""
    shown = {(name, view.role) for view in described for name in view.evaluations}
    tables = []
    for (name, role), group in found.groupby(["evaluation", "role"]):
        if (name, role) in shown or not name.isidentifier() or len(name) > LONGEST:
            continue
        metrics = [m for m in group.metric.unique() if m != "samples" and not m.endswith(DEVIATION)]
        settings = dict.fromkeys(setting for texts in group.settings for setting in texts)
        tables.append(Table(
            name=f"{OTHERS}{name}" + f"-{role}" * (role != "main"), title=name.replace("_", " ").capitalize(),
            paper=(), role=role, evaluations=(name,), index=("dim", *settings), columns=("line", "metric"),
            interpolated="with", metrics=tuple(metrics),
        ))  # fmt: skip
    return tables
