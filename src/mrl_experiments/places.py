"""Where the files of conf/ lie."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_folder(package: Path = _PACKAGE) -> Path:
    """Return conf/: inside the package where it is installed from a wheel, beside src/ in a checkout.

    In a checkout a link in the package stands for it, by which a wheel gets its files; a copy without links
    has the folder itself.
    """
    inside = package / "conf"
    return inside.resolve() if inside.is_dir() else package.parents[1] / "conf"


CONF = conf_folder()
