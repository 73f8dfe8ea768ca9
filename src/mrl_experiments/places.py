"""Where the files of conf/ lie: inside the package where it is installed from a wheel, else beside src/.

In a checkout a link in the package stands for conf/, by which a wheel gets its files; a copy without links
has the folder itself.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSIDE = _PACKAGE / "conf"
CONF = _INSIDE.resolve() if _INSIDE.is_dir() else _PACKAGE.parents[1] / "conf"
