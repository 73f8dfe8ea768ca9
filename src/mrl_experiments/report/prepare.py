"""Result rows as one tidy data frame: each value with its line, and a column for each setting."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from mrl_experiments.data.reading import shown
from mrl_experiments.metric_names import DEVIATION, fault, in_percent
from mrl_experiments.nesting import default_dims
from mrl_experiments.report.styles import key_of
from mrl_experiments.results import COLUMNS, DIGITS, DRAW, ResultRow, Setting
from mrl_experiments.runs import PRINTED

IN_MFLOPS = {"macs": "MFLOPs", "network_macs": "network_MFLOPs", "head_macs": "head_MFLOPs"}
OF_OWN_CLASSIFIER = [  # evaluations
    "linear", "language", "superclass", "trends", "adaptive_classification", "adaptive_decoding",
]  # fmt: skip
ROLES = {
    "val": "main", "test": "main", "pairs": "main", "query": "unseen", "unseen": "unseen", "stream": "stream",
}  # fmt: skip
PLACE = ["model", "dataset", "label", "table"]
# What a measurement is: only its seeds are averaged. The paper's rows have a table, source and anomaly, too.
IDENTITY = [
    "line", "method", "model", "home", "dataset", "split", "evaluation", "reduction", "dim", "setting",
    "label", "metric", "table",
]  # fmt: skip


def faulty(frame: pd.DataFrame) -> list[str]:
    """Name the runs with values that no metric can have: no mean, figure or claim counts them."""
    bad = frame[frame.fault != ""].drop_duplicates("number")
    return [
        f"{len(group)} row{'s' * (len(group) > 1)} of {shown(run)} {'are' if len(group) > 1 else 'is'}"
        f" {reason} ({shown(f'{metric} of {evaluation}')}{in_percent(metric, group.value)}):"
        " their cells say so, figures and claims leave them out"
        for (run, evaluation, metric, reason), group in bad.groupby(["run", "evaluation", "metric", "fault"])
    ]


def repeated_seeds(cells: pd.DataFrame) -> list[str]:
    """Name the runs that claim one seed: they differ in something that rows don't say, and stand apart."""
    apart = cells[cells["copy"] != ""].groupby(["home", "model", "line", "evaluation"])
    return [
        shown(f"{' and '.join(sorted({*group['copy']}))} have the same seed and differ ({evaluation} of"
                  f" {line}, {home}): they stand apart; name the files to keep with rows=[...]")
        for (home, _, line, evaluation), group in apart
    ]  # fmt: skip


def tidy(rows: Sequence[ResultRow], homes: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the rows as a frame; a row of an FF run may belong to two lines or to none.

    An FF run counts for the line "ff" only at the dim it was trained at: a model for each dim. Its other
    prefixes and its reductions are lines of their own, for the widest FF run alone (Table 2).

    Single random draws are left out: another row holds their mean. homes: by data set, the one to show it
    with, such as imagenet for imagenet_r.

    Returns:
        The columns of a result row, with costs in MFLOPs and `setting` as text, and: number (the row's place
        among `rows`), line, home, role, interpolated (whether its dim lies between the trained ones), fault
        (why its value can be none), stated (the deviation the run gives itself), settings (as texts by name),
        `@<name>` for each setting ("" where a row has none), and the paper's table, source and anomaly.
    """
    records = [{**vars(row), "number": number} for number, row in enumerate(rows) if DRAW not in row.setting]
    published = dict.fromkeys(("table", "source", "anomaly"), "")  # what the paper's rows have besides
    frame = pd.DataFrame(records, columns=[*COLUMNS, *published, "number"]).fillna(published)
    frame["settings"] = pd.Series([_texts(setting) for setting in frame.setting], dtype=object)
    frame["setting"] = [" ".join(f"{n}={text}" for n, text in texts.items()) for texts in frame.settings]
    typed = [
        {
            f"@{n}": int(text) if text.isdecimal() and len(text) <= DIGITS else text
            for n, text in texts.items()
        }
        for texts in frame.settings
    ]
    spread = pd.DataFrame(typed, index=frame.index, dtype=object)
    frame = pd.concat([frame, spread.where(spread.notna(), "")], axis=1)
    frame["value"] = frame.value.astype(float) / np.where(frame.metric.isin(IN_MFLOPS), 1e6, 1.0)
    frame["metric"] = frame.metric.replace(IN_MFLOPS)
    frame["fault"] = [fault(*pair) for pair in zip(frame.metric, frame.value, strict=True)]
    frame["role"] = frame.split.map(ROLES).fillna("shift")
    frame["home"] = frame.dataset.replace(dict(homes or {}))
    frame["seed"] = frame.seed.fillna(-1).astype(int)
    label = frame.label.fillna("")
    both = (label == "").groupby([frame[name] for name in ("home", "model")]).transform("any")
    frame["label"] = label.where((label != PRINTED) | both, "")  # a recipe is said where there is another
    frame = _with_lines(frame)
    at = ["run", *IDENTITY]
    stated = frame[frame.metric.str.endswith(DEVIATION) & (frame.fault == "")]
    stated = stated.assign(metric=stated.metric.str.removesuffix(DEVIATION)).drop_duplicates(at)
    return frame.merge(stated[[*at, "value"]].rename(columns={"value": "stated"}), how="left", on=at)


@cache
def _texts(setting: Setting) -> Mapping[str, str]:
    """Return the values of a setting as they are shown; a funnel's stages also tell its first shortlist."""
    match setting.get("stages"):
        case ((_, shortlist), *_):
            return Setting(setting, shortlist=shortlist).texts()
    return setting.texts()


def _with_lines(frame: pd.DataFrame) -> pd.DataFrame:
    frame["interpolated"] = False
    for _, group in frame.groupby(PLACE, sort=False):
        trained = {*group.dim[group.trained]}
        known = trained | {*default_dims(int(max(trained, default=group.dim.max())))}
        frame.loc[group.index, "interpolated"] = ~group.dim.isin(known)
    ff, prefix = frame.method == "ff", frame.reduction == "prefix"
    at = frame.dim.where(ff & prefix & frame.trained)  # the dim that an FF run was trained at
    own = at.groupby([frame.run, frame.table]).transform("max")
    widest = own == at.groupby([frame[name] for name in PLACE]).transform("max")
    frame["line"] = list(map(key_of, frame.method, frame.reduction, frame.evaluation, frame.label))
    firsts = ["ff_prefix" + line[2:] for line in frame.line]
    first = frame.assign(line=firsts)[ff & prefix & widest & ~frame.evaluation.isin(OF_OWN_CLASSIFIER)]
    return pd.concat([frame[~ff | (frame.dim == own).where(prefix, widest)], first], ignore_index=True)


def values(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """Return a column by the name that a description calls it: of the row, or a setting ("" without it)."""
    name = "home" if name == "dataset" else name
    if name in (*COLUMNS, "line", "home", "copy"):
        return frame[name]
    return frame[f"@{name}"] if f"@{name}" in frame else pd.Series("", index=frame.index, dtype=object)
