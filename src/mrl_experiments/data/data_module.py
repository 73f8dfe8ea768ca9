"""What the LightningDataModules of images, of text and of both have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from mrl_experiments.data.file_table import Files, are_same, file_table, table_digest, unpack
from mrl_experiments.data.loaders.loaders import EvalLoader, TrainLoader, training_splits
from mrl_experiments.errors import UserError


class DataModule(pl.LightningDataModule):
    """Splits that are prepared once and read in batches (inputs, labels, index).

    Attributes:
        name: How runs and tables call the data set.
        source: Where samples come from.
        splits: The names of its splits.
        views: Ways to look at a sample, embed.py's tta.
        accept_changes: Whether a run's files may have changed since it was trained.
        files_known: Whether `load_state_dict` has had the files of a run.
    """

    name: str
    source: Any
    splits: Sequence[str]
    views: tuple[str, ...] = ("none",)
    accept_changes = False
    files_known = False
    _as_trained: str | None = None  # the digest of a run's files, where these are the same

    def prepare(self, split: str) -> None:
        """Write one split into the cache unless it is there.

        Raises:
            UserError: For an unknown split.
        """
        raise NotImplementedError

    def train_dataloader(self) -> TrainLoader:
        """Return the training loader."""
        raise NotImplementedError

    def dataloader(self, split: str) -> EvalLoader:
        """Return all of a split in order, without augmentation."""
        raise NotImplementedError

    def show(self, split: str, rows: Sequence[int]) -> list[Any]:
        """Return what people see of the samples whose embeddings are `rows` of a split.

        Returns:
            For each an image (H, W, C) uint8 or a text.

        Raises:
            UserError: If they cannot be shown, or are not there any more.
        """
        raise UserError(f"samples of {self.name} {split} cannot be shown")

    def files(self) -> dict[str, list[Path]] | None:
        """Return the files of each split of the source, or None where it has none of its own."""
        return None

    def _file_digests(self) -> dict[str, str]:
        """Return, for each split where they are known, the digests of its files, joined."""
        return {}

    def files_root(self) -> Path:
        """Return the folder below which files have their names."""
        return Path(self.source.root)

    def newest_change(self) -> int | None:
        """Return when, in ns, the last of the files or of the folders that hold them was changed, if any."""
        if (files := self.files()) is None:
            return None
        root, paths = self.files_root(), [path for part in files.values() for path in part]
        above = {folder for path in paths for folder in path.parents}
        inside = {folder for folder in above if folder == root or root in folder.parents}
        return max(path.stat().st_mtime_ns for path in [*paths, *inside])

    def files_identity(self) -> str | None:
        """Return a digest of the files of all splits: a run's own where they are the same; None: no files."""
        return self._as_trained or (None if self.files() is None else self.source.identity().get("files"))

    def _table(self) -> Files | None:
        files = self.files()
        return None if files is None else file_table(files, self.files_root(), self._file_digests())

    def prepare_data(self) -> None:
        """Write what training needs, once, before the processes of a distributed training need it."""
        for split in training_splits(self):
            self.prepare(split)

    def val_dataloader(self) -> EvalLoader:
        """Return the validation loader."""
        return self.dataloader("val")

    def batches_per_epoch(self) -> int:
        """Return the number of training batches this process sees in an epoch."""
        return len(self.train_dataloader())

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split}", expected=f"one of {', '.join(self.splits)}")

    def _compare_files(self, kind: str, state_dict: dict[str, Any]) -> None:
        """Compare the files with those that a run of data of the same name keeps, where it keeps any.

        Args:
            kind: What the files are: images or texts.
            state_dict: Of the run's data.

        Raises:
            UserError: When files have changed, unless `accept_changes`, or when some that the run was trained
                on would be in another split.
        """
        packed: Tensor | None = state_dict.get("files")
        if packed is None or state_dict.get("name") != self.name or (now := self._table()) is None:
            return
        before, self.files_known = unpack(packed), True
        what = f"{kind} of {self.name}"
        if are_same(what, before, now, self.files_root(), accept_changes=self.accept_changes):
            self._as_trained = table_digest(before)
