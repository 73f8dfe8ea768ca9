"""Lists of classes: which name has which label, and which folder shows which class."""

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from mrl_experiments.data.images.image_files import class_folders, plain
from mrl_experiments.errors import UserError
from mrl_experiments.files import read_mapping, read_text

WORDNET = re.compile(r"n\d{8}")
HEADINGS = ("class", "classes", "name", "names", "label", "labels", "category")  # of a .csv
OFFSET = re.compile(r"(\d{8})-n")  # how ImageNet-4K's list writes the WordNet id n<8 digits>


def class_list(where: str | None, seen: Collection[str] = ()) -> list[str]:
    """Return class names in the order of their labels.

    Args:
        where: A folder with one folder per class, or with such folders in train/ (an ILSVRC root): their
            names sorted; or a file with one name per line; None: the 1,000 WordNet ids of ImageNet-1K. A line
            begins with a WordNet id, or is a name as a whole (golden retriever) up to a tab, or a comma in a
            .csv; it is its first word where more of the names `seen` are such words.
        seen: Names in the data; one that is listed is returned as it is there, where some letters are stored
            in another way.

    Raises:
        UserError: For a missing path, a file that is no text, repeated names, or fewer than two.
    """
    if where is None:
        from timm.data import ImageNetInfo

        return list(ImageNetInfo("imagenet-1k").label_names())
    path = Path(where).expanduser()
    if path.is_dir():
        names = class_folders(path / "train" if (path / "train").is_dir() else path)
    elif path.is_file():
        names = _listed(path, set(map(plain, seen)))
    else:
        raise UserError(
            f"the list of classes {where} does not exist",
            expected="a folder with one folder per class, or a file with one name per line",
        )
    stored = {plain(name): name for name in seen}
    names = [stored.get(plain(name), name) for name in names]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or len(names) < 2:
        raise UserError(
            f"{where} lists {len(names)} classes, {len(repeated)} of them more than once {repeated[:3]}",
            expected="at least two different classes",
        )
    return names


def _listed(path: Path, seen: set[str]) -> list[str]:
    """Return the names in a file: whole lines, first fields or first words, whichever the data have most."""
    lines = [line.strip() for line in io.StringIO(read_text(path), newline=None) if line.strip()]
    comma = path.suffix.lower() == ".csv"
    separator = "," if comma else "\t"
    fields = [next(csv.reader([line], delimiter=separator))[0].strip() for line in lines]
    if comma and fields and fields[0].casefold() in HEADINGS and fields[0] not in seen:
        del lines[0], fields[0]
    words = [OFFSET.sub(r"n\1", line.split()[0]) for line in lines]
    if all(WORDNET.fullmatch(word) for word in words):
        return words
    return max((fields, lines, words), key=lambda names: len(seen.intersection(map(plain, names))))


def folder_labels(folders: Sequence[str], classes: Sequence[str], mapping: str | None) -> dict[str, int]:
    """Return the label of each folder that shows one of `classes`.

    A folder is named like its class, or by the class's number (ImageNetV2: 0 to 999). With `mapping`, a file
    read by `read_mapping`, it maps folder names to those; then folders that it leaves out are left out here.

    Raises:
        UserError: For names that are no class, or when nothing is left.
    """
    wanted = {folder: folder for folder in folders}
    if mapping is not None:
        known = read_mapping(Path(mapping).expanduser(), folders)
        wanted = {folder: known[folder] for folder in folders if folder in known}
    label_of = {name: label for label, name in enumerate(classes)}
    if all(name.isdecimal() for name in wanted.values()) and not label_of.keys() & set(wanted.values()):
        label_of = {str(label): label for label in range(len(classes))}
    strangers = [folder for folder, name in wanted.items() if name not in label_of]
    if strangers or not wanted:
        raise UserError(
            f"{len(strangers)} of {len(folders)} folders are none of the {len(classes)} classes, such as "
            f"{strangers[0]}"
            if strangers
            else f"none of {len(folders)} folders, such as {folders[0]}, is in {mapping}",
            expected=f"folders named like the classes ({classes[0]}, ...) or by their numbers",
            remedy="name the list they belong to: data.source.classes=<folder or file>, or a mapping of "
            "folders to classes: data.source.mapping=<file>",
        )
    return {folder: label_of[name] for folder, name in wanted.items()}
