"""Which line of a table or figure a method belongs to, and how that line looks and is called."""

from dataclasses import replace
from zlib import crc32

from mrl_experiments.line_chart import Line
from mrl_experiments.results import NATIVE

# Okabe and Ito's palette, lightened for a dark ground: told apart with every kind of colour vision.
OTHERS = (
    ("#8c564b", "#d3a89c"), ("#5f6b78", "#b7c2ce"), ("#637939", "#b5cf6b"), ("#a3344b", "#ef8f9f"),
    ("#11767c", "#5cc4ca"), ("#7b5ea7", "#b99fe0"),
)  # fmt: skip
STAR = "M0,-1L.24,-.32 .95,-.31 .38,.12 .59,.81 0,.4 -.59,.81 -.38,.12 -.95,-.31 -.24,-.32Z"
HEXAGON = "M0,-1L.87,-.5 .87,.5 0,1 -.87,.5 -.87,-.5Z"
PENTAGON = "M0,-1L.95,-.31 .59,.81 -.59,.81 -.95,-.31Z"
THIN = "M0,-1L.5,0 0,1 -.5,0Z"
X = "M-.9,-.6L-.6,-.9 0,-.3 .6,-.9 .9,-.6 .3,0 .9,.6 .6,.9 0,.3 -.6,.9 -.9,.6 -.3,0Z"
OTHER_MARKERS = (STAR, HEXAGON, "triangle-left", "triangle-right", THIN)
KNOWN = {
    "mrl": Line("MRL", "circle", "#0072b2", "#56a8dc"),
    "mrl_e": Line("MRL-E", "square", "#009e73", "#2fc79c"),
    "ff": Line("FF", "triangle-up", "#d55e00", "#ff8a3d"),
    "ff_svd": Line("SVD of FF", "diamond", "#a8568c", "#dd94c0"),
    "ff_svd_head": Line("SVD of FF's head", "diamond", "#a8568c", "#dd94c0"),
    "ff_prefix": Line("First features of FF", "triangle-down", "#b8860b", "#ecc14b"),
    "ff_random": Line("Random features of FF", X, "#7a6a58", "#bda98f"),
    "ff_random_probe": Line("Probe of random FF features", X, "#7a6a58", "#bda98f"),
    "ff_jl": Line("JL of FF", "cross", "#5b5ea6", "#9a9de0"),
    # The paper runs a slimmable network at full width and cuts its features off.
    "slim": Line("Slim. Net, truncated", PENTAGON, "#3a8fb7", "#8fd0ee"),
    f"slim:{NATIVE}": Line(f"Slim. Net, {NATIVE}", HEXAGON, "#11767c", "#5cc4ca"),
    "slim_universal": Line("US-Net, truncated", "triangle-left", "#8c564b", "#d3a89c"),
    f"slim_universal:{NATIVE}": Line(f"US-Net, {NATIVE}", "triangle-right", "#637939", "#b5cf6b"),
}
VARIANTS = {  # of ablations, shown beside MRL
    "mrl:unfrozen/head": Line("MRL, head only", "triangle-down", "#b8860b", "#ecc14b"),
    "mrl:unfrozen/last_conv": Line("MRL, last convolution", "triangle-up", "#d55e00", "#ff8a3d"),
    "mrl:unfrozen/last_2_convs": Line("MRL, last 2 convolutions", "diamond", "#a8568c", "#dd94c0"),
    "mrl:unfrozen/last_block": Line("MRL, last block", "square", "#009e73", "#2fc79c"),
    "mrl:weights/8boost": Line("MRL-8boost", "triangle-up", "#d55e00", "#ff8a3d"),
    "mrl:weights/8+16boost": Line("MRL-8+16boost", "square", "#009e73", "#2fc79c"),
    "mrl:first/4": Line("MRL-4", "triangle-up", "#d55e00", "#ff8a3d"),
    "mrl:first/6": Line("MRL-6", "square", "#009e73", "#2fc79c"),
    "mrl:spacing/uniform": Line("MRL-Uniform", "diamond", "#a8568c", "#dd94c0"),
}
METHODS = {"mrl": "MRL", "mrl_e": "MRL-E", "ff": "FF", "slim": "Slim. Net", "slim_universal": "US-Net"}
REDUCTIONS = {
    "svd": "SVD", "svd_head": "SVD of the head", "random": "random features", "jl": "JL",
    "adaptor": "adaptor",
}  # fmt: skip
SEARCHES = {  # the marks of ways to search one line, or to choose among its dims
    "funnel": STAR, "ivf": "triangle-right", "hnsw32": "cross", "auto": HEXAGON, "adaptive_retrieval": THIN,
    "uniform": THIN, "joint": "diamond", "risk_control": "cross", "oracle": STAR,
}  # fmt: skip
NOTES = {
    "paper": "greedy thresholds", "joint": "joint thresholds", "uniform": "one threshold",
    "single": "each dim alone",
}  # fmt: skip
PROBE = "_probe"
LABEL = ":"  # stands before a run's label


def line(key: str) -> Line:
    """Return the look of a line: its own, or for a method not named here one that follows from the name."""
    if key in KNOWN or key in VARIANTS:
        return (KNOWN | VARIANTS)[key]
    method, _, label = key.partition(LABEL)
    if method.endswith(PROBE):
        probed = line(method.removesuffix(PROBE) + key.removeprefix(method))
        return replace(probed, label=f"{probed.label}, linear probe", marker="cross")
    name = _called(method) if not label or label.endswith(NATIVE) else line(method).label
    variant = label.rpartition("/")[2].replace("_", " ")
    return numbered(key, crc32(key.encode()), ", ".join(filter(None, (name, variant))))


def numbered(key: str, number: int, label: str = "") -> Line:
    """Return the look of the number-th line of a figure whose lines are not methods."""
    marker = OTHER_MARKERS[number % len(OTHER_MARKERS)]
    return Line(label or key.replace("_", " "), marker, *OTHERS[number % len(OTHERS)])


def order(key: str) -> tuple[int, str]:
    """Sort key of lines: those named here first, in their order, then the others by name."""
    known = [*KNOWN, *VARIANTS]
    return (known.index(key) if key in known else len(known), key)


def key_of(method: str, reduction: str, evaluation: str, label: str) -> str:
    """Name the line of a method under a reduction, and of runs with a label, "<ablation>/<variant>" or any.

    Probes are lines of their own beside trained heads.
    """
    key = method if reduction == "prefix" else f"{method}_{reduction}"
    return key + PROBE * evaluation.startswith("probe") + (f"{LABEL}{label}" if label else "")


def note(part: str) -> str:
    """Return how an evaluation, a policy or another part of a line is called."""
    return NOTES.get(part, part.replace("_", " "))


def _called(key: str) -> str:
    for reduction, name in REDUCTIONS.items():
        if key.endswith(f"_{reduction}"):
            return f"{_called(key.removesuffix(f'_{reduction}'))}, {name}"
    return METHODS.get(key, key)
