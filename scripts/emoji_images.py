"""A folder of emoji in eleven styles of six vendors, of which two vendors are held out: classes are meanings.

python scripts/emoji_images.py                          $MRL_DATA/emoji, 459 classes, 64 px
python scripts/emoji_images.py --classes 100 --size 96 --out emoji100
python train.py data=image_folder data.root=$HOME/.cache/mrl-experiments/emoji data.name=emoji data.size=64

train/<class>/<style>.png: noto, noto-v1 (Google), twemoji (Twitter), emojione, emojione-v1, emojione-monotone
(JoyPixels), fxemoji (Mozilla). val: openmoji. test: fluent-emoji, fluent-emoji-flat, and -high-contrast
(Microsoft). A class is an emoji that all of these draw; its name is that of noto. Drawings on white.

The drawings come from npm's @iconify-json packages, by `npm pack` into $MRL_DATA/emoji_packages; nothing of
them is run. Licences: Apache-2.0 (noto, noto-v1, fxemoji), CC BY 4.0 (twemoji, emojione, emojione-monotone),
CC BY-SA 4.0 (emojione-v1, openmoji), MIT (fluent-*); LICENCES.txt beside the pictures repeats what each says.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

CACHE = Path(os.environ.get("MRL_DATA", "~/.cache/mrl-experiments")).expanduser()
SPLITS = {  # package versions, since these say what is drawn
    "train": {
        "noto": "1.2.9",
        "noto-v1": "1.2.5",
        "twemoji": "1.2.5",
        "emojione": "1.2.3",
        "emojione-v1": "1.2.3",
        "emojione-monotone": "1.2.1",
        "fxemoji": "1.2.2",
    },
    "val": {"openmoji": "1.2.29"},
    "test": {"fluent-emoji": "1.2.7", "fluent-emoji-flat": "1.2.6", "fluent-emoji-high-contrast": "1.2.6"},
}
NAMED_BY = "noto"  # the set whose names classes have


@dataclass(frozen=True)
class Style:
    """One set of drawings.

    Attributes:
        icons: As Iconify stores them: `icons` with a `body` of SVG each, `aliases`, `width`, `height`.
        points: Names by code points, such as 1f600; empty where the package has none.
        licence: What the package says, one line.
    """

    icons: dict[str, Any]
    points: dict[str, str]
    licence: str

    @classmethod
    def read(cls, package: Path) -> "Style":
        """Read an npm package of Iconify."""
        with tarfile.open(package) as archive:

            def member(name: str) -> Any:
                file = archive.extractfile(f"package/{name}.json")
                assert file is not None
                return json.load(file)

            points = member("chars") if "package/chars.json" in archive.getnames() else {}
            info = member("info")
            licence = f"{info['name']} by {info['author']['name']}: {info['license']['title']}"
            bare = {key.replace("-fe0f", ""): name for key, name in points.items()}  # as text or as a picture
            return cls(member("icons"), bare, f"{licence}, {info['license']['url']}")

    @property
    def names(self) -> list[str]:
        """The names of all drawings."""
        return [*self.icons["icons"], *self.icons.get("aliases", {})]

    def svg(self, name: str, size: int) -> str:
        """Return a drawing, `size` pixels high."""
        while name in (aliases := self.icons.get("aliases", {})):
            name = aliases[name]["parent"]
        icon = self.icons["icons"][name]
        width, height = (icon.get(side, self.icons.get(side, 16)) for side in ("width", "height"))
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        sides = f'width="{size * width / height:g}" height="{size}" viewBox="0 0 {width} {height}"'
        return f"<svg {names} {sides}>{icon['body']}</svg>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=CACHE / "emoji")
    parser.add_argument("--classes", type=int, help="this many, drawn by a hash of their code points; all")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    arguments = parser.parse_args()
    styles = {name: Style.read(fetched(name)) for named in SPLITS.values() for name in named}
    classes = common_classes(styles)
    drawn = sorted(classes, key=lambda point: hashlib.sha256(point.encode()).digest())[: arguments.classes]
    for split, named in SPLITS.items():
        for point in drawn:
            folder = arguments.out / split / classes[point][NAMED_BY]
            folder.mkdir(parents=True, exist_ok=True)
            for name in named:
                picture = render(styles[name].svg(classes[point][name], arguments.size), arguments.size)
                picture.save(folder / f"{name}.png")
        print(
            f"{arguments.out / split}: {len(named) * len(drawn):,} pictures of {len(drawn)} classes",
            flush=True,
        )
    licences = "".join(f"{name}.png: {style.licence}\n" for name, style in styles.items())
    (arguments.out / "LICENCES.txt").write_text(licences)


def fetched(name: str) -> Path:
    """Return the package of a set, downloaded unless it is there."""
    version = next(named[name] for named in SPLITS.values() if name in named)
    folder = CACHE / "emoji_packages"
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / f"iconify-json-{name}-{version}.tgz"
    if not package.exists():
        subprocess.run(["npm", "pack", "--silent", f"@iconify-json/{name}@{version}"], check=True, cwd=folder)
    return package


def common_classes(styles: dict[str, Style]) -> dict[str, dict[str, str]]:
    """Return {code points: {style: name}} of the emoji that all styles draw.

    Styles whose package has no code points are matched by name, letters and digits alone, where that name
    means one emoji in all others.
    """
    meant: dict[str, set[str]] = {}
    for style in styles.values():
        for point, name in style.points.items():
            meant.setdefault(_letters(name), set()).add(point)
    drawn = {}
    for style_name, style in styles.items():
        drawn[style_name] = style.points or {
            next(iter(points)): name
            for name in style.names
            if len(points := meant.get(_letters(name), set())) == 1
        }
    shared = set.intersection(*(set(names) for names in drawn.values()))
    return {point: {name: names[point] for name, names in drawn.items()} for point in sorted(shared)}


def render(svg: str, size: int) -> Image.Image:
    """Return a drawing in the middle of a white square."""
    drawing = Image.open(io.BytesIO(vl_convert.svg_to_png(svg))).convert("RGBA")
    drawing.thumbnail((size, size))
    picture = Image.new("RGBA", (size, size), "white")
    picture.alpha_composite(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return picture.convert("RGB")


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name)


if __name__ == "__main__":
    main()
