"""The folder of an index that is served: whose vectors it holds, and what is shown of each."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments import embeddings
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.storage import SPEC, load_index, save_index
from mrl_experiments.errors import UserError, command_line, said
from mrl_experiments.examples import plain_text
from mrl_experiments.files import (
    atomic_folder,
    explain_os_errors,
    fingerprint,
    hidden_folder,
    read_object,
    require_unchanged,
    sha256,
    write_json,
)
from mrl_experiments.loaded.inputs import SequenceInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.locks import acquire
from mrl_experiments.looks import Origin, shown_rows, thumbnail
from mrl_experiments.runs import ID, Run

SERVED, PAYLOAD = "served.json", "payload.jsonl"
VERSION = 1
REMEDY = "write the folder again"
SHORTLIST, RESULTS = 200, 10  # of an index that is built without a recall
BLOCK = 4096  # samples that are shown at a time


class Payload:
    """What is shown of each row of an index: JSON objects, a line each, of which those asked for are read.

    Args:
        path: The file, which is mapped into memory.
    """

    def __init__(self, path: Path) -> None:
        self._bytes = np.memmap(path, np.uint8, "r")
        self._ends = np.flatnonzero(self._bytes == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> dict[str, Any]:
        start = self._ends[row - 1] + 1 if row else 0
        found: dict[str, Any] = json.loads(self._bytes[start : self._ends[row]].tobytes())
        return found


@dataclass(frozen=True)
class Folder:
    """An index with what is shown of its vectors.

    Attributes:
        index: It.
        payload: By rows, or None.
        known: The folder says whose vectors these are.
    """

    index: AdaptiveIndex
    payload: Payload | None
    known: bool

    @cached_property
    def _live_rows(self) -> NDArray[np.int64]:
        """The rows of vectors that can be found, in the order of their ids."""
        deleted, ids = self.index.deleted, self.index.ids
        rows = np.arange(len(ids)) if deleted is None else np.flatnonzero(~deleted)
        return rows[np.argsort(ids[rows], kind="stable")]

    @cached_property
    def _ids(self) -> NDArray[np.int64]:
        return self.index.ids[self._live_rows]

    @property
    def live(self) -> int:
        """How many vectors can be found."""
        return len(self._live_rows)

    def shown(self, ids: NDArray[np.int64]) -> list[dict[str, Any] | None]:
        """Return the payload of each of some ids of the index."""
        if self.payload is None:
            return [None] * len(ids)
        places = np.searchsorted(self._ids, ids)
        return [self.payload[row] for row in self._live_rows[places].tolist()]


def write_folder(
    folder: Path | str,
    index: AdaptiveIndex,
    run: Run,
    payload: Iterable[Mapping[str, Any]] | None = None,
    *,
    checkpoint: str = "last",
) -> Path:
    """Write an index for `serve.py index=`, with whose vectors it holds and what is shown of each.

    Args:
        folder: Where; it must not be there yet, and is whole or not at all.
        index: Of vectors (N, D) of all features, as `load(run).encode(...)` gives them.
        run: That made the vectors.
        payload: N JSON objects in the order of the vectors; the page shows `image`, a data URL, `label` and
            `text`.
        checkpoint: As in `load`.

    Returns:
        The folder.

    Raises:
        UserError: If it is there, or the payload has another length.

    Example:
        ::

            model = load("outputs/runs/mrl_resnet10t_digits_s0")
            index = AdaptiveIndex.build(model.encode(paths), recall=0.95)
            write_folder("photos", index, model.run, [{"label": path.name} for path in paths])
    """
    folder = Path(folder)
    with acquire(hidden_folder(folder, "lock"), f"writes {folder}"):
        if folder.exists():  # perhaps written by another process meanwhile
            raise UserError(f"{folder} is there already", expected="a new folder", remedy="move it away")
        with atomic_folder(folder) as part:
            save_index(index, part)
            described: dict[str, Any] = {"version": VERSION, "of": _identity(run, checkpoint)}
            described["index"] = fingerprint(part / SPEC)
            if payload is not None:
                _write_payload(part / PAYLOAD, payload, len(index))
                described["payload"] = fingerprint(part / PAYLOAD)
            write_json(part / SERVED, described)
    return folder


def _write_payload(path: Path, payload: Iterable[Mapping[str, Any]], expected: int) -> None:
    count = 0
    with explain_os_errors(path), path.open("w", encoding="utf-8") as file:
        for one in payload:
            try:
                line = json.dumps(dict(one), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
                file.write(line + "\n")
            except (TypeError, ValueError, RecursionError) as error:
                raise UserError(
                    f"the payload of row {count:,} is no JSON object: {said(error)}",
                    expected="a mapping of texts, finite numbers, lists and mappings",
                ) from error
            count += 1
    if count != expected:
        raise UserError(f"a payload of {count:,} for {expected:,} vectors", expected="one for each")


def open_folder(folder: Path, model: LoadedModel, checkpoint: str) -> Folder:
    """Open the folder of an index that a run's queries search.

    Raises:
        UserError: If it is damaged, of other dims, or holds vectors of another run or checkpoint.
    """
    index, run = load_index(folder), model.run
    if index.width != model.width:
        raise UserError(
            f"index={folder}: its vectors have {index.width} dims, those of run {run.name} {model.width}",
            expected="an index of all features of this run",
        )
    if not (folder / SERVED).exists():
        return Folder(index, None, known=False)
    described = read_object(folder / SERVED, REMEDY, version=VERSION)
    objects = [
        described.get(name) for name in ("of", "index", *(["payload"] if "payload" in described else []))
    ]
    theirs: Any = described.get("of")
    if not all(isinstance(one, dict) for one in objects) or not {"run", "id", "weights"} <= theirs.keys():
        raise UserError(f"{folder / SERVED} is damaged: it lacks what it always says", remedy=REMEDY)
    require_unchanged(folder / SPEC, described["index"], REMEDY)
    ours = _identity(run, checkpoint)
    if (theirs["id"], theirs["weights"]) != (ours["id"], ours["weights"]):
        what = "another checkpoint" if theirs["id"] == ours["id"] else f"another run, {theirs['run']}"
        raise UserError(
            f"index={folder} holds vectors of {what}",
            expected=f"those of checkpoint={checkpoint} of {run.name}",
        )
    payload = None
    if "payload" in described:
        require_unchanged(folder / PAYLOAD, described["payload"], REMEDY)
        payload = Payload(folder / PAYLOAD)
        if len(payload) != len(index):
            raise UserError(
                f"{folder / PAYLOAD} has {len(payload):,} lines for {len(index):,}", remedy=REMEDY
            )
    return Folder(index, payload, known=True)


def _identity(run: Run, checkpoint: str) -> dict[str, Any]:
    return {"run": run.name, "id": run.config.get(ID), "weights": sha256(run.checkpoint_at(checkpoint))}


def write_split(folder: Path, model: LoadedModel, split: str, recall: float | None, checkpoint: str) -> None:
    """Write the folder of an index of the embeddings of a split, with pictures or texts where they are known.

    Raises:
        UserError: If the run has no such embeddings, or of another checkpoint.
    """
    run, dataset = model.run, str(model.run.config.data.name)
    if isinstance(model.inputs, SequenceInputs):
        raise UserError(
            f"split={split}: run {run.name} is a language model, whose embeddings are of tokens",
            remedy="build an index of texts in Python: serve.folder.write_folder",
        )
    command = command_line("embed.py", {"run": run.name, "splits": f"[{split}]"})
    part = run.embeddings(dataset, split)
    if not (part / embeddings.META).exists():
        raise UserError(f"split={split}: run {run.name} has no embeddings of it", remedy=command)
    found = embeddings.load(part)
    if found.meta.get("weights") != sha256(run.checkpoint_at(checkpoint)):
        raise UserError(
            f"{part} is of another checkpoint", expected=f"checkpoint={checkpoint}", remedy=command
        )
    if recall is None:
        dims = (model.dims[0],)
        stages = ((dims[0], min(SHORTLIST, len(found))), (model.width, min(RESULTS, len(found))))
        index = AdaptiveIndex.build(found.features, None, IndexSpec(dims, "Flat", stages))
    else:
        index = AdaptiveIndex.build(found.features, recall=recall)
    write_folder(folder, index, run, _payload(model, found), checkpoint=checkpoint)
    print(f"{folder}: an index of {len(found):,} embeddings of {dataset} {split}", flush=True)


def _payload(model: LoadedModel, found: embeddings.Embeddings) -> Iterator[dict[str, Any]]:
    """Yield what is shown of each embedding: its id and label, and a small picture or a text."""
    names = found.classes.get("name") or model.classes
    labels = found.labels.tolist() if found.has_labels else None
    looks = _looks(model.run, found)
    for row in range(len(found)):
        shown: dict[str, Any] = {} if found.ids is None else {"id": str(found.ids[row])}
        if labels is not None:
            shown["label"] = str(names[labels[row]]) if names and labels[row] < len(names) else labels[row]
        yield shown | next(looks, {})


def _looks(run: Run, found: embeddings.Embeddings) -> Iterator[dict[str, str]]:
    for start in range(0, len(found), BLOCK):
        try:
            rows = range(start, min(start + BLOCK, len(found)))
            looks = shown_rows(Origin(run, None, {}), found, rows)
        except UserError as error:
            print(f"neither pictures nor texts are shown: {error.problem}", flush=True)
            return
        yield from (
            {"text": plain_text(one)} if isinstance(one, str) else {"image": thumbnail(one)} for one in looks
        )
