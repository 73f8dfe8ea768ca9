"""The LightningDataModule of vectors that another model made."""

from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.data.data_module import DataModule
from mrl_experiments.data.loaders.loaders import BatchReader, EvalLoader, TrainLoader, at_once
from mrl_experiments.data.loaders.order import TrainingOrder
from mrl_experiments.data.vectors.pairs import POOL, Pairs, files_of, pair_reader, read_pairs, read_queries
from mrl_experiments.data.vectors.rows import Rows, check_parts, is_held_out, read_rows
from mrl_experiments.embeddings import UNLABELLED
from mrl_experiments.errors import UserError
from mrl_experiments.external.adapted_file import refuse_mixed
from mrl_experiments.external.vector_file import read_labels, read_matrix
from mrl_experiments.notices import print_once

PASSES = 4  # over the rows in an epoch, at most, where neighbours come with them


class VectorData(DataModule):
    """Vectors in batches (x (B, D), y (B,), index (B,)); of pairs x is (queries (B, D), positives (B, D)).

    y is a row's label, else its number, as index is; of pairs (B, 2), which query and which document each is.
    Training batches are made of rows together with their nearest others, since a loss that compares within a
    batch learns most where vectors are near.

    Args:
        name: How runs and tables call the data set.
        base: A file of vectors, see `read_matrix`.
        val: Another, to validate on; None holds out a share of `base`.
        labels: A file of labels (N,) of `base`, or the same file where it has them; None: no labels.
        val_labels: Those of `val`, where both are given.
        pairs: Two files of queries and positives, row by row, one that has both, or a folder in the form of
            BEIR: queries and corpus, with ids, and qrels.tsv or qrels/train.tsv; None: no pairs.
        queries: A file of vectors that are searched in `base`, perhaps encoded otherwise, without judgments:
            each is paired with its nearest document. None: vectors are searched in themselves.
        share: Of the rows, held out by a hash of their content.
        neighbours: That come with each row of a training batch; 0: none.
        anchors: Rows of an epoch whose neighbours are searched.
        batch_size: Rows per batch of one process.
        similarity: By which vectors are compared: cosine, inner_product or l2.
        seed: Of the order, and of the anchors.

    Raises:
        UserError: For files that cannot be read, do not fit each other, or hold too little.
    """

    splits = ("train", "val")
    files_known = True  # what a run was trained on is known by its content

    def __init__(
        self,
        *,
        name: str,
        base: str,
        val: str | None,
        labels: str | None,
        pairs: str | Sequence[str] | None,
        share: float,
        neighbours: int,
        anchors: int,
        batch_size: int,
        seed: int,
        similarity: str = "cosine",
        queries: str | None = None,
        val_labels: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.seed, self.base = name, seed, Path(base).expanduser()
        self.neighbours, self.anchors, self.similarity = neighbours, anchors, similarity
        rows, said = read_rows(read_matrix(self.base), self.base)
        others = [Path(path).expanduser() for path in (val, queries) if path]
        refuse_mixed([self.base, *others, *files_of(pairs)])
        print_once(said)
        if pairs is not None and queries is not None:
            raise UserError("data.pairs and data.queries are both given", expected="one of them")
        self._digest = blake2b(rows.keys.tobytes(), digest_size=16).hexdigest()
        self.rows = _split(rows, val, share)
        self.pairs: dict[str, Pairs] | None = None
        if pairs is not None:
            self.pairs = read_pairs(pairs, rows.shape[1], share)
        elif queries is not None:
            self.pairs = read_queries(Path(queries).expanduser(), self.rows, share, similarity)
        self.judged = pairs is not None
        self.labels: dict[str, NDArray[np.int64]] | None = None
        self.classes: NDArray[Any] | None = None
        if labels is not None or val_labels is not None:
            self.labels, self.classes = _labels(labels, val_labels, self.rows, val)
        self.num_classes = 0 if self.classes is None else len(self.classes)
        self.batch_size = min(batch_size, len(self._training))

    @property
    def _training(self) -> Rows:
        return self.rows["train"] if self.pairs is None else self.pairs["train"].positives

    @property
    def inputs(self) -> dict[str, int]:
        """What a model must know of vectors: how many features they have, and if there are pairs of them."""
        return {"width": self.rows["train"].shape[1]} | ({"pairs": 1} if self.judged else {})

    def files_identity(self) -> str:
        """Return a digest of the vectors, in whatever file they lie."""
        return self._digest

    def state_dict(self) -> dict[str, Any]:
        """Return what a run keeps of its data."""
        return {"name": self.name, "digest": self._digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the vectors with those of a run.

        Raises:
            UserError: If others have their name, unless `accept_changes`.
        """
        if state_dict["name"] == self.name and state_dict["digest"] != self._digest:
            if not self.accept_changes:
                raise UserError(
                    f"{self.base} does not hold the vectors named {self.name} that the run was trained on",
                    expected="the same file; where it lies does not matter",
                    remedy="name others differently: data.name=<name>; or accept_changes=true",
                )
            print_once(f"{self.base}: the vectors have changed since the run was trained")

    def prepare(self, split: str) -> None:
        """Do nothing: vectors are read as they lie."""
        self._check_split(split)

    def prepare_data(self) -> None:
        """Do nothing."""

    def train_dataloader(self) -> TrainLoader:
        """Return the training loader: rows, or pairs, with the nearest others of each."""
        groups = self._groups
        repeated = self.trainer is not None and bool(getattr(self.trainer, "overfit_batches", 0))
        each = max(1, self.batch_size // groups.shape[1])
        order = TrainingOrder(len(groups), each, self.seed, repeated=repeated)
        run = self._reader("train") if self.pairs is None else pair_reader(self.pairs["train"])
        return TrainLoader(order, lambda batches, epoch: run([groups[b].ravel() for b in batches], epoch))

    def val_dataloader(self) -> EvalLoader:
        """Return the validation loader, of pairs where there are any."""
        if self.pairs is None:
            return self.dataloader("val")
        pairs = self.pairs["val"]
        return EvalLoader(len(pairs.queries), self.batch_size, pair_reader(pairs))

    def dataloader(self, split: str) -> EvalLoader:
        """Return the rows of a split in the order of their file."""
        self._check_split(split)
        return EvalLoader(len(self.rows[split]), self.batch_size, self._reader(split))

    def class_facts(self, split: str) -> dict[str, list[Any]]:
        """Return the names of the classes, where labels are names."""
        return {} if self.classes is None else {"name": [str(value) for value in self.classes]}

    def facts(self, split: str) -> dict[str, Any]:
        """Return what evaluations need to know of a split: whether it has labels."""
        return {} if self.labels is not None else UNLABELLED

    @cached_property
    def _groups(self) -> NDArray[np.int64]:
        """Places (A, 1 + K) of training rows, each with its nearest others; (n, 1) where a batch has all."""
        from mrl_experiments.search.neighbours import nearest  # which loads FAISS

        rows = self._training
        if not self.neighbours or self.batch_size >= len(rows):
            return np.arange(len(rows))[:, None]
        random = np.random.default_rng(self.seed)
        pool = np.sort(random.permutation(len(rows))[:POOL])
        most = min(self.anchors, PASSES * len(rows) // (self.neighbours + 1) + 1)
        anchors = random.permutation(len(rows))[:most]
        count = min(self.neighbours, self.batch_size // 2, len(pool) - 1)
        width = rows.shape[1]
        found = nearest(rows[anchors], rows[pool], [width], count + 1, similarity=self.similarity)
        others = pool[found[width].positions]
        own = others == anchors[:, None]
        own[~own.any(axis=1), -1] = True
        return np.column_stack([anchors, others[~own].reshape(len(anchors), count)])

    def _reader(self, split: str) -> BatchReader:
        rows = self.rows[split]
        labels = rows.numbers if self.labels is None else self.labels[split][rows.numbers]
        return at_once(lambda index, _: (rows[index], labels[index]))


def _split(rows: Rows, val: str | None, share: float) -> dict[str, Rows]:
    """Return the rows of both splits; none of training has a copy in validation."""
    if val is None:
        held_out = is_held_out(rows.keys, share)
        parts = {"train": rows.take(~held_out), "val": rows.take(held_out)}
        what = f"data.share={share} of {len(rows):,} vectors"
    else:
        path = Path(val).expanduser()
        others, said = read_rows(read_matrix(path), path)
        print_once(said)
        if others.shape[1] != rows.shape[1]:
            raise UserError(
                f"data.val={val} has {others.shape[1]} dims, data.base {rows.shape[1]}",
                expected="vectors of one model",
            )
        parts = {"train": rows.take(~np.isin(rows.keys, others.keys)), "val": others}
        what = f"data.val={val}"
    check_parts(len(parts["train"]), len(parts["val"]), what)
    return parts


def _labels(
    given: str | None, of_val: str | None, rows: dict[str, Rows], val: str | None
) -> tuple[dict[str, NDArray[np.int64]], NDArray[Any]]:
    """Return the labels (N,) of each split's file as whole numbers from 0, and what they stand for."""
    if given is None or (val is None) != (of_val is None):
        raise UserError(
            f"data.labels={given} with data.val={val} and data.val_labels={of_val}",
            expected="labels of the base, and of data.val where it is given",
            remedy="name the file of those that are missing, or leave out data.val",
        )
    read = {"train": _read_labels("labels", given, rows["train"])}
    read["val"] = read["train"] if of_val is None else _read_labels("val_labels", of_val, rows["val"])
    classes, numbers = np.unique(read["train"], return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"data.labels={given} has one class, {classes[0]}", expected="at least two")
    if len(unknown := np.setdiff1d(read["val"], classes)):
        raise UserError(
            f"data.val_labels={of_val} has {len(unknown)} classes that data.labels={given} lacks, such as "
            f"{unknown[0]}",
            expected="classes of the base",
        )
    places = np.searchsorted(classes, read["val"])
    return {"train": numbers.astype(np.int64), "val": places.astype(np.int64)}, classes


def _read_labels(option: str, given: str, rows: Rows) -> NDArray[Any]:
    labels = read_labels(Path(given).expanduser())
    if len(labels) != len(rows.matrix):
        raise UserError(
            f"data.{option}={given} has {len(labels):,} labels, its file {len(rows.matrix):,} vectors",
            expected="one label for each row",
        )
    return labels
