"""A run with its index and its cascade, and the thread that computes for the requests."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from omegaconf import DictConfig

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier
from mrl_experiments.adaptive.classification.policies.uniform import Uniform
from mrl_experiments.adaptive.retrieval.spec import check_stages, funnel
from mrl_experiments.errors import UserError
from mrl_experiments.loaded.inputs import SequenceInputs
from mrl_experiments.loaded.model import LoadedModel, load
from mrl_experiments.runs import find_run
from mrl_experiments.serve.batching import Batcher, Full, Task
from mrl_experiments.serve.folder import Folder, open_folder, write_split
from mrl_experiments.serve.metrics import Metrics
from mrl_experiments.serve.reading import Given, Limits, Read, kinds, read_all
from mrl_experiments.serve.refused import Refused
from mrl_experiments.serve.tasks import Classify, Embed, Search

READERS = 4  # requests whose pictures are decoded at a time
SHORT = 4_000  # characters: texts that are read at once, in no thread of their own
Stages = tuple[tuple[int, int], ...]


@dataclass
class Service:
    """What a server answers with.

    Attributes:
        model: The run.
        folder: The index, or None.
        cascade: Fitted thresholds, or None.
        limits: What requests may bring.
        batch: How many inputs a batch has.
        wait: How long the first of a batch waits for others, in seconds.
        queue: How many inputs it holds at once.
    """

    model: LoadedModel
    folder: Folder | None
    cascade: Cascade | None
    limits: Limits
    batch: int
    wait: float
    queue: int

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.metrics.watch(lambda: self.batcher.held if self.begun else 0)
        self.begun = False

    def begin(self) -> None:
        """Start the thread that computes."""
        observe = self.metrics.batches.observe
        self.batcher = Batcher(
            self._features, batch=self.batch, wait=self.wait, queue=self.queue, seen=observe
        )
        self.readers = anyio.CapacityLimiter(READERS)
        self.begun = True

    def end(self) -> None:
        """Answer what waits, and end the thread."""
        self.begun = False
        self.batcher.close()

    @property
    def kinds(self) -> list[str]:
        """What is read: text, image or both."""
        return [*kinds(self.model.inputs)]

    @property
    def classifies(self) -> bool:
        """Whether the run tells classes apart."""
        return self.model.heads is not None and not isinstance(self.model.inputs, SequenceInputs)

    @property
    def searched_dims(self) -> list[int]:
        """The nested dims by which the index can be searched."""
        if self.folder is None:
            return []
        return [dim for dim in self.model.dims if dim >= self.folder.index.spec.dims[0]]

    @property
    def usual_results(self) -> int:
        """How many neighbours a search finds that names no number."""
        assert self.folder is not None
        index = self.folder.index
        return index.spec.stages[-1][1] if index.promise is None else index.promise.k

    def _features(self, items: list[Any]) -> Any:
        return self.model.encode(items, self.model.width, normalize=False, batch_size=self.batch)

    async def answers(self, given: Sequence[Given], task: Task) -> tuple[list[Any], int]:
        """Return an answer for each input, and how many tokens were read.

        Raises:
            Refused: For too many inputs, those that do not fit, and when the queue is full.
        """
        if len(given) > self.limits.inputs:
            raise Refused(f"{len(given):,} inputs: at most {self.limits.inputs:,}", param="input")
        try:
            with self.batcher.holding(len(given)):
                read = await self._read(given)
                rows: dict[str, list[int]] = {}
                for row, one in enumerate(read):
                    rows.setdefault(one.kind, []).append(row)
                waiting = [
                    self.batcher.submit([read[row].item for row in some], kind, task)
                    for kind, some in rows.items()
                ]
                parts = await asyncio.gather(*map(asyncio.wrap_future, waiting))
        except Full as error:
            raise Refused("too many requests wait; try again", status=503, code="overloaded") from error
        found: list[Any] = [None] * len(given)
        for some, part in zip(rows.values(), parts, strict=True):
            for row, one in zip(some, part, strict=True):
                found[row] = one
        return found, sum(one.tokens for one in read)

    async def _read(self, given: Sequence[Given]) -> list[Read]:
        if sum(len(one.value) for one in given) <= SHORT and self.kinds == ["text"]:
            return read_all(self.model.inputs, given, self.limits)
        reading = partial(read_all, self.model.inputs, given, self.limits)
        return await anyio.to_thread.run_sync(reading, limiter=self.readers)

    def embedding(self, dimensions: int | None) -> Embed:
        """Return what makes vectors of a nested dim."""
        return Embed(self._nested(dimensions) or self.model.dim)

    def _nested(self, dimensions: int | None) -> int | None:
        if dimensions is not None and dimensions not in self.model.dims:
            raise Refused(f"dimensions={dimensions}: one of {list(self.model.dims)}", param="dimensions")
        return dimensions

    def classification(self, dimensions: int | None, confidence: float | None) -> Classify:
        """Return what classifies: by one dim, by one threshold for all dims, or by the fitted cascade.

        Raises:
            Refused: For a run without classes, and for both options at once.
        """
        model = self.model
        if model.heads is None or not self.classifies:
            raise Refused(f"run {model.run.name} has no classes", status=404, code="no_classes")
        if dimensions is not None and confidence is not None:
            raise Refused("dimensions and confidence: at most one of them", param="confidence")
        if (dim := self._nested(dimensions)) is not None:
            return Classify(Cascade((dim,), ()), model.heads)
        if confidence is not None:
            return Classify(Uniform(confidence).cascade(model.dims), model.heads)
        return Classify(self.cascade or Cascade((model.dim,), ()), model.heads)

    def search(
        self, k: int | None, dimensions: int | None, stages: Sequence[tuple[int, int]] | None
    ) -> Search:
        """Return what searches: as the index was built for, by fewer dims, or by stages.

        Raises:
            Refused: Without an index, for dims and stages at once, and for more results than may be.
            UserError: For stages that do not nest.
        """
        if self.folder is None:
            raise Refused("no index: it is named when the server is started", status=404, code="no_index")
        if stages is not None and (dimensions is not None or k is not None):
            raise Refused(
                "stages have dims and numbers of their own: leave out dimensions and k", param="stages"
            )
        index = self.folder.index
        if (
            stages is None
            and dimensions is None
            and index.promise is not None
            and k in (None, index.promise.k)
        ):
            return Search(None, index)
        chosen = self._stages(k, dimensions) if stages is None else check_stages(stages, index.spec.dims)
        if chosen[-1][0] > index.width:
            raise Refused(f"a stage of {chosen[-1][0]} dims: at most {index.width}", param="stages")
        if (most := max(keep for _, keep in chosen)) > self.limits.results:
            raise Refused(
                f"{most:,} candidates: at most {self.limits.results:,}", param="stages" if stages else "k"
            )
        return Search(chosen, index)

    def _stages(self, k: int | None, dimensions: int | None) -> Stages:
        """Return the usual stages with another number of results, or those that end at fewer dims."""
        assert self.folder is not None
        spec, k = self.folder.index.spec, k or self.usual_results
        if dimensions is None:
            dims = [dim for dim, _ in spec.stages]
            return funnel(dims[0], dims[1:], max(k, spec.stages[0][1]), k)
        if not spec.dims[0] <= dimensions <= self.folder.index.width:
            raise Refused(
                f"dimensions={dimensions}: from {spec.dims[0]} to {self.folder.index.width}",
                param="dimensions",
            )
        scanned = max(dim for dim in spec.dims if dim <= dimensions)
        later = [dimensions] if dimensions > scanned else []
        return funnel(scanned, later, max(k, spec.stages[0][1]), k)


def open_service(cfg: DictConfig) -> Service:
    """Return the service that options describe.

    Raises:
        UserError: For no run or several, one that reads neither text nor images, an index or a cascade of
            another run.
    """
    run = find_run(cfg.root, cfg.run)
    for option, of in (("inputs", "queue"), ("request_bytes", "queue_bytes")):
        if cfg[option] > cfg[of]:
            raise UserError(
                f"{option}={cfg[option]} of a request, {of}={cfg[of]}", expected="a queue that holds them"
            )
    model = load(run, trust=cfg.trust, checkpoint=cfg.checkpoint, weights=cfg.weights, device=cfg.device)
    if not kinds(model.inputs):
        raise UserError(
            f"run={cfg.run} reads vectors of another model", expected="a run that reads texts or images"
        )
    limits = Limits(cfg.inputs, cfg.pixels, cfg.request_pixels, cfg.characters, cfg.results)
    cascade = None if cfg.cascade is None else _cascade(Path(cfg.cascade), model)
    folder = _folder(cfg, model)
    return Service(model, folder, cascade, limits, cfg.batch, cfg.wait / 1000, cfg.queue)


def _folder(cfg: DictConfig, model: LoadedModel) -> Folder | None:
    if cfg.index is None:
        if cfg.split is not None:
            raise UserError(f"split={cfg.split} without index=", expected="the folder where its index goes")
        return None
    path = Path(cfg.index).expanduser()
    if cfg.split is not None and not path.exists():
        write_split(path, model, cfg.split, cfg.recall, cfg.checkpoint)
    folder = open_folder(path, model, cfg.checkpoint)
    if not folder.known:
        print(f"note: {path} does not say whose vectors it holds; they are taken for this run's", flush=True)
    return folder


def _cascade(path: Path, model: LoadedModel) -> Cascade:
    """Return the thresholds that were fitted to the run's classifiers."""
    fitted = AdaptiveClassifier.load(path.expanduser())
    assert fitted.cascade is not None
    ours, theirs, dims = model.heads, fitted.heads, fitted.cascade.dims
    same = ours is not None and {*dims} <= {*model.dims}
    for dim in dims if same and theirs is not None else ():
        pairs = zip(ours.at(dim), theirs.at(dim), strict=True)  # type: ignore[union-attr]
        same = same and all(a.shape == b.shape and np.allclose(a, b, atol=1e-5) for a, b in pairs)
    if not same:
        raise UserError(
            f"cascade={path} was fitted to other classifiers, of the dims {list(dims)}",
            expected=f"those of run {model.run.name}, of {list(model.dims)}",
        )
    return fitted.cascade
