"""Whether the system packages that the Kanji data needs are installed."""

import pytest

from mrl_experiments.data.kanji.dictionary import KANJIDIC
from mrl_experiments.data.kanji.faces import GROUPS, find_faces
from mrl_experiments.errors import UserError


def installed() -> bool:
    try:
        find_faces(GROUPS, 1000)
    except UserError:
        return False
    return KANJIDIC.exists()


needs_fonts = pytest.mark.skipif(
    not installed(), reason="needs the packages of scripts/system/fonts.txt (make setup)"
)
