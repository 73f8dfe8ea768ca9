"""Which folders of a data set are splits, and where in each the class folders lie."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from mrl_experiments.data.images.image_files import class_folders, plain, walk
from mrl_experiments.data.reading import Tally, shown
from mrl_experiments.data.splits import SPLIT_OF, split_of
from mrl_experiments.errors import UserError


def split_folders(root: Path, skipped: Tally) -> dict[str, Path]:
    """Return {train, val, test: folder} of those there are; nothing where the folders are classes.

    Names such as train and Valid say so, unless they hold no folders and others are their siblings. Names
    with such a word in them, such as training_set or val2017, say so where folders of several splits hold
    classes of the same names, or where all folders have such names.

    Raises:
        UserError: For two folders of one split, splits without `train`, or `train` beside other images.
    """
    names = class_folders(root, beside := Tally())
    said = {name: split for name in names if (split := split_of(name))}
    held = {name: set(class_folders(class_home(root / name))) for name in said}
    exact = [name for name in said if name.casefold() in SPLIT_OF]
    splits = [n for n in said if held[n] or n in exact] if _agree(said, held) else exact
    if len(said) == len(names) and {"train"} < set(said.values()):
        splits = [*said]
    others = [name for name in names if name not in splits]
    if not splits or (others and not any(held[name] for name in splits)):
        return {}
    _check(root, {name: said[name] for name in splits}, others)
    for name in others:
        beside.add("folder beside the splits", name)
    skipped.add_all(beside)
    return {said[name]: root / name for name in splits}


def _agree(said: dict[str, str], held: dict[str, set[str]]) -> bool:
    """Return whether a folder for training and one of another split hold classes of the same names."""
    train = {inner for name, split in said.items() if split == "train" for inner in held[name]}
    return any(train & held[name] for name, split in said.items() if split != "train")


def _check(root: Path, splits: dict[str, str], others: list[str]) -> None:
    """Raise UserError where it is not clear which folder is which split."""
    twice = [split for split, count in Counter(splits.values()).items() if count > 1]
    first = shown(root / next(iter(splits)))
    problem, remedy = "", f", or name the folder itself: data.root={first}"
    if twice:
        problem, remedy = f"which of them is {twice[0]}?", ""
    elif "train" not in splits.values():
        problem = "a split for training is missing"
    elif len(splits) == 1 and (rest := [n for n in others if walk(root / n, root, Tally())]):
        problem = f"are {', '.join(map(shown, rest[:3]))} classes beside it?"
    if problem:
        raise UserError(
            f"{shown(root)} has the folders {', '.join(map(shown, splits))}: {problem}",
            expected="train/, and perhaps val/ and test/, or class folders of other names",
            remedy=f"rename or move them{remedy}",
        )


def class_home(folder: Path, classes: Collection[str] = ()) -> Path:
    """Return the folder that holds the class folders: `folder`, or the only one in it, as in train/train/.

    Args:
        classes: Those that are known; without them, there are several.
    """
    names = class_folders(folder)
    if len(names) != 1 or plain(names[0]) in classes:
        return folder
    below = class_home(folder / names[0], classes)
    inner = class_folders(below)
    return below if (set(map(plain, inner)) & set(classes) if classes else len(inner) > 1) else folder


def named_like(name: str, classes: Collection[str]) -> str:
    """Return a name that is no class, with the class that differs from it in case or outer blanks only."""
    alike = next(
        (one for one in classes if plain(one).strip().casefold() == plain(name).strip().casefold()), ""
    )
    return f"{name!r} (not {alike!r})" if alike else shown(name)
