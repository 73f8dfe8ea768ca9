"""Image files in one folder per class: the one walker, and what it leaves out."""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mrl_experiments.data.reading import Tally, shown
from mrl_experiments.data.splits import SPLIT_OF
from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors, os_error

Files = list[tuple[Path, int]]
EMPTY = 5  # folders without images that an error names
ENDINGS = (*IMG_EXTENSIONS, ".gif", ".jpe", ".jfif", ".apng", ".avif", ".jp2", ".pbm", ".pnm", ".pfm")
# Pictures that are not read; what else is left out is a matter of course.
FOREIGN = (
    ".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".psd", ".svg",
    ".dcm", ".nii", ".czi", ".lif", ".nd2", ".svs", ".exr", ".hdr", ".jxl", ".tga", ".npy", ".mp4", ".mov",
)  # fmt: skip
# What systems and programs leave in folders; names that begin with a dot are hidden too.
HIDDEN = {"__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}


def walk(folder: Path, root: Path, skipped: Tally, endings: tuple[str, ...] | None = ENDINGS) -> list[Path]:
    """Return the regular files below `folder` with one of `endings` (lower case; None: any), sorted.

    Links are followed; a folder that is reached twice, or from inside itself, is read once. Only regular
    files are listed, so a FIFO cannot hang whoever opens them. What is left out is counted in `skipped`, by
    its path below `root`.

    Raises:
        UserError: For a folder that cannot be read.
    """
    above = {folder, *folder.absolute().parents, *folder.resolve().parents}
    found, pending, seen = [], [folder], {_device_and_number(path) for path in above}
    while pending:
        for path, status in visible(pending.pop(), root, skipped):
            if stat.S_ISDIR(status.st_mode):
                if (number := (status.st_dev, status.st_ino)) in seen:
                    skipped.add("linked again", path.relative_to(root))
                else:
                    seen.add(number)
                    pending.append(path)
            elif not stat.S_ISREG(status.st_mode):
                skipped.add("no regular file", path.relative_to(root))
            elif endings is not None and path.suffix.lower() not in endings:
                suffix = path.suffix.lower()
                kind = f"of the kind {suffix}" if suffix in FOREIGN else "of another kind"
                skipped.add(kind, path.relative_to(root))
            else:
                found.append(path)
    return sorted(found)


def visible(folder: Path, root: Path, skipped: Tally) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what a folder holds with its status, links last; what is hidden or leads nowhere is counted."""
    with explain_os_errors(shown(folder)):
        entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in entries:
        path = Path(entry.path)
        try:
            status = entry.stat()
        except OSError as error:
            if folder == root and entry.name.casefold() in SPLIT_OF:
                raise os_error(error, path) from error  # another would be made in place of this split
            status, reason = None, _why(error, path)
        if is_hidden(entry.name):
            status, reason = None, "hidden"
        elif not is_utf8(entry.name):
            status, reason = None, "with a name that is not UTF-8"
        if status is None:
            skipped.add(reason, path.relative_to(root))
        else:
            yield path, status


def _why(error: OSError, path: Path) -> str:
    reasons = {errno.ENOENT: "dangling link", errno.ELOOP: "link in a circle", errno.EACCES: "out of reach"}
    if error.errno not in reasons:
        raise os_error(error, shown(path)) from error
    return reasons[error.errno]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that systems keep for themselves."""
    return name.startswith(".") or name.casefold() in HIDDEN


def is_utf8(name: str) -> bool:
    """Return whether a name of the file system is text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _device_and_number(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def class_folders(folder: Path, skipped: Tally | None = None) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones.

    What else lies there is counted in `skipped`.

    Raises:
        UserError: For a name that is not UTF-8.
    """
    skipped = Tally() if skipped is None else skipped
    names = []
    above = {folder.resolve(), *folder.resolve().parents}
    for path, status in visible(folder, folder, odd := Tally()):
        if stat.S_ISDIR(status.st_mode) and path.is_symlink() and path.resolve() in above:
            odd.add("link in a circle", path.name)
        elif stat.S_ISDIR(status.st_mode):
            names.append(path.name)
        else:
            odd.add("outside the class folders", path.name)
    strange = [os.fsencode(e.name) for e in os.scandir(folder) if e.is_dir() and not is_utf8(e.name)]
    if strange:
        raise UserError(
            f"{shown(folder)}: {len(strange)} folders have names that are not UTF-8, such as {strange[0]!r}",
            expected="names that can be written as text",
            remedy="rename them (convmv renames whole trees)",
        )
    skipped.add_all(odd)
    return sorted(names)


def plain(name: str) -> str:
    """Return a class name in the form in which it is compared: systems store letters like ä in two ways."""
    return unicodedata.normalize("NFC", name)


def image_files(
    folder: Path,
    labels: Mapping[str, int],
    skipped: Tally | None = None,
    *,
    all_classes: bool = True,
    as_before: bool = False,
) -> Files:
    """Return the images below folder/<name> with the label of each name, sorted by name and path.

    Args:
        skipped: Counts what is left out.
        all_classes: Whether each name needs an image.
        as_before: List what versions without `skipped` listed: hidden files too, linked folders not.

    Raises:
        UserError: For a name without images that needs one.
    """
    files, empty = [], []
    skipped = Tally() if skipped is None else skipped
    for name, label in labels.items():
        home, odd = folder / name, Tally()
        if as_before:
            listed = sorted(p for p in home.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
        else:
            listed = walk(home, folder, odd) if home.is_dir() else []
        skipped.add_all(odd)
        if not listed:
            empty.append(f"{shown(home)} holds no image{f'; skipped {odd}' if odd.total else ''}")
        files += [(path, label) for path in listed]
    if empty and all_classes:
        more = f" ({len(empty):,} such folders)" if len(empty) > 1 else ""
        raise UserError(
            "\n  ".join(empty[:EMPTY]) + more,
            expected=f"files ending in {', '.join(ENDINGS)}",
            remedy=f"add images or remove the folder{'s' * (len(empty) > 1)}",
        )
    return files
