"""The specification of an adaptive index: its FAISS codes, its dims, and the stages of a search."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mrl_experiments.adaptive.retrieval.similarity import check_similarity
from mrl_experiments.errors import UserError

LEVELS = 8
# FAISS's exact search, which leaves a vector once its first features rule it out.
BOUNDED = f"FlatL2Panorama{LEVELS}"
Stages = Sequence[Sequence[int]]  # [[dim, keep], ...]: as a configuration or a caller writes a funnel


@dataclass(frozen=True)
class IndexSpec:
    """The description of an AdaptiveIndex; its four dims are chosen independently.

    Source: Rege et al., AdANNS (2023): AdANNS-IVF (coarse, scan and re-rank dims), AdANNS-OPQ (codes).

    Attributes:
        dims: The prefixes D_s that can be scanned for a shortlist, ascending; each gets a FAISS index.
        codes: How a scanned prefix is stored and searched, in the language of `faiss.index_factory`: "Flat",
            "HNSW32", "IVF1024,Flat", "IVF4096,SQ8", "OPQ16,IVF1024,PQ16x4fs", "RaBitQ" (1 bit per feature).
        stages: The default funnel [[D_s, shortlist], [D_r, keep], ...].
        coarse_dim: The prefix clustered into the lists of an IVF index; None means the scanned one.
        effort: FAISS search parameters, "nprobe=16" or "efSearch=64", and "patience=10": the last re-rank of
            a query ends once so many candidates in turn have not been among its nearest. Lists of bytes
            that a compiled loop searches (`byte_lists`) also take "margin=2.5": of "nprobe" lists those are
            left out whose centroid is less near than the nearest by more than so many deviations of a
            similarity within lists. They do without patience.
        similarity: What near means, "cosine", "inner_product" or "l2"; of prefixes, too.
        rest: For cosines: a scanned prefix is not divided by its own norm but by that of the whole vector,
            and the norm of the rest is one more feature, so that a product is the largest that the cosine
            of whole vectors can be. What finds more depends on the vectors.
    """

    dims: tuple[int, ...]
    codes: str
    stages: tuple[tuple[int, int], ...]
    coarse_dim: int | None = None
    effort: str = ""
    similarity: str = "cosine"
    rest: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        check_similarity(self.similarity)
        object.__setattr__(self, "stages", check_stages(self.stages, self.dims))
        if list(self.dims) != sorted(set(self.dims)) or self.dims[0] < 1:
            raise UserError(f"dims={list(self.dims)} do not nest", expected="strictly increasing dims")
        if self.rest and (self.similarity != "cosine" or self.coarse_dim is not None):
            raise UserError(
                f"rest=True with similarity={self.similarity}, coarse_dim={self.coarse_dim}",
                expected="similarity=cosine, and no coarse_dim",
            )
        if self.coarse_dim is not None and not 1 <= self.coarse_dim <= self.dims[0]:
            raise UserError(
                f"coarse_dim={self.coarse_dim} does not nest in dims={list(self.dims)}",
                expected=f"a dim from 1 to the smallest scanned one, {self.dims[0]}",
            )

    @property
    def patience(self) -> int:
        """How many candidates in turn may fail before a re-rank ends; 0 for any."""
        return split_effort(self.effort).patience

    @property
    def exact(self) -> bool:
        """True if all vectors are compared at the only dim."""
        return self.codes in ("Flat", BOUNDED) and len(self.stages) == 1

    @property
    def width(self) -> int:
        """The largest prefix that a query or a stage needs."""
        return max(self.dims[-1], self.stages[-1][0])


def lists_of(rows: int) -> int:
    """Return the number of lists of an IVF index: the root of the rows."""
    return max(1, round(rows**0.5))


def probes_of(rows: int, shortlist: int) -> int:
    """Return how many of its lists are searched: a sixteenth, and those that hold four shortlists.

    Example:
        >>> lists_of(10_000), probes_of(10_000, 200), probes_of(10_000, 10_000)
        (100, 8, 100)
    """
    lists = lists_of(rows)
    return min(lists, max(1, lists // 16, -(-4 * shortlist * lists // rows)))


class Effort(NamedTuple):
    """What FAISS is told of an effort, and what it does not know: see `IndexSpec`."""

    faiss: str
    patience: int = 0
    margin: float = np.inf


@lru_cache(maxsize=256)
def split_effort(effort: str) -> Effort:
    """Return the parts of an effort.

    Example:
        >>> split_effort("nprobe=16,patience=10")
        Effort(faiss='nprobe=16', patience=10, margin=inf)
        >>> split_effort("nprobe=256,margin=2.5").margin
        2.5

    Raises:
        UserError: If the patience is no whole number, or the margin no number from 0 up.
    """
    parts = [part.partition("=")[::2] for part in effort.split(",") if part]
    own = dict(part for part in parts if part[0] in ("patience", "margin"))
    told = ",".join("=".join(part) if part[1] else part[0] for part in parts if part[0] not in own)
    try:
        margin = float(own.get("margin", "inf"))
    except ValueError:
        margin = -1.0
    if not (patience := own.get("patience", "0")).isdecimal() or not margin >= 0:
        raise UserError(f"effort={effort!r}", expected="patience=<whole number>, margin=<number from 0 up>")
    return Effort(told, int(patience), margin)


def check_whole(name: str, value: Any) -> int:
    """Return a number of dims or neighbours as an int.

    Example:
        >>> check_whole("k", np.int64(10))
        10

    Raises:
        UserError: Unless it is a whole number from 1 up; True and 2.0 are none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise UserError(f"{name}={value!r:.80}", expected="a whole number from 1 up")
    return int(value)


def check_stages(stages: Stages, dims: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the stages as tuples.

    Raises:
        UserError: Unless all are whole numbers from 1 up, one index scans, dims grow, lists shrink. The first
            re-rank may be at the scanned dim, whose codes it then corrects.
    """
    checked = tuple((check_whole("stages: dim", dim), check_whole("stages: k", keep)) for dim, keep in stages)
    shown = f"stages {[list(stage) for stage in checked]}"
    if not checked or checked[0][0] not in dims:
        raise UserError(f"{shown} start at no indexed dim", expected=f"first a dim of {list(dims)}")
    for (dim, keep), (next_dim, next_keep) in itertools.pairwise(checked):
        if next_dim < dim or (next_dim == dim and checked.index((dim, keep)) > 0):
            raise UserError(f"{shown} do not nest", expected=f"a dim above {dim} after it")
        if next_keep > keep:
            raise UserError(
                f"{shown} keep more than the list before holds", expected=f"at most {keep} at {next_dim}"
            )
    return checked


def funnel(dim: int, rerank_dims: Sequence[int], shortlist: int, k: int) -> tuple[tuple[int, int], ...]:
    """Return the stages that halve a shortlist at each re-rank, never below k (Section 4.3.1 of the paper).

    One re-rank dim gives plain adaptive retrieval, none a single search at `dim`.

    Example:
        >>> funnel(8, [16, 32], shortlist=200, k=10)
        ((8, 200), (16, 100), (32, 10))

    Raises:
        UserError: If k or the shortlist is no whole number, or the shortlist is shorter than k.
    """
    k, shortlist = check_whole("k", k), check_whole("shortlist", shortlist)
    if shortlist < k:
        raise UserError(f"a shortlist of {shortlist} for k={k}", expected=f"a shortlist of at least {k}")
    keeps = [max(k, shortlist >> halvings) for halvings in range(1, len(rerank_dims))]
    if not rerank_dims:
        return ((dim, k),)
    return tuple(zip((dim, *rerank_dims), (shortlist, *keeps, k), strict=True))
