"""Import files of embeddings as a run, which all commands that read runs can read."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from mrl_experiments.embeddings import (
    FEATURES,
    META,
    UNLABELLED,
    check_finite,
    create,
    finalize,
    is_complete,
    open_arrays,
    read_meta,
    write_classes,
    writing,
)
from mrl_experiments.errors import UserError
from mrl_experiments.external.adapted_file import refuse_mixed
from mrl_experiments.external.vector_file import VectorFile, read_vectors
from mrl_experiments.files import sha256
from mrl_experiments.names import check_name
from mrl_experiments.next_commands import next_command
from mrl_experiments.runs import Run
from mrl_experiments.stored import write_config

BLOCK = 65536
OTHERS = ("database", "train")  # options that name further files, and the splits they become
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Imported:
    """A run made of files: the data set they belong to, and the folder of each split."""

    run: Run
    dataset: str
    queries: Path
    database: Path
    train: Path


def import_run(cfg: DictConfig) -> Imported:
    """Copy the files that evaluate.py was given into a run of their own; what is there already stays.

    Without database=, the vectors are searched in themselves.

    Raises:
        UserError: For files that do not fit each other, values that are no embeddings, names in use, or other
            vectors under the name of an earlier import.
    """
    files = {cfg.names.split: Path(cfg.embeddings)}
    # What an evaluation itself names as its database, such as *_text, is a split of a run and no file.
    files |= {option: Path(cfg[option]) for option in OTHERS if cfg[option] and "*" not in str(cfg[option])}
    if cfg.database and "database" not in files:
        missing = {"database": "/path/to/database.npz", "evaluation": cfg.evaluation._target_.split(".")[-1]}
        raise UserError(
            f"embeddings={cfg.embeddings} needs something else to search in, and database= names no file",
            expected="a second file, of vectors of the same width with labels",
            remedy=next_command("evaluate.py", cfg.root, {"embeddings": cfg.embeddings, **missing}),
        )
    if cfg.names.split in OTHERS:
        raise UserError(f"names.split={cfg.names.split}", expected="a name for the queries, such as test")
    refuse_mixed([*files.values()])
    found = {split: read_vectors(path) for split, path in files.items()}
    width = _common_width(found, files)
    config = _config(cfg.names, Path(cfg.embeddings))
    run = _open_run(Path(cfg.root), config, cfg.names)
    dataset = str(config["data"]["name"])
    names, labels = _encoded({split: p.labels for split, p in found.items() if p.labels is not None})
    meta = {
        "run": run.name,
        "method": config["loss"]["name"],
        "model": config["model"]["name"],
        "seed": config["seed"],
        "dims": _trained_dims(cfg.names.dims, width),
        "dataset": dataset,
        "classes": hashlib.sha256("\0".join(names).encode()).hexdigest()[:16] if names else None,
    }
    folders = {split: run.embeddings(dataset, split) for split in found}
    sources = {split: _digests(part) for split, part in found.items()}
    for split, source in sources.items():
        _check_same(found[split], source, folders[split], files[split])
    for split, part in found.items():
        kept = {**meta, "split": split} | (UNLABELLED if part.labels is None else {})
        kept |= {"ids": True} if part.ids is not None else {}
        _copy(part, labels.get(split), folders[split], kept, sources[split])
        write_classes(folders[split], {"name": names} if names else {})
    queries = folders[cfg.names.split]
    database = folders.get("database", queries)
    return Imported(run, dataset, queries, database, folders.get("train", database))


def _common_width(found: Mapping[str, VectorFile], files: Mapping[str, Path]) -> int:
    widths = {split: part.features.shape[1] for split, part in found.items()}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"{files[split]} has {width}" for split, width in widths.items())
        raise UserError(f"the embeddings differ in width: {shown}", expected="files made by one model")
    return next(iter(widths.values()))


def _config(names: DictConfig, queries: Path) -> dict[str, Any]:
    """Return what a run's config.yaml says of it; the file's name and its folder's stand in for names."""
    model, dataset = names.model or queries.stem, names.dataset or queries.resolve().parent.name
    parts = {"loss": names.method, "model": model, "data": check_name(str(dataset), "names.dataset")}
    return {**{key: {"name": str(name)} for key, name in parts.items()}, "seed": names.seed, "external": True}


def _open_run(root: Path, config: Mapping[str, Any], names: DictConfig) -> Run:
    """Return the run of this configuration, made where it is missing; another's folder is refused.

    Where it is new and called after the files, a line says how to call it otherwise.
    """
    parts = [config[key]["name"] for key in ("loss", "model", "data")]
    seed = [] if config["seed"] is None else [f"s{config['seed']}"]
    run = Run(root / "runs" / re.sub(r"[^\w.+-]", "-", "_".join([*parts, *seed])))
    if run.config_path.exists():
        if OmegaConf.to_container(run.config) != config:
            raise UserError(
                f"{run.folder} holds another run", remedy="name this one differently: names.model=<name>"
            )
    else:
        write_config(run.config_path, config)
        if not names.model:
            model, dataset = (config[part]["name"] for part in ("model", "data"))
            print(
                f"rows call the model {model} and the data {dataset}, after the file and its folder; "
                "names.model= and names.dataset= rename them"
            )
    return run


def _encoded(labels: Mapping[str, NDArray[Any]]) -> tuple[list[str], dict[str, Labels]]:
    """Return int64 labels: integers as they are, strings by their place among all strings, sorted.

    Also those strings: a further one may change what the others become.
    """
    text = {split: part.dtype.kind == "U" for split, part in labels.items()}
    if not any(text.values()):
        return [], {split: part.astype(np.int64) for split, part in labels.items()}
    if not all(text.values()):
        kinds = ", ".join(
            f"{split}: {'strings' if of_text else 'integers'}" for split, of_text in text.items()
        )
        raise UserError(f"the labels differ in kind ({kinds})", expected="integers or strings throughout")
    classes = np.unique(np.concatenate(list(labels.values())))
    return classes.tolist(), {split: np.searchsorted(classes, part) for split, part in labels.items()}


def _trained_dims(dims: Sequence[int] | None, width: int) -> list[int]:
    trained = sorted(set(dims or [width]))
    if not 1 <= trained[0] <= trained[-1] <= width:
        raise UserError(f"names.dims={trained}", expected=f"dims from 1 to the embeddings' width {width}")
    return trained


def _digests(part: VectorFile) -> dict[str, str]:
    return {str(path.relative_to(part.root)): sha256(path) for path in part.files}


def _check_same(part: VectorFile, source: Mapping[str, str], folder: Path, name: Path) -> None:
    """Raise UserError where other vectors were imported under this name: their rows would be mixed.

    The same vectors in another file, such as one with labels, are no others.
    """
    if (folder / META).exists():
        there = read_meta(folder).get("source", {})
        if sorted(there.values()) != sorted(source.values()) and not _are_stored(part.features, folder):
            raise UserError(
                f"{name} holds other vectors than {folder}, which were imported under this name",
                expected="one name for each set of vectors, since rows are kept by name",
                remedy=f"names.model=<another name>; or delete {folder.parents[2]} with its rows",
            )


def _are_stored(features: NDArray[Any], folder: Path) -> bool:
    stored = np.load(folder / FEATURES, mmap_mode="r")
    blocks = (slice(start, start + BLOCK) for start in range(0, len(stored), BLOCK))
    with np.errstate(over="ignore"):
        return stored.shape == features.shape and all(
            np.array_equal(stored[rows], features[rows].astype(np.float32)) for rows in blocks
        )


def _copy(
    part: VectorFile, labels: Labels | None, folder: Path, meta: Mapping[str, Any], source: Mapping[str, str]
) -> None:
    meta = {**meta, "source": source}
    if is_complete(folder, meta):
        return
    with writing(folder):
        if not is_complete(folder, meta):  # else another process has written it meanwhile
            _write(part, labels, folder, meta)


def _write(part: VectorFile, labels: Labels | None, folder: Path, meta: Mapping[str, Any]) -> None:
    name, count = str(part.files[0]), len(part.features)
    create(folder, count, part.features.shape[1])
    features, stored = open_arrays(folder)
    for start in range(0, count, BLOCK):
        rows = slice(start, start + BLOCK)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused below
            features[rows] = part.features[rows]
    check_finite(features, name, remedy="leave these samples out, or embed them again")
    stored[:] = -1 if labels is None else labels
    features.flush()
    stored.flush()
    finalize(folder, None, meta, part.ids)
    print(f"{folder}: {count:,} embeddings from {name}", flush=True)
