"""What the paper's abstract and text claim. To add a claim, describe it here."""

from dataclasses import replace

from mrl_experiments.report.claims.claim import Claim
from mrl_experiments.report.claims.gaps import best, from_32, funnel, small, smooth, worst
from mrl_experiments.report.claims.ratios import cheaper, faster, more_expensive, smaller
from mrl_experiments.report.specs import LINEAR, elsewhere

UNSEEN = "The same for classes that training never saw."
AS_GOOD = -0.5  # points: what still counts as the same accuracy
STAGED = ("retrieval", "adaptive_retrieval")
SEARCHES = ("index", "rerank", "shortlist", "stages")  # settings that tests read themselves
CHEAPER = Claim(
    name="cheaper-retrieval", title="Adaptive retrieval needs over 14 times fewer multiply-adds.",
    source="Abstract; Section 4.3.1; Tables 8 and 11", paper=("table08", "table11"), evaluations=STAGED,
    figure="MFLOPs of a full-width search to its own at the same mAP, the largest ratio", unit="x", bound=14,
    test=cheaper, ignore=SEARCHES,
)  # fmt: skip
FASTER = Claim(
    name="faster-retrieval", title="On the clock, adaptive retrieval is up to 14 times faster.",
    source="Abstract; Section 4.3.1; Appendix I", evaluations=("adaptive_retrieval",),
    figure="time of a full-width search to its own, same mAP and index, the largest ratio", unit="x",
    bound=14, test=faster, ignore=SEARCHES,
)  # fmt: skip
CLAIMS = (
    Claim(
        name="accuracy", title="One nested model is as accurate at every dim as a model trained for it.",
        source="Abstract; Sections 3 and 4.2; Table 1", paper=("table01",), evaluations=("linear",),
        figure="MRL less FF, top-1, at the worst dim", bound=AS_GOOD, test=worst("mrl", ["ff"]),
    ),
    Claim(
        name="accuracy-1nn", title="Its nearest neighbours are as good at every dim.",
        source="Section 4.2; Table 2", paper=("table02",), evaluations=("knn",), settings={"k": 1},
        figure="MRL less FF, 1-NN, at the worst dim", bound=AS_GOOD, test=worst("mrl", ["ff"]),
    ),
    Claim(
        name="accuracy-retrieval", title="They retrieve as well at every dim as those trained for it.",
        source="Section 4.3; Table 8", paper=("table08",), evaluations=("retrieval",),
        figure="MRL less FF, mAP@10, at the worst dim", bound=AS_GOOD, test=worst("mrl", ["ff"], "mAP@10"),
    ),
    Claim(
        name="baselines", title="At small dims it is far more accurate than what is cut out of one"
        " full-width model: SVD of its classifier, random features, slimmable networks.",
        source="Section 4.2; Figure 2, Table 1", paper=("table01",), evaluations=LINEAR,
        figure="MRL less the best of them, top-1, at the worst dim up to a sixteenth of the largest",
        test=worst("mrl", ["ff_svd_head", "ff_random_probe", "slim"], dims=small),
    ),
    Claim(
        name="baselines-1nn", title="The same for 1-NN: SVD, random and first features, slimmable networks.",
        source="Section 4.2; Figure 3, Table 2", paper=("table02",), evaluations=("knn",), settings={"k": 1},
        figure="MRL less the best of them, 1-NN, at the worst dim up to a sixteenth of the largest",
        test=worst("mrl", ["ff_svd", "ff_random", "ff_prefix", "ff_jl", "slim"], dims=small),
    ),
    Claim(
        name="interpolation", title="Accuracy goes smoothly through dims that were never trained.",
        source="Section 4.2; Figure 5, Tables 5 and 8", paper=("table08",), evaluations=("retrieval",),
        interpolated="with", bound=AS_GOOD, test=smooth,
        figure="1-NN at an untrained dim, less the line between its trained neighbours, at the worst dim",
    ),
    Claim(
        name="smaller", title="Adaptive classification needs up to 14 times fewer dimensions as accurately.",
        source="Abstract; Section 4.2.1; Figure 6, Table 3", paper=("table03", "table01"),
        evaluations=("adaptive_classification", "linear"), ignore=("policy", "cap", "tta", "drop", "delta"),
        figure="dims of FF to MRL's expected dims, the largest ratio", unit="x", bound=14, test=smaller,
    ),
    CHEAPER,
    replace(
        elsewhere(CHEAPER, "unseen", "cheaper-retrieval-unseen", UNSEEN, "table10", "table12"),
        source="Section 4.3.1; Tables 10 and 12",
    ),
    FASTER,
    elsewhere(FASTER, "unseen", "faster-retrieval-unseen", UNSEEN),
    Claim(
        name="funnel", title="A funnel of growing dims is as accurate as one re-rank, and cheaper.",
        source="Section 4.3.1; Tables 11 and 13", paper=("table11", "table13"), test=funnel, bound=AS_GOOD,
        figure="funnel less one re-rank, mAP@10, from the worst first dim at which it is cheaper",
        evaluations=("adaptive_retrieval", "funnel"), ignore=SEARCHES,
    ),
    Claim(
        name="few-shot", title="It is as accurate in few-shot classification by class means.", role="shift",
        source="Section 5; Table 15", paper=("table15",), evaluations=("few_shot",), over=("split", "shots"),
        figure="MRL less FF, top-1, mean over shots, at the worst dim", bound=AS_GOOD,
        test=worst("mrl", ["ff"]),
    ),
    Claim(
        name="long-tail", title="It is up to 2 % more accurate on the tail of new classes in a stream.",
        source="Abstract; Section 5; Table 16", paper=("table16",), role="stream", evaluations=("stream",),
        figure="MRL less FF, novel classes in the tail, at the best dim", bound=2,
        test=best("mrl", ["ff"], "novel_tail"),
    ),
    Claim(
        name="robust", title="It is as robust when the data shift.", role="shift",
        source="Abstract; Section 5; Table 17", paper=("table17",), evaluations=("linear",), over=("split",),
        figure="MRL less FF, top-1, mean over shifts, at the worst dim", bound=AS_GOOD,
        test=worst("mrl", ["ff"]),
    ),
    Claim(
        name="efficient", title="With one tied classifier (MRL-E) it loses about 1 % from 32 dimensions on.",
        source="Section 4.2; Table 1", paper=("table01",), evaluations=("linear",), bound=-1,
        figure="MRL-E less MRL, top-1, at the worst dim from 32 dims on",
        test=worst("mrl_e", ["mrl"], dims=from_32),
    ),
    Claim(
        name="vit", title="It works for vision transformers: beside random features of the full-width"
        " model it loses nothing at full width and gains at small dims.",
        source="Section 4.2; Figure 4, Table 4", paper=("table04",), evaluations=("knn",), bound=AS_GOOD,
        settings={"k": 20, "model": "*vit*"}, theirs={"model": "jft_vit_b16"},
        figure="MRL less random features of FF, 20-NN, at the worst dim", test=worst("mrl", ["ff_random"]),
    ),
    Claim(
        name="image-text", title="It works for contrastive learning of images and texts.",
        source="Section 4.2; Figure 4, Tables 4 and 18", paper=("table18",), evaluations=("zero_shot",),
        figure="MRL less FF, zero-shot top-1, at the worst dim", bound=AS_GOOD, test=worst("mrl", ["ff"]),
    ),
    Claim(
        name="masked-lm", title="It works for masked language models: within 0.5 % of separate models.",
        source="Section 4.1; Table 7", paper=("table07",), evaluations=("language",), bound=-0.5,
        settings={"model": "*bert*"}, figure="MRL-E less FF, masked tokens, at the worst dim",
        test=worst("mrl_e", ["ff"]),
    ),
    Claim(
        name="web-scale", title="It carries over to hundreds of millions of images and billions of pairs.",
        source="Abstract; Section 4.2; Table 4", evaluations=(),
        reason="JFT-300M and ALIGN's pairs are private, and no recipe here has data of that size",
    ),
    Claim(
        name="inference", title="It costs nothing more at inference.", source="Abstract; Section 3",
        evaluations=("linear",), figure="multiply-adds of a prediction, MRL to FF, at the worst dim",
        unit="x", bound=1, at_most=True, test=more_expensive,
    ),
    Claim(
        name="training", title="It costs hardly anything more in training.", source="Abstract; Section 3",
        evaluations=(),
        reason="rows hold no training times: scripts/bench_train.py measures MRL's step beside FF's",
    ),
)  # fmt: skip
