"""The words by which files and folders of a data set say which split they are."""

import re

SPLITS = {
    "train": ("train", "training", "restval", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ENDING = re.compile(r"(set|data|images?|imgs?)$")


def split_of(name: str) -> str | None:
    """Return the split that one word of a name says, as in seg_train, Test Set, val2017 or trainA."""
    words = [part.casefold() for word in _WORD.findall(name) for part in _CAMEL.split(word)]
    found = {SPLIT_OF.get(word) or SPLIT_OF.get(_ENDING.sub("", word)) for word in words} - {None}
    return found.pop() if len(found) == 1 else None
