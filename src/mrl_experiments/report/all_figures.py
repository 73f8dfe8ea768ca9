"""The figures of the report. To add one, describe it here."""

from mrl_experiments.report.views import LINEAR, Figure

FIGURES = (
    Figure(
        name="figure02", title="Linear classification", paper=("table01",), evaluations=LINEAR, y="top1",
        joined=LINEAR,
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
        name="figure08-time", title="Retrieval against measured time", paper=(), x="latency_ms", y="mAP@10",
        evaluations=("adaptive_retrieval", "funnel"), series=("line", "evaluation", "index"), joined=(),
        ignore=("rerank", "shortlist", "stages"),
    ),
    Figure(
        name="figure08-time-unseen", title="Retrieval against measured time, unseen classes", role="unseen",
        paper=(), x="latency_ms", y="mAP@10", evaluations=("adaptive_retrieval", "funnel"), joined=(),
        series=("line", "evaluation", "index"), ignore=("rerank", "shortlist", "stages"),
    ),
    Figure(
        name="figure06", title="Adaptive classification", paper=("table03",),
        evaluations=("adaptive_classification",), x="expected_dim", y="top1", series=("line", "policy"),
        joined=("adaptive_classification",), ignore=("cap", "drop", "delta"),
    ),
    Figure(
        name="figure-shifts", title="Linear classification under shift", paper=("table17",), role="shift",
        evaluations=("linear",), y="top1", joined=("linear",),
    ),
)  # fmt: skip
