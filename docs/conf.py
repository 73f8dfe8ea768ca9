"""The documentation's site, which `make docs` builds."""

import logging
import pkgutil
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
logging.getLogger("faiss").setLevel(logging.WARNING)

from mrl_experiments.options.reference import options_page  # noqa: E402

GENERATED = ROOT / "docs" / "generated"
PACKAGES = {  # what the reference shows: title, and modules or packages below mrl_experiments
    "vocabulary": (
        "Nestings, embeddings, classifiers, rows",
        "nesting embeddings heads results cost errors runs",
    ),
    "losses": ("Losses and methods", "losses"),
    "models": ("Backbones", "models"),
    "training": ("Training", "training build export"),
    "data": ("Data", "data.source data.data_module data.images data.captions data.text"),
    "reductions": ("Reductions", "reductions"),
    "evaluations": ("Evaluations", "evaluations metrics"),
    "adaptive": ("Adaptive classification and retrieval", "adaptive search"),
}

project, author = "mrl-experiments", "The authors of mrl-experiments"
release = version = version_of("mrl-experiments")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "results/**.md"]
suppress_warnings = ["toc.no_title"]  # pages of results begin with a table; the contents name them
exclude_patterns = ["outputs", ".venv", ".*"]
html_theme = "furo"
html_title = f"mrl-experiments {release}"
html_theme_options = {"navigation_with_keys": True}
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
default_role = "code"
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True


def modules_of(names: str) -> Iterator[str]:
    """Yield the modules of packages, without importing them."""
    for name in names.split():
        yield (full := f"mrl_experiments.{name}")
        folder = ROOT / "src" / Path(*full.split("."))
        yield from (module.name for module in pkgutil.walk_packages([str(folder)], f"{full}."))


def write_generated(app: Any) -> None:
    """Write the pages that follow from the source: options, and the reference of each package."""
    GENERATED.mkdir(exist_ok=True)
    pages = {"options": options_page()}
    for page, (title, names) in PACKAGES.items():
        blocks = [f"# {title}"]
        for module in modules_of(names):
            short = module.removeprefix("mrl_experiments.")
            blocks.append(f"## `{short}`\n\n```{{eval-rst}}\n.. automodule:: {module}\n```")
        pages[f"api_{page}"] = "\n\n".join(blocks) + "\n"
    for page, text in pages.items():
        path = GENERATED / f"{page}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else Sphinx reads it anew
            path.write_text(text, encoding="utf-8")


def write_first_page(app: Any, error: Exception | None) -> None:
    """Write index.html at the top, which leads to the first page."""
    if error is None:
        to = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
        (Path(app.outdir) / "index.html").write_text(f"<!doctype html><title>{project}</title>{to}\n")


def setup(app: Any) -> None:
    """Connect the above to Sphinx."""
    app.connect("builder-inited", write_generated)
    app.connect("build-finished", write_first_page)
