"""Write ImageNet-1K as .beton files: 500 px, train half as JPEG at quality 90, val as raw pixels.

python scripts/write_imagenet.py --root /path/to/ILSVRC --out /path/to/betons --workers 16
"""

import argparse
import sys
from pathlib import Path

from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.data.loaders.beton import Storage, check_beton
from mrl_experiments.data.loaders.beton_writer import write_beton
from mrl_experiments.data.loaders.cache import default_workers
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path
from mrl_experiments.progress import progress

STORAGE = {"train": Storage("proportion", 500), "val": Storage("raw", 500)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with train/<wnid>/ and val/<wnid>/")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=default_workers())
    arguments = parser.parse_args()
    source = ImageFolder("imagenet", arguments.root, val_share=0.1, seed=0)
    for split, storage in STORAGE.items():
        target = arguments.out / f"{split}.beton"
        if target.exists():
            count = len(check_beton(target, channels=source.channels, num_classes=source.num_classes))
            print(f"{target} is there: {count:,} images")
            continue
        samples = source.open(split)
        with (
            progress(f"writing {target}", len(samples)) as advance,
            atomic_path(target) as temporary,
        ):
            write_beton(temporary, samples, source.channels, storage, arguments.workers, advance)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
