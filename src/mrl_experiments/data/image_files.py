"""Image files in one folder a class."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mrl_experiments.errors import UserError

Files = list[tuple[Path, int]]


def image_files(folder: Path, labels: Mapping[str, int]) -> Files:
    """Return the images below folder/<name> with the label of each name, sorted by name and path.

    Raises UserError for a name whose folder holds none.
    """
    files = []
    for name, label in labels.items():
        images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS)
        if not images:
            raise UserError(
                f"{folder / name} holds no image",
                expected=f"files ending in {', '.join(IMG_EXTENSIONS)}",
                remedy="add images or remove the folder",
            )
        files += [(path, label) for path in images]
    return files


def files_digest(splits: Mapping[str, Iterable[tuple[Path, int]]]) -> str:
    """Return a hash of names, labels, sizes and times of change of all files, split by split."""
    digest = hashlib.sha256()
    for split, files in splits.items():
        for path, label in files:
            status = path.stat()
            digest.update(f"{split} {path} {label} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def existing_root(name: str, root: str | None, holding: str) -> Path:
    """Return data.root as a path. Raises UserError unless it is a folder; `holding` says what is in it."""
    if root is None or not Path(root).expanduser().is_dir():
        raise UserError(
            f"data.root={root} is not a folder",
            expected=f"a folder with {holding}",
            remedy=f"give it: data={name} data.root=/path/to/images",
        )
    return Path(root).expanduser()
