"""Result rows of an imaginary study: three seeds, all methods, smooth curves."""

from collections.abc import Iterator

import pandas as pd

from mrl_experiments.examples import Confusion, Examples, Query, Sample, Sheet, Stage
from mrl_experiments.report.aggregate import aggregate
from mrl_experiments.report.prepare import tidy
from mrl_experiments.results import ResultRow

DIMS = (8, 16, 32, 64, 128, 256, 512)
BETWEEN = (12, 24, 48, 96, 192, 384)
SEEDS = (0, 1, 2)
DOT = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)  # one pixel
DATABASE = {"kanji1k": 60_000, "kanji4k": 350_000}
GAIN = {"mrl": 1.0, "mrl_e": 0.96, "ff": 0.985}
SHIFT = {"val": 0.0, "v2": 0.08, "sketch": 0.31, "display": 0.22, "bitmap": 0.36, "query": 0.27}


_MEASURED: dict[tuple[int, ...], tuple[list[ResultRow], pd.DataFrame]] = {}


def measured(rows: list[ResultRow]) -> pd.DataFrame:
    """Return the frame of which tables and figures are made; of the same rows, a copy of the same one."""
    key = tuple(map(id, rows))  # which stay theirs, since the rows are kept
    if key not in _MEASURED:
        _MEASURED[key] = [*rows], aggregate(tidy(rows))
    return _MEASURED[key][1].copy()


NONE = measured([])


def accuracy(method: str, dim: int, seed: int, drop: float = 0.0) -> float:
    return GAIN[method] * (0.78 - drop) * (1 - 1.6 / (dim + 2)) + 0.002 * (seed - 1)


def study(seeds: tuple[int, ...] = SEEDS, model: str = "resnet10t") -> list[ResultRow]:
    return [row for seed in seeds for row in _one_seed(seed, model)]


def _one_seed(seed: int, model: str) -> Iterator[ResultRow]:
    def row(
        run: str, method: str, evaluation: str, dim: int, metric: str, value: float, **more: object
    ) -> ResultRow:
        place: dict[str, object] = {
            "dataset": "kanji1k", "split": "val", "reduction": "prefix", "trained": True, "setting": {},
        }  # fmt: skip
        name = f"{run}_{model}_kanji1k_s{seed}"
        values = {**place, **more}
        return ResultRow(
            run=name, method=method, model=model, evaluation=evaluation, dim=dim, metric=metric, value=value,
            seed=seed, **values,  # type: ignore[arg-type]
        )  # fmt: skip

    for method in ("mrl", "mrl_e"):
        for dim in DIMS:
            for split in ("val", "v2", "sketch", "display", "bitmap"):
                value = accuracy(method, dim, seed, SHIFT[split])
                yield row(method, method, "linear", dim, "top1", value, split=split)
                yield row(method, method, "linear", dim, "nll", 3 - 2 * value, split=split)
        yield from _search(row, method, method, (*DIMS, *BETWEEN), seed)
    for dim in DIMS:
        value = accuracy("ff", dim, seed)
        run = "ff" if dim == DIMS[-1] else f"ff_d{dim}"
        yield row(run, "ff", "linear", dim, "top1", value)
        yield from _search(row, run, "ff", (dim,) if dim < DIMS[-1] else DIMS, seed)
        random, place = 0.7 * value * dim / (dim + 20), {"reduction": "random", "trained": False}
        for draw in range(2):
            yield row(
                "ff", "ff", "probe", dim, "top1", random + 0.004 * draw, setting={"draw": draw}, **place
            )
        yield row("ff", "ff", "probe", dim, "top1", random + 0.002, **place)
        yield row("ff", "ff", "probe", dim, "top1_std", 0.002, **place)
        for reduction, loss in (("svd", 9), ("jl", 30), ("random", 40)):
            place = {"reduction": reduction, "trained": False, "setting": {"k": 1}}
            yield row("ff", "ff", "knn", dim, "top1", value * dim / (dim + loss), **place)
            yield row(
                "ff", "ff", "retrieval", dim, "mAP@10", 0.9 * value * dim / (dim + loss), reduction=reduction
            )
        if dim < DIMS[-1]:
            yield row(
                "ff",
                "ff",
                "linear",
                dim,
                "top1",
                value * dim / (dim + 60),
                reduction="svd_head",
                trained=False,
            )
    for i, dim in enumerate(DIMS[1:]):
        setting = {"setting": {"policy": "paper", "cap": dim, "tta": "none"}}
        for metric, value in (
            ("expected_dim", 13.0 + 9 * i), ("expected_dim_std", 1.5), ("top1_std", 0.002),
            ("top1", accuracy("mrl", 2 * dim, seed)),
        ):  # fmt: skip
            yield row("mrl", "mrl", "adaptive_classification", dim, metric, value, **setting)


def _search(row, run: str, method: str, dims: tuple[int, ...], seed: int) -> Iterator[ResultRow]:
    for dataset, split in (("kanji1k", "val"), ("kanji1k", "v2"), ("kanji4k", "query")):
        place = {"dataset": dataset, "split": split}
        for dim in dims:
            trained = dim in DIMS and (method != "ff" or run.endswith(f"_d{dim}") or dim == DIMS[-1])
            weak = 1.0 if trained or method != "ff" else dim / (dim + 35)
            value = weak * accuracy(method, dim, seed, SHIFT[split])
            if split == "val":
                yield row(run, method, "knn", dim, "top1", value, trained=trained, setting={"k": 1})
                yield row(run, method, "knn", dim, "top1", value * 1.01, trained=trained, setting={"k": 10})
            metrics = {"top1": value, "top5": value * 1.1, "mAP@10": 0.9 * value, "P@10": 0.93 * value}
            metrics["macs"] = float(DATABASE[dataset] * dim)
            for metric, number in metrics.items():
                yield row(run, method, "retrieval", dim, metric, number, trained=trained, **place)
        if method == "mrl" and split != "v2":
            yield from _staged(row, run, dataset, split, seed)


def _staged(row, run: str, dataset: str, split: str, seed: int) -> Iterator[ResultRow]:
    for i, dim in enumerate(DIMS[:-1]):
        for size in DIMS[i + 1 :]:
            value = 0.9 * accuracy("mrl", size, seed, SHIFT[split]) * (1 - 0.02 / (i + 1))
            setting = {"index": "flat", "rerank": size, "shortlist": 200}
            macs = float(DATABASE[dataset] * dim + 200 * size)
            for metric, number in (("mAP@10", value), ("top1", value / 0.9), ("macs", macs)):
                yield row(
                    run, "mrl", "adaptive_retrieval", dim, metric, number,
                    dataset=dataset, split=split, setting=setting,
                )  # fmt: skip
    for dim in DIMS[:3]:
        sizes = [size for size in DIMS if size >= dim][:5]
        keeps = zip(sizes, (200, 100, 50, 25, 10), strict=False)
        setting = {"index": "flat", "stages": [*keeps, (512, 10)]}
        for metric, number in (
            ("mAP@10", 0.9 * accuracy("mrl", 256, seed, SHIFT[split])),
            ("macs", DATABASE[dataset] * dim + 9e3),
        ):  # fmt: skip
            yield row(
                run, "mrl", "funnel", dim, metric, number, dataset=dataset, split=split, setting=setting
            )


def sheet(run: str, method: str = "mrl", **more: object) -> Sheet:
    """Examples of two queries at three dims: of one class the picture is known, of the other a text."""
    samples = [Sample(True, 0, 0, "sun", picture=DOT), Sample(False, 4, 0, "sun", picture=DOT),
               Sample(False, 5, 1, "moon", text="a crescent"), Sample(True, 1, 1, "moon")]  # fmt: skip
    funnel = [Stage(8, 20, 3, [2, 1]), Stage(64, 6, 2, [1, 2]), Stage(512, 2, 1, [1, 2])]
    queries = [Query(0, [[2, 1], [1, 2], [1, 2]], funnel), Query(3, [[1, 2], [2, 1], [2, 1]], funnel)]
    shown = Examples([8, 64, 512], [0.25, 0.5, 1.0], queries, [Confusion(0, 2, [7, 1, 0], 9)], samples)
    place = {"dataset": "kanji1k", "split": "val", "reduction": "prefix", "label": "", "seed": 0}
    return Sheet(run=run, method=method, model="resnet10t", **(place | more), examples=shown)  # type: ignore[arg-type]
