"""The LightningDataModule: a source, its cache, and the loaders that read it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mrl_experiments.data.advice import advice
from mrl_experiments.data.artifact_cache import cache_folder
from mrl_experiments.data.data_module import DataModule
from mrl_experiments.data.file_table import pack, with_digests
from mrl_experiments.data.images.image_files import plain
from mrl_experiments.data.images.read_image import UnreadableImages, read_image
from mrl_experiments.data.images.split_folders import named_like
from mrl_experiments.data.loaders.augment import Augment, Resolution
from mrl_experiments.data.loaders.beton import Storage, check_beton
from mrl_experiments.data.loaders.cache import Cache
from mrl_experiments.data.loaders.loaders import (
    Batch,
    BatchReader,
    EvalLoader,
    TrainLoader,
    train_loader,
    training_splits,
)
from mrl_experiments.data.loaders.order import Batches, balanced, world
from mrl_experiments.data.loaders.torch_loader import ArrayLoader, ArraySamples, TorchLoader
from mrl_experiments.data.source import Source
from mrl_experiments.errors import UserError

LATER = 1 << 20  # epochs from here on are drawn as no training draws them


class ImageData(DataModule):
    """Images of a source in batches (images (B, C, size, size), labels (B,), index (B,)).

    Args:
        name: How runs and tables call the data set.
        source: Where samples come from, see data/source.py; it may refer to `root`.
        loader: `ffcv`, `torch`, or `auto`: FFCV where it imports, but for small images on a CPU.
        batch_size: Images per batch of one process.
        workers: That read and prepare; None is the number of threads torch uses, and with 0 this process
            reads (one more prepares).
        cache: The folder of prepared files.
        size: The side in pixels of the images a model sees in validation; None is the source's own.
        resolution: {start, end, start_epoch, end_epoch} in training; None is `size`.
        augment: See data/loaders/augment.py.
        storage: {split: ...}, see data/loaders/beton.py; `default` is for the others.
        betons: {split: path} of ready .beton files instead of the cache.
        balance: 1 draws all classes equally often in training, however large they are; see `balanced`.
    """

    views: tuple[str, ...] = ("none", "flip")

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
        resolution: Mapping[str, Any] | None,
        augment: Mapping[str, Any],
        storage: Mapping[str, Mapping[str, Any]],
        betons: Mapping[str, str],
        seed: int,
        balance: float | None = None,
    ) -> None:
        super().__init__()
        self.name, self.source = name, source
        self.num_classes, self.channels, self.splits = source.num_classes, source.channels, source.splits
        self.size = _size(size, source)
        self.batch_size, self.seed, self.betons = batch_size, seed, dict(betons)
        self.balance = balance
        self.workers = torch.get_num_threads() if workers is None else workers
        self.augment = Augment(**augment)
        self.resolution = Resolution(**resolution) if resolution else Resolution.of(self.size)
        self.loader = _choose(loader, reads_fast=self._whole and not betons and not torch.cuda.is_available())
        kept = {split: Storage(**storage.get(split, storage["default"])) for split in self.splits}
        self.cache = Cache(cache_folder(cache), source, kept)
        self._opened: dict[str, tuple[Any, NDArray[np.int64]]] = {}
        self._reported: set[str] = set()
        self._advised = False
        self._state: dict[str, Any] | None = None
        self.classes_known = False  # whether load_state_dict has had them from a run
        self._unseen = False
        self._classes: list[str] | None = None  # of the run, where they are others than the source's
        self._label_of: NDArray[np.int64] | None = None
        for path in self.betons.values():
            self._beton_labels(Path(path))

    @property
    def inputs(self) -> dict[str, int]:
        """What a backbone must know of the images."""
        return {"channels": self.channels, "size": self.size}

    def class_facts(self, split: str) -> dict[str, list[Any]]:
        """Return what is known of the classes, one column per fact in the order of labels; see `Source`."""
        manifest = self.source.manifest(split)
        names = {"name": manifest["classes"]} if "classes" in manifest else {}
        facts = {**names, **manifest.get("facts", {})}
        if self._classes is None:
            return facts
        row = {plain(name): label for label, name in enumerate(facts["name"])}
        moved = {
            column: [values[row[plain(name)]] if plain(name) in row else None for name in self._classes]
            for column, values in facts.items()
        }
        return {**moved, "name": self._classes}

    @property
    def _whole(self) -> bool:
        """Whether images are read as they are prepared, neither cropped nor resized one by one.

        Gray ones are resized a batch at a time, with any loader.
        """
        sizes = {self.source.size, self.size}
        sizes |= {self.resolution.start, self.resolution.end} if self.channels > 1 else set()
        return len(sizes) == 1 and self.augment.crop is None and self.augment.center == 1

    def facts(self, split: str) -> dict[str, Any]:
        """Return what evaluations need to know of a split besides features, labels and classes.

        Returns:
            {unseen: True} where no class is one of the run's, else nothing.
        """
        return {"unseen": True} if self._unseen else {}

    def prepare_data(self) -> None:
        """Write what training needs, once, before the processes of a distributed training need it.

        Raises:
            UserError: If images cannot be read; those of all these splits are named.
        """
        unreadable: list[UnreadableImages] = []
        for split in training_splits(self):
            try:
                self.prepare(split)
            except UnreadableImages as error:
                unreadable.append(error)
        if unreadable:
            problem = "\n".join(error.problem for error in unreadable)
            raise UserError(problem, remedy=unreadable[0].remedy)

    def prepare(self, split: str) -> None:
        """Write one split into the cache unless it is there, and print once what was read and how.

        Raises:
            UserError: For an unknown split.
        """
        self.samples(split)
        if split in self._reported:
            return
        report = getattr(self.source, "report", None)
        if report is not None and not self._reported:
            print(report(), flush=True)
        if kinds := self.cache.described.get(split, {}).get("converted"):
            shown = ", ".join(f"{k['count']:,} {kind} ({k['first']})" for kind, k in kinds.items())
            print(f"{self.name} {split}: images {shown}", flush=True)
        self._reported.add(split)
        self._report_copies(split)

    def _report_copies(self, split: str) -> None:
        """Print how many images are copies of others that contradict them: in train, or in another class."""
        if "digests" not in self.cache.described.get(split, {}):
            return
        ours, labels = self._digests(split)
        order = np.lexsort((labels, ours))
        same = ours[order][1:] == ours[order][:-1]
        torn = ours[order][1:][same & (labels[order][1:] != labels[order][:-1])]
        if count := int(np.isin(ours, torn).sum()):
            first = self.source.open(split)[int(np.isin(ours, torn).argmax())][0]
            print(f"{self.name} {split}: {count:,} images are in several classes ({first})", flush=True)
        if split == "train" or "digests" not in self.cache.described.get("train", {}):
            return
        copies = np.isin(ours, self._digests("train")[0])
        if count := int(copies.sum()):
            first = self.source.open(split)[int(copies.argmax())][0]
            print(f"{self.name} {split}: {count:,} images are copies of some in train ({first})", flush=True)

    def _digests(self, split: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return what tells the content of each image of a split, and its label (N,)."""
        digests = np.frombuffer(bytes.fromhex(self.cache.described[split]["digests"]), np.uint64)
        return digests, np.array([label for _, label in self.source.open(split)])

    def samples(self, split: str) -> Any:
        """Return what the loader reads, written or checked first: a .beton path, or a sequence of samples."""
        return self._open(split)[0]

    def _open(self, split: str) -> tuple[Any, NDArray[np.int64]]:
        """Return samples and labels (N,) as the loader has them; files are written or checked once."""
        self._check_split(split)
        if split not in self._opened:
            self._opened[split] = self._prepared(split)
        return self._opened[split]

    def _prepared(self, split: str) -> tuple[Any, NDArray[np.int64]]:
        if self.loader == "ffcv":
            ready = self.betons.get(split)
            path = Path(ready) if ready else self.cache.beton(split, self.workers)
            return path, self._beton_labels(path)
        if self.source.size is None:
            files = self.cache.files(split, self.workers)
            return files, np.array([label for _, label in files])
        arrays = ArraySamples(self.cache.array(split, self.workers))
        return arrays, arrays.labels

    def state_dict(self) -> dict[str, Any]:
        """Return what a run keeps of its data: name, classes, and which files each split was."""
        if self._state is None:
            files = self._table()
            self._state = {
                "name": self.name,
                "classes": self._names(),
                "files": None if files is None else pack(with_digests(files, self.files_root())),
            }
        return self._state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with what a run keeps of its data: the files of data of the same name, and the classes.

        Raises:
            UserError: If files have changed, unless `accept_changes`, or images for training would be in
                another split.
        """
        self._compare_files("images", state_dict)
        if state_dict.get("classes"):
            self.take_classes(state_dict["classes"])

    def take_classes(self, names: list[str]) -> None:
        """Label as a run does, whose classes have these names, from here on.

        Classes that the run knows get its labels, new ones labels after them. Where all are new, labels stay,
        and `facts` says so.
        """
        ours, self.classes_known = self._names(), True
        if not ours or ours[: len(names)] == names:
            return
        label_of = {plain(name): label for label, name in enumerate(names)}
        new = sorted(name for name in ours if plain(name) not in label_of)
        first = named_like(new[0], names) if new else ""
        self._unseen = len(new) == len(ours)
        if self._unseen:
            print(
                f"{self.name}: none of its {len(ours)} classes, such as {first}, is one of the run's",
                flush=True,
            )
            return
        if new:
            print(f"{self.name}: {len(new)} classes are new to the run, such as {first}", flush=True)
        self._classes = [*names, *new]
        label_of = {plain(name): label for label, name in enumerate(self._classes)}
        self._label_of = np.array([label_of[plain(name)] for name in ours])

    def show(self, split: str, rows: Sequence[int]) -> list[Any]:
        """Return images (H, W, C) uint8 as they are stored."""
        if split in self.betons:
            return super().show(split, rows)
        samples = self.source.open(split)
        return [read_image(samples[row][0], self.channels) for row in rows]

    def files(self) -> dict[str, list[Path]] | None:
        """Return the files of each split of the source, or None where it has none of its own."""
        if self.source.size is not None or self.betons:
            return None
        return {
            split: [value for value, _ in self.source.open(split) if isinstance(value, Path)]
            for split in self.source.splits
        }

    def _file_digests(self) -> dict[str, str]:
        return {split: kept.get("digests", "") for split, kept in self.cache.described.items()}

    def _names(self) -> list[str] | None:
        return self.source.manifest(self.splits[0]).get("classes")

    def train_dataloader(self) -> TrainLoader:
        """Return the training loader."""
        run, count = self._reader("train", training=True)
        labels = self._open("train")[1]
        shares = balanced(labels, self.balance) if self.balance else None
        loader = train_loader(self, count, run, shares)
        self._advise(labels)
        return loader

    def _advise(self, labels: NDArray[np.int64]) -> None:
        """Print once, in the first process, what to know of the training set."""
        rank, processes = world()
        if rank == 0 and not self._advised:
            names = self._names() or [f"class {label}" for label in range(self.num_classes)]
            said = advice(
                self.name, labels, names, self.batch_size, processes=processes, balance=self.balance
            )
            for line in said:
                print(line, flush=True)
        self._advised = True

    def dataloader(self, split: str) -> EvalLoader:
        """Return all of a split in order, without augmentation."""
        run, count = self._reader(split, training=False)
        return EvalLoader(count, self.batch_size, self._relabelled(run))

    def augmented(self, split: str, copies: int) -> EvalLoader:
        """Return `copies` of a split one after the other, each augmented as in an epoch after any training.

        Sample i of the loader is a variant of sample i modulo the size of the split.
        """
        run, count = self._reader(split, training=True)

        def read(batches: Batches, _: int) -> Iterator[Batch]:
            rows = np.concatenate(batches)
            for copy in range(copies):
                mine = rows[rows // count == copy] - copy * count
                cut = [mine[at : at + self.batch_size] for at in range(0, len(mine), self.batch_size)]
                for images, labels, index in run(cut, LATER + copy):
                    yield images, labels, index + copy * count

        return EvalLoader(count * copies, self.batch_size, self._relabelled(read))

    def _relabelled(self, run: BatchReader) -> BatchReader:
        if (table := self._label_of) is None:
            return run
        label_of = torch.from_numpy(table)

        def relabelled(batches: Batches, epoch: int) -> Iterator[Batch]:
            for images, labels, index in run(batches, epoch):
                yield images, label_of[labels], index

        return relabelled

    def _reader(self, split: str, *, training: bool) -> tuple[BatchReader, int]:
        samples, labels = self._open(split)
        read = self._batches(samples, self.seed if training else None)
        size = self.resolution.at if training else lambda epoch: self.size

        def run(batches: Batches, epoch: int) -> Iterator[Batch]:
            side = size(epoch)
            for images, y, index in read(batches, self.size if self.channels == 1 else side, epoch):
                whole = images.shape[-1] == side
                yield images if whole else _resized(images, side), y, index

        return run, len(labels)

    def _batches(self, samples: Any, seed: int | None) -> Callable[[Batches, int, int], Iterator[Batch]]:
        if self.loader == "torch" and isinstance(samples, ArraySamples) and self._whole:
            return ArrayLoader(samples, self.channels, self.augment, seed).run
        if self.loader == "torch":
            return TorchLoader(samples, self.channels, self.augment, self.workers, seed).run
        from mrl_experiments.data.loaders.ffcv_loader import FFCVLoader

        return FFCVLoader(samples, self.channels, self.augment, self.batch_size, self.workers, seed).run

    def _beton_labels(self, beton: Path) -> NDArray[np.int64]:
        return check_beton(beton, channels=self.channels, num_classes=self.num_classes, size=self.size)


def _resized(images: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def _size(size: int | None, source: Source) -> int:
    side = size or source.size
    if side is None:
        raise UserError("data.size is not set", expected="the side in pixels of the images a model sees")
    if source.channels == 1 and side != source.size:
        raise UserError(f"data.size={side}", expected=f"{source.size}: one-channel images are not resized")
    return side


def _choose(loader: str, *, reads_fast: bool) -> str:
    """Return the loader to use: FFCV, whose start takes seconds, where it imports and is not in vain."""
    if loader == "auto" and reads_fast:
        return "torch"
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
