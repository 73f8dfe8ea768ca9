"""The figures of the report. To add one, describe it here."""

from mrl_experiments.report.specs import LINEAR, MRL, Figure

FIGURES = (
    Figure(
        name="figure02", title="Linear classification", paper=("table01",), evaluations=LINEAR, y="top1",
        joined=LINEAR,
    ),
    Figure(
        name="figure02-cost", title="Linear classification against the cost of the whole network", paper=(),
        evaluations=("linear",), x="network_MFLOPs", y="top1", joined=("linear",),
    ),
    Figure(
        name="figure03", title="1-NN accuracy", paper=("table02",), evaluations=("knn",), y="top1",
        settings={"k": 1}, joined=("knn",),
    ),
    Figure(
        name="figure07", title="Retrieval", paper=("table08", "figure07"), evaluations=("retrieval",),
        y="mAP@10", joined=("retrieval",),
    ),
    Figure(
        name="figure07-shift", title="Retrieval, shifted queries", paper=("table09",), role="shift",
        evaluations=("retrieval",), y="mAP@10", joined=("retrieval",),
    ),
    Figure(
        name="figure07-unseen", title="Retrieval, unseen classes", paper=("table10",), role="unseen",
        evaluations=("retrieval",), y="mAP@10", joined=("retrieval",),
    ),
    Figure(
        name="figure08", title="Retrieval against its cost", paper=("table08", "table11", "table13"),
        evaluations=("retrieval", "adaptive_retrieval", "funnel"), x="MFLOPs", y="mAP@10",
        series=("line", "evaluation", "index"), joined=("retrieval",),
        ignore=("rerank", "shortlist", "stages"),
    ),
    Figure(
        name="figure08-unseen", title="Retrieval against its cost, unseen classes", role="unseen",
        paper=("table10", "table12", "table14"), evaluations=("retrieval", "adaptive_retrieval", "funnel"),
        x="MFLOPs", y="mAP@10", series=("line", "evaluation", "index"), joined=("retrieval",),
        ignore=("rerank", "shortlist", "stages"),
    ),
    Figure(
        name="figure08-time", title="Retrieval against measured time, best searches", paper=(),
        x="latency_ms", y="mAP@10", evaluations=("adaptive_retrieval", "funnel"), joined=(), best=True,
        series=("line", "evaluation", "index"), ignore=("rerank", "shortlist", "stages"),
    ),
    Figure(
        name="figure08-time-unseen", title="Retrieval against measured time, best searches, unseen classes",
        paper=(), x="latency_ms", y="mAP@10", evaluations=("adaptive_retrieval", "funnel"), joined=(),
        series=("line", "evaluation", "index"), ignore=("rerank", "shortlist", "stages"), best=True,
        role="unseen",
    ),
    Figure(
        name="figure06", title="Adaptive classification", paper=("table03",),
        evaluations=("adaptive_classification",), x="expected_dim", y="top1", series=("line", "policy"),
        joined=("adaptive_classification",), ignore=("cap", "drop", "delta"),
    ),
    Figure(
        name="figure10", title="Superclasses", paper=("table25", "figure10"), evaluations=("superclass",),
        y="top1", settings={"superclasses": 30}, joined=("superclass",),
    ),
    Figure(
        name="figure11", title="Classes inside their superclass, MRL", paper=("figure11",),
        evaluations=("superclass",), y="top1", settings={"line": "mrl", "within": "?*"},
        series=("within",), joined=("superclass",),
    ),
    Figure(
        name="figure12", title="Spread of single classes over the dims", paper=(), evaluations=("trends",),
        y="class_gap", settings={"quantile": "?*"}, series=("line", "quantile"), joined=("trends",),
    ),
    Figure(
        name="figure-shifts", title="Linear classification under shift", paper=("table17",), role="shift",
        evaluations=("linear",), y="top1", joined=("linear",),
    ),
    Figure(
        name="figure04", title="k-NN of a vision transformer, k=20", paper=("table04",), evaluations=("knn",),
        y="top1", settings={"k": 20, "model": "*vit*"}, theirs={"model": "jft_vit_b16"}, joined=("knn",),
    ),
    Figure(
        name="figure-masked", title="Masked language model: tokens found", paper=("table07",),
        evaluations=("language",), y="top1", settings={"model": "*bert*"}, joined=("language",),
    ),
    Figure(
        name="figure-language", title="Causal language model", paper=(), evaluations=("language",),
        y="bits_per_byte", joined=("language",),
    ),
    Figure(
        name="figure-decoding", title="Adaptive decoding of a causal language model", paper=(),
        evaluations=("adaptive_decoding",), x="head_MFLOPs", y="bits_per_byte", series=("line", "policy"),
        joined=("single",), ignore=("cap", "drop", "delta", "threshold"),
    ),
    Figure(
        name="figure-zero-shot", title="Zero-shot classification", paper=("table18",),
        evaluations=("zero_shot",), y="top1", joined=("zero_shot",),
    ),
    Figure(
        name="figure-zero-shot-shift", title="Zero-shot classification under shift", paper=("table18",),
        role="shift", evaluations=("zero_shot",), y="top1", joined=("zero_shot",),
    ),
    Figure(
        name="figure-zero-shot-unseen", title="Zero-shot classification of unseen classes", paper=(),
        role="unseen", evaluations=("zero_shot",), y="top1", joined=("zero_shot",),
    ),
    Figure(
        name="figure-recall", title="Retrieval between images and texts", paper=(),
        evaluations=("cross_modal",), y="recall@1", joined=("cross_modal",),
    ),
    Figure(
        name="figure-recall-unseen", title="Retrieval between images and texts of unseen classes", paper=(),
        role="unseen", evaluations=("cross_modal",), y="recall@1", joined=("cross_modal",),
    ),
    Figure(
        name="figure-cosine", title="Mean cosine of images and texts, MRL", paper=(),
        evaluations=("cosine_span",), y="cosine", settings={"line": "mrl"}, series=("pairs",),
        joined=("cosine_span",),
    ),
    Figure(
        name="figure-unfrozen", title="Fine-tuning of a fixed-feature model", paper=("table26",),
        evaluations=("linear",), y="top1", settings=MRL, ablation="unfrozen", joined=("linear",),
    ),
    Figure(
        name="figure-weights", title="Weights of the losses", paper=("table27",), evaluations=("linear",),
        y="top1", settings=MRL, ablation="weights", joined=("linear",),
    ),
    Figure(
        name="figure-first", title="The first nested dim", paper=("table28",), evaluations=("linear",),
        y="top1", settings=MRL, ablation="first", joined=("linear",),
    ),
    Figure(
        name="figure-spacing", title="Spacing of the nested dims, 1-NN", paper=("table29",),
        evaluations=("knn",), y="top1", settings={"k": 1, **MRL}, ablation="spacing", joined=("knn",),
    ),
)  # fmt: skip
