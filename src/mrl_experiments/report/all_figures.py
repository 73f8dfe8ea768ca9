"""The figures of the report. To add one, describe it here."""

from mrl_experiments.report.specs import LINEAR, MRL, Figure, elsewhere

SEARCHED = Figure(
    name="figure07", title="Retrieval", paper=("table08", "figure07"), evaluations=("retrieval",), y="mAP@10",
)  # fmt: skip
COSTS = Figure(
    name="figure08", title="Retrieval against its cost", paper=("table08", "table11", "table13"),
    evaluations=("retrieval", "adaptive_retrieval", "funnel"), x="MFLOPs", y="mAP@10",
    series=("line", "evaluation", "index"), joined=("retrieval",), ignore=("rerank", "shortlist", "stages"),
)  # fmt: skip
TIMES = Figure(
    name="figure08-time", title="Retrieval against measured time, best searches", x="latency_ms", y="mAP@10",
    evaluations=("adaptive_retrieval", "funnel"), joined=(), best=True,
    series=("line", "evaluation", "index"), ignore=("rerank", "shortlist", "stages"),
)  # fmt: skip
ZERO_SHOT = Figure(
    name="figure-zero-shot", title="Zero-shot classification", paper=("table18",), evaluations=("zero_shot",),
    y="top1",
)  # fmt: skip
CROSS_MODAL = Figure(
    name="figure-recall", title="Retrieval between images and texts", evaluations=("cross_modal",),
    y="recall@1",
)  # fmt: skip
FIGURES = (
    Figure(
        name="figure02", title="Linear classification", paper=("table01",), evaluations=LINEAR, y="top1",
    ),
    Figure(
        name="figure02-cost", title="Linear classification against the cost of the whole network",
        evaluations=("linear",), x="network_MFLOPs", y="top1",
    ),
    Figure(
        name="figure03", title="1-NN accuracy", paper=("table02",), evaluations=("knn",), y="top1",
        settings={"k": 1},
    ),
    SEARCHED,
    elsewhere(SEARCHED, "shift", "figure07-shift", "Retrieval, shifted queries", "table09"),
    elsewhere(SEARCHED, "unseen", "figure07-unseen", "Retrieval, unseen classes", "table10"),
    COSTS,
    elsewhere(
        COSTS, "unseen", "figure08-unseen",
        "Retrieval against its cost, unseen classes", "table10", "table12", "table14",
    ),
    TIMES,
    elsewhere(
        TIMES, "unseen", "figure08-time-unseen",
        "Retrieval against measured time, best searches, unseen classes",
    ),
    Figure(
        name="figure06", title="Adaptive classification", paper=("table03",),
        evaluations=("adaptive_classification",), x="expected_dim", y="top1", series=("line", "policy"),
        ignore=("cap", "drop", "delta"),
    ),
    Figure(
        name="figure10", title="Superclasses", paper=("table25", "figure10"), evaluations=("superclass",),
        y="top1", settings={"superclasses": 30},
    ),
    Figure(
        name="figure11", title="Classes inside their superclass, MRL", paper=("figure11",),
        evaluations=("superclass",), y="top1", settings={"line": "mrl", "within": "?*"}, series=("within",),
    ),
    Figure(
        name="figure12", title="Spread of single classes over the dims", evaluations=("trends",),
        y="class_gap", settings={"quantile": "?*"}, series=("line", "quantile"),
    ),
    Figure(
        name="figure-shifts", title="Linear classification under shift", paper=("table17",), role="shift",
        evaluations=("linear",), y="top1",
    ),
    Figure(
        name="figure04", title="k-NN of a vision transformer, k=20", paper=("table04",), evaluations=("knn",),
        y="top1", settings={"k": 20, "model": "*vit*"}, theirs={"model": "jft_vit_b16"},
    ),
    Figure(
        name="figure-masked", title="Masked language model: tokens found", paper=("table07",),
        evaluations=("language",), y="top1", settings={"model": "*bert*"},
    ),
    Figure(
        name="figure-language", title="Causal language model", evaluations=("language",), y="bits_per_byte",
    ),
    Figure(
        name="figure-decoding", title="Adaptive decoding of a causal language model",
        evaluations=("adaptive_decoding",), x="head_MFLOPs", y="bits_per_byte", series=("line", "policy"),
        joined=("single",), ignore=("cap", "drop", "delta", "threshold"),
    ),
    ZERO_SHOT,
    elsewhere(
        ZERO_SHOT, "shift", "figure-zero-shot-shift",
        "Zero-shot classification under shift", "table18",
    ),
    elsewhere(ZERO_SHOT, "unseen", "figure-zero-shot-unseen", "Zero-shot classification of unseen classes"),
    CROSS_MODAL,
    elsewhere(
        CROSS_MODAL, "unseen", "figure-recall-unseen",
        "Retrieval between images and texts of unseen classes",
    ),
    Figure(
        name="figure-cosine", title="Mean cosine of images and texts, MRL", evaluations=("cosine_span",),
        y="cosine", settings={"line": "mrl"}, series=("pairs",),
    ),
    Figure(
        name="figure-unfrozen", title="Fine-tuning of a fixed-feature model", paper=("table26",),
        evaluations=("linear",), y="top1", settings=MRL, ablation="unfrozen",
    ),
    Figure(
        name="figure-weights", title="Weights of the losses", paper=("table27",), evaluations=("linear",),
        y="top1", settings=MRL, ablation="weights",
    ),
    Figure(
        name="figure-first", title="The first nested dim", paper=("table28",), evaluations=("linear",),
        y="top1", settings=MRL, ablation="first",
    ),
    Figure(
        name="figure-spacing", title="Spacing of the nested dims, 1-NN", paper=("table29",),
        evaluations=("knn",), y="top1", settings={"k": 1, **MRL}, ablation="spacing",
    ),
)  # fmt: skip
