"""Which font faces draw which part of the Kanji data: a fixed table, whatever else is installed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrl_experiments.errors import UserError

FONTS = Path("/usr/share/fonts")
GROUPS = ("train", "val", "sketch", "display", "bitmap")
NOTO_SANS = ("Thin", "Light", "DemiLight", "Medium", "Black")
NOTO_SERIF = ("ExtraLight", "Light", "Medium", "SemiBold", "Black")
MPLUS = ("Thin", "ExtraLight", "Light", "Regular", "Medium", "SemiBold", "Bold", "ExtraBold", "Black")
REGIONS = range(5)  # Japan, Korea, China, Taiwan, Hong Kong


@dataclass(frozen=True)
class Family:
    """Faces of one design, from one Debian package: font files, and the members of a collection to take.

    covers: it draws (nearly) all of that many most common characters.
    """

    group: str
    name: str
    package: str
    files: tuple[str, ...]
    members: Sequence[int] = (0,)
    covers: int = 5000


@dataclass(frozen=True)
class Face:
    """One face on this machine."""

    family: str
    path: Path
    member: int


# A family and those derived from it stay in one group: M+ is in MigMix, VL Gothic and Ricty; IPA in Takao,
# Monapo and IPAmj; Ume's gothics in UmePlus; Klee in LXGW WenKai. Faces that draw the same glyphs as another
# (proportional beside monospaced ones) are left out, and so are fonts without many of the characters.
FAMILIES = (
    Family(
        "train",
        "Noto Sans CJK",
        "fonts-noto-cjk",
        ("NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc"),
        REGIONS,
    ),
    Family(
        "train",
        "Noto Sans CJK",
        "fonts-noto-cjk-extra",
        tuple(f"NotoSansCJK-{weight}.ttc" for weight in NOTO_SANS),
        REGIONS,
    ),
    Family(
        "train",
        "Noto Serif CJK",
        "fonts-noto-cjk",
        ("NotoSerifCJK-Regular.ttc", "NotoSerifCJK-Bold.ttc"),
        REGIONS,
    ),
    Family(
        "train",
        "Noto Serif CJK",
        "fonts-noto-cjk-extra",
        tuple(f"NotoSerifCJK-{weight}.ttc" for weight in NOTO_SERIF),
        REGIONS,
    ),
    Family("train", "IPA Gothic", "fonts-ipafont-gothic", ("ipag.ttf",)),
    Family("train", "IPA Gothic", "fonts-ipaexfont-gothic", ("ipaexg.ttf",)),
    Family("train", "Monapo", "fonts-monapo", ("monapo.ttf",)),
    Family("train", "IPA Mincho", "fonts-ipafont-mincho", ("ipam.ttf",)),
    Family("train", "IPA Mincho", "fonts-ipaexfont-mincho", ("ipaexm.ttf",)),
    Family("train", "IPAmj Mincho", "fonts-ipamj-mincho", ("ipamjm.ttf",)),
    Family("train", "Ume Gothic", "fonts-horai-umefont", ("ume-tgo4.ttf", "ume-tgo5.ttf", "ume-tgs4.ttf")),
    Family("train", "Ume Mincho", "fonts-horai-umefont", ("ume-tmo3.ttf", "ume-tms3.ttf")),
    Family(
        "train",
        "M+ 1",
        "fonts-mplus",
        tuple(f"Mplus1-{weight}.otf" for weight in MPLUS),
        covers=1000,
    ),
    Family("train", "MigMix 1", "fonts-migmix", ("migmix-1p-regular.ttf", "migmix-1p-bold.ttf")),
    Family("train", "MigMix 2", "fonts-migmix", ("migmix-2p-regular.ttf", "migmix-2p-bold.ttf")),
    Family("train", "VL Gothic", "fonts-vlgothic", ("VL-Gothic-Regular.ttf",)),
    Family(
        "train",
        "Ricty Diminished",
        "fonts-ricty-diminished",
        tuple(f"RictyDiminished-{style}.ttf" for style in ("Regular", "Bold", "Oblique", "BoldOblique")),
        covers=1000,
    ),
    Family("train", "TW-Kai", "fonts-cns11643-kai", ("TW-Kai-98_1.ttf",)),
    Family("train", "HanaMin", "fonts-hanazono", ("HanaMinA.ttf",)),
    Family(
        "val",
        "BIZ UDGothic",
        "fonts-morisawa-bizud-gothic",
        ("BIZUDGothic-Regular.ttf", "BIZUDGothic-Bold.ttf"),
    ),
    Family("val", "BIZ UDMincho", "fonts-morisawa-bizud-mincho", ("BIZUDMincho-Regular.ttf",)),
    Family("val", "Motoya Cedar", "fonts-motoya-l-cedar", ("MTLc3m.ttf",)),
    Family("val", "Motoya Maruberi", "fonts-motoya-l-maruberi", ("MTLmr3m.ttf",)),
    Family("val", "Sawarabi Gothic", "fonts-sawarabi-gothic", ("sawarabi-gothic-medium.ttf",), covers=1000),
    Family("val", "Sawarabi Mincho", "fonts-sawarabi-mincho", ("sawarabi-mincho-medium.ttf",), covers=1000),
    Family("val", "Droid Sans Fallback", "fonts-droid-fallback", ("DroidSansFallbackFull.ttf",)),
    Family("val", "WenQuanYi Zen Hei", "fonts-wqy-zenhei", ("wqy-zenhei.ttc",)),
    Family("val", "Konatu", "fonts-konatu", ("Konatu.ttf",)),
    Family("val", "TW-Sung", "fonts-cns11643-sung", ("TW-Sung-98_1.ttf",)),
    Family("sketch", "Klee One", "fonts-klee", ("KleeOne-Regular.ttf", "KleeOne-SemiBold.ttf")),
    Family(
        "sketch",
        "LXGW WenKai",
        "fonts-lxgw-wenkai",
        ("LXGWWenKai-Light.ttf", "LXGWWenKai-Regular.ttf", "LXGWWenKai-Bold.ttf"),
    ),
    Family("sketch", "Kiloji", "fonts-kiloji", ("kiloji.ttf", "kiloji_b.ttf", "kiloji_d.ttf")),
    Family("sketch", "Seto", "fonts-seto", ("setofont.ttf",)),
    Family(
        "sketch",
        "Kouzan",
        "fonts-kouzan-mouhitsu",
        ("kouzan-mouhitsu.ttf", "kouzan-mouhitsu-gyosho.ttf", "KouzanBrushFontSousyo.ttf"),
    ),
    Family("sketch", "Aoyagi Kouzan", "fonts-aoyagi-kouzan-t", ("AoyagiKouzanT.ttf",), covers=1000),
    Family("sketch", "Aoyagi Soseki", "fonts-aoyagi-soseki", ("aoyagi-soseki.ttf",)),
    Family("display", "Reggae One", "fonts-reggae", ("ReggaeOne-Regular.ttf",)),
    Family("display", "RocknRoll One", "fonts-rocknroll", ("RocknRollOne-Regular.ttf",)),
    Family("display", "Train One", "fonts-train", ("TrainOne-Regular.ttf",), covers=1000),
    Family("display", "Dejima", "fonts-dejima-mincho", ("dejima-mincho-r227.ttf",), covers=1000),
    Family("display", "Oradano", "fonts-oradano-mincho-gsrr", ("OradanoGSRR.ttf",), covers=1000),
    Family("bitmap", "DotGothic16", "fonts-dotgothic16", ("DotGothic16-Regular.ttf",)),
    Family("bitmap", "Misaki", "fonts-misaki", ("misaki_gothic.ttf", "misaki_mincho.ttf")),
    Family("bitmap", "Stroke orders", "fonts-kanjistrokeorders", ("KanjiStrokeOrders_v4.003.ttf",)),
)


def find_faces(groups: Sequence[str], covers: int, root: Path = FONTS) -> list[Face]:
    """Return the faces of `groups` that draw the `covers` most common characters, in the table's order.

    Raises UserError with the command that installs what is missing under `root`.
    """
    wanted = [family for family in FAMILIES if family.group in groups and family.covers >= covers]
    paths = {
        path.name: path
        for path in sorted(root.rglob("*"))
        # A pipe would be waited for without end.
        if path.suffix in (".ttf", ".ttc", ".otf") and path.is_file()
    }
    lacking = [family for family in wanted if not set(family.files) <= paths.keys()]
    if lacking:
        packages = sorted({family.package for family in lacking})
        missing = sorted({file for family in lacking for file in family.files} - paths.keys())
        raise UserError(
            f"{len(missing)} font files are not installed under {root}: {', '.join(missing[:5])}, ...",
            remedy=f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}\n"
            "            or use data=digits, which needs no system package",
        )
    return [
        Face(family.name, paths[file], member)
        for family in wanted
        for file in family.files
        for member in family.members
    ]


def fingerprint(path: Path) -> str:
    """Return a hash of a font's size and first 4 KiB, where its table of checksums lies."""
    with path.open("rb") as file:
        head = file.read(4096)
    return hashlib.sha256(head + str(path.stat().st_size).encode()).hexdigest()[:16]
