"""The LightningDataModule: a source, its cache, and the loaders that read it."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from mrl_experiments.data.augment import Augment, Resolution
from mrl_experiments.data.beton import Storage, check_beton
from mrl_experiments.data.cache import Cache
from mrl_experiments.data.loaders import Batch, EvalLoader, Run, TrainLoader
from mrl_experiments.data.order import Batches, TrainingOrder
from mrl_experiments.data.prepared import cache_folder
from mrl_experiments.data.source import Source
from mrl_experiments.data.torch_loader import ArraySamples, TorchLoader
from mrl_experiments.errors import UserError


class ImageData(pl.LightningDataModule):
    """Images of a source in batches (images, labels, index).

    Parameters
    ----------
    name: how runs and tables call the data set. source: see data/source.py; it may refer to `root`.
    loader: `ffcv`, `torch`, or `auto` (FFCV where it imports).
    batch_size: of one process. workers: null is the number of threads torch uses.
    cache: folder for prepared files. size: side of the images a model sees in validation.
    resolution: {start, end, start_epoch, end_epoch} in training; null is `size`.
    augment: see data/augment.py. storage: {split: ...}, see data/beton.py; `default` is for the others.
    betons: {split: path} of ready .beton files instead of the cache.
    """

    views: tuple[str, ...] = ("none", "flip")  # ways to look at a sample: embed.py's tta

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        root: str | None,
        loader: Literal["auto", "ffcv", "torch"],
        batch_size: int,
        workers: int | None,
        cache: str,
        size: int | None,
        resolution: Mapping[str, int] | None,
        augment: Mapping[str, Any],
        storage: Mapping[str, Mapping[str, Any]],
        betons: Mapping[str, str],
        seed: int,
    ) -> None:
        super().__init__()
        self.name, self.source = name, source
        self.num_classes, self.channels, self.splits = source.num_classes, source.channels, source.splits
        self.size = _size(size, source)
        self.batch_size, self.seed, self.betons = batch_size, seed, dict(betons)
        self.workers = workers or torch.get_num_threads()
        self.augment = Augment(**augment)
        self.resolution = Resolution(**resolution) if resolution else Resolution(self.size, self.size)
        self.loader = _choose(loader)
        kept = {split: Storage(**storage.get(split, storage["default"])) for split in self.splits}
        self.cache = Cache(cache_folder(cache), source, kept)
        self._ready: dict[str, tuple[Any, int]] = {}
        for path in self.betons.values():
            self._count(Path(path))

    @property
    def inputs(self) -> dict[str, int]:
        """What a backbone must know of the images."""
        return {"channels": self.channels, "size": self.size}

    def class_facts(self, split: str) -> dict[str, list[Any]]:
        """Return what is known of the classes, a column each in the order of labels; see data/source.py."""
        manifest = self.source.manifest(split)
        names = {"name": manifest["classes"]} if "classes" in manifest else {}
        return {**names, **manifest.get("facts", {})}

    def facts(self, split: str) -> dict[str, Any]:
        """Return what evaluations need to know of a split besides features, labels and classes: nothing."""
        return {}

    def prepare_data(self) -> None:
        """Write what training needs, once, before the processes of a distributed training need it."""
        for split in ("train", "val"):
            self.prepare(split)

    def prepare(self, split: str) -> None:
        """Write one split into the cache unless it is there. Raises UserError for an unknown split."""
        self.samples(split)

    def samples(self, split: str) -> Any:
        """Return what the loader reads, written or checked first: a .beton path, or a sequence of samples."""
        return self._counted(split)[0]

    def _counted(self, split: str) -> tuple[Any, int]:
        """Return samples and their number; files are written or checked once a process."""
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split}", expected=f"one of {', '.join(self.splits)}")
        if split not in self._ready:
            samples = self._prepared(split)
            self._ready[split] = samples, (self._count(samples) if self.loader == "ffcv" else len(samples))
        return self._ready[split]

    def _prepared(self, split: str) -> Any:
        if self.loader == "ffcv":
            return Path(self.betons[split]) if split in self.betons else self.cache.beton(split, self.workers)
        if self.source.size is None:
            return self.cache.files(split, self.workers)
        return ArraySamples(self.cache.array(split, self.workers), self.cache.labels(split))

    def train_dataloader(self) -> TrainLoader:
        """Return the training loader."""
        run, count = self._reader("train", training=True)
        return TrainLoader(TrainingOrder(count, self.batch_size, self.seed), run)

    def batches_per_epoch(self) -> int:
        """Return the number of training batches this process sees in an epoch."""
        return len(self.train_dataloader())

    def val_dataloader(self) -> EvalLoader:
        """Return the validation loader."""
        return self.dataloader("val")

    def dataloader(self, split: str) -> EvalLoader:
        """Return all of a split in order, without augmentation."""
        run, count = self._reader(split, training=False)
        return EvalLoader(count, self.batch_size, run)

    def _reader(self, split: str, *, training: bool) -> tuple[Run, int]:
        samples, count = self._counted(split)
        read = self._batches(samples, self.seed if training else None)
        size = self.resolution.at if training else lambda epoch: self.size
        return lambda batches, epoch: read(batches, size(epoch), epoch), count

    def _batches(self, samples: Any, seed: int | None) -> Callable[[Batches, int, int], Iterator[Batch]]:
        if self.loader == "torch":
            return TorchLoader(samples, self.channels, self.augment, self.workers, seed).run
        from mrl_experiments.data.ffcv_loader import FFCVLoader

        return FFCVLoader(samples, self.channels, self.augment, self.batch_size, self.workers, seed).run

    def _count(self, beton: Path) -> int:
        return check_beton(beton, channels=self.channels, num_classes=self.num_classes)


def _size(size: int | None, source: Source) -> int:
    side = size or source.size
    if side is None:
        raise UserError("data.size is not set", expected="the side in pixels of the images a model sees")
    if source.channels == 1 and side != source.size:
        raise UserError(f"data.size={side}", expected=f"{source.size}: one-channel images are not resized")
    return side


def _choose(loader: str) -> str:
    if loader not in ("auto", "ffcv", "torch"):
        raise UserError(f"data.loader={loader}", expected="auto, ffcv or torch")
    problem = None if loader == "torch" else _ffcv_problem()
    if problem and loader == "ffcv":
        raise UserError(
            f"data.loader=ffcv, but FFCV does not import: {problem}",
            remedy="run make setup and follow what it prints, or use data.loader=torch",
        )
    if problem:
        print(f"FFCV does not import ({problem}); using data.loader=torch")
    return "torch" if problem or loader == "torch" else "ffcv"


@functools.cache
def _ffcv_problem() -> str | None:
    threads = torch.get_num_threads()
    try:
        import ffcv  # noqa: F401
    except Exception as error:
        return str(error)
    finally:
        torch.set_num_threads(threads)  # the import leaves torch with one
    return None
