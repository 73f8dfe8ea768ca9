"""Which line of a table or figure a method belongs to, and how that line looks and is called."""

from dataclasses import dataclass, replace
from zlib import crc32

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


@dataclass(frozen=True)
class Line:
    """The look of a line. marker: Vega's name, or a path. light, dark: its colour on either ground."""

    key: str
    label: str
    marker: str
    light: str
    dark: str


KNOWN = {
    line.key: line
    for line in (
        Line("mrl", "MRL", "circle", "#0072b2", "#56a8dc"),
        Line("mrl_e", "MRL-E", "square", "#009e73", "#2fc79c"),
        Line("ff", "FF", "triangle-up", "#d55e00", "#ff8a3d"),
        Line("ff_svd", "SVD of FF", "diamond", "#a8568c", "#dd94c0"),
        Line("ff_svd_head", "SVD of FF's head", "diamond", "#a8568c", "#dd94c0"),
        Line("ff_prefix", "First features of FF", "triangle-down", "#b8860b", "#ecc14b"),
        Line("ff_random", "Random features of FF", X, "#7a6a58", "#bda98f"),
        Line("ff_random_probe", "Probe of random FF features", X, "#7a6a58", "#bda98f"),
        Line("ff_jl", "JL of FF", "cross", "#5b5ea6", "#9a9de0"),
        # The paper runs a slimmable network at full width and cuts its features off.
        Line("slim", "Slim. Net, truncated", PENTAGON, "#3a8fb7", "#8fd0ee"),
        Line(f"slim:{NATIVE}", f"Slim. Net, {NATIVE}", HEXAGON, "#11767c", "#5cc4ca"),
        Line("slim_universal", "US-Net, truncated", "triangle-left", "#8c564b", "#d3a89c"),
        Line(f"slim_universal:{NATIVE}", f"US-Net, {NATIVE}", "triangle-right", "#637939", "#b5cf6b"),
    )
}
VARIANTS = {  # of ablations, shown beside MRL
    line.key: line
    for line in (
        Line("mrl:unfrozen/head", "MRL, head only", "triangle-down", "#b8860b", "#ecc14b"),
        Line("mrl:unfrozen/last_conv", "MRL, last convolution", "triangle-up", "#d55e00", "#ff8a3d"),
        Line("mrl:unfrozen/last_2_convs", "MRL, last 2 convolutions", "diamond", "#a8568c", "#dd94c0"),
        Line("mrl:unfrozen/last_block", "MRL, last block", "square", "#009e73", "#2fc79c"),
        Line("mrl:weights/8boost", "MRL-8boost", "triangle-up", "#d55e00", "#ff8a3d"),
        Line("mrl:weights/8+16boost", "MRL-8+16boost", "square", "#009e73", "#2fc79c"),
        Line("mrl:first/4", "MRL-4", "triangle-up", "#d55e00", "#ff8a3d"),
        Line("mrl:first/6", "MRL-6", "square", "#009e73", "#2fc79c"),
        Line("mrl:spacing/uniform", "MRL-Uniform", "diamond", "#a8568c", "#dd94c0"),
    )
}
METHODS = {"mrl": "MRL", "mrl_e": "MRL-E", "ff": "FF", "slim": "Slim. Net", "slim_universal": "US-Net"}
REDUCTIONS = {
    "svd": "SVD", "svd_head": "SVD of the head", "random": "random features", "jl": "JL", "adaptor": "adaptor",
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
        probed = line(labelled(method.removesuffix(PROBE), label))
        return replace(probed, key=key, label=f"{probed.label}, linear probe", marker="cross")
    name = _called(method) if not label or label.endswith(NATIVE) else line(method).label
    variant = label.rpartition("/")[2].replace("_", " ")
    return numbered(key, crc32(key.encode()), ", ".join(filter(None, (name, variant))))


def numbered(key: str, number: int, label: str = "") -> Line:
    """Return the look of the number-th line of a figure whose lines are not methods."""
    marker = OTHER_MARKERS[number % len(OTHER_MARKERS)]
    return Line(key, label or key.replace("_", " "), marker, *OTHERS[number % len(OTHERS)])


def order(key: str) -> tuple[int, str]:
    """Sort key of lines: those named here first, in their order, then the others by name."""
    known = [*KNOWN, *VARIANTS]
    return (known.index(key) if key in known else len(known), key)


def labelled(key: str, label: str) -> str:
    """Name the line of runs with a label, such as an ablation's variant, "<ablation>/<variant>"."""
    return f"{key}{LABEL}{label}" if label else key


def key_of(method: str, reduction: str, evaluation: str) -> str:
    """Name the line of a method under a reduction; probes are lines of their own beside trained heads."""
    key = method if reduction == "prefix" else f"{method}_{reduction}"
    return key + PROBE if evaluation.startswith("probe") else key


def note(part: str) -> str:
    """Return how an evaluation, a policy or another part of a line is called."""
    return NOTES.get(part, part.replace("_", " "))


def _called(key: str) -> str:
    for reduction, name in REDUCTIONS.items():
        if key.endswith(f"_{reduction}"):
            method = key.removesuffix(f"_{reduction}")
            return f"{METHODS.get(method, method)}, {name}"
    return METHODS.get(key, key)
