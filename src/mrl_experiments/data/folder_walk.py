"""All files below a folder of the user's, and an account of what else lies there."""

from pathlib import Path

from mrl_experiments.data.images.image_files import walk
from mrl_experiments.data.reading import Reading
from mrl_experiments.data.tally import Tally


def files_below(folder: Path, reading: Reading) -> list[Path]:
    """Return the files below a folder as `walk` does, of any kind; what is left out is noted in `reading`."""

    class Noted(Tally):
        def add(self, kind: str, example: Path | str, count: int = 1) -> None:
            reading.skipped[kind].append(str(example))

    return walk(folder, folder, Noted(), endings=None)
