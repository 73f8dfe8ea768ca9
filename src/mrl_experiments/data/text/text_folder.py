"""Text files in a folder of the user's."""

from pathlib import Path

from mrl_experiments.data.text.text_files import TextFiles, held_out
from mrl_experiments.errors import UserError


class TextFolder(TextFiles):
    """All files below <root>/train and <root>/val, or below <root> with a seeded split by file.

    pattern: which files, as a glob below the root. Hidden files and folders are left out.
    Raises UserError for a missing root, a split without files, or files that are all empty.
    """

    def __init__(self, name: str, root: str | None, pattern: str, val_share: float, seed: int) -> None:
        if root is None or not Path(root).expanduser().is_dir():
            raise UserError(
                f"data.root={root} is not a folder",
                expected="a folder of text files, or one with train/ and val/",
                remedy=f"give it: python train.py data={name} data.root=/path/to/texts",
            )
        folder = Path(root).expanduser()
        if all((folder / split).is_dir() for split in self.splits):
            files = {split: _files(folder / split, pattern) for split in self.splits}
        else:
            found = _files(folder, pattern)
            sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
            val = {folder / path for path in held_out(sizes, val_share, seed)}
            files = {
                "train": [path for path in found if path not in val],
                "val": [path for path in found if path in val],
            }
        super().__init__(name, folder, files)


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(
        path
        for path in folder.glob(pattern)
        if path.is_file()
        and path.stat().st_size
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise UserError(
            f"{folder} holds no text: nothing but empty files matches {pattern}",
            expected="UTF-8 files with text",
            remedy="choose other files: data.source.pattern='**/*.txt'",
        )
    return found
