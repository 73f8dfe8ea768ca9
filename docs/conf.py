"""The documentation's site, which `make docs` builds."""

import itertools
import json
import logging
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
logging.getLogger("faiss").setLevel(logging.WARNING)

from mrl_experiments.options.reference import options_page  # noqa: E402
from mrl_experiments.vega import MIME, vega_bundle  # noqa: E402

GENERATED = ROOT / "docs" / "generated"
STATIC = GENERATED / "static"
STATIC.mkdir(parents=True, exist_ok=True)
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
html_show_copyright = False
html_static_path = ["generated/static"]
html_css_files = ["site.css"]
myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3
default_role = "code"
napoleon_use_ivar = True
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
python_use_unqualified_type_names = True


# Lines of code of 110 signs fit where the window is wide, charts and their sliders scroll where it is narrow.
STYLE = """\
body {--code-font-size: 75%}
@media (min-width: 90em) {.content {width: 54em}}
.chart {overflow-x: auto}
.vega-bind input {width: min(18em, 35vw); margin: 0 .5em; vertical-align: middle}
"""
# How types of arrays are shown, beside how numpy.typing.NDArray[...] is defined.
ARRAY = re.compile(
    r"(?:numpy\.)?ndarray\[tuple\[(?:~?typing\.)?Any, \.\.\.\], ~?(?:numpy\.)?dtype\[([^\[\]]+)\]\]"
)


DETAILS = "<details><summary>The code of this chart</summary>"


def modules_of(names: str) -> Iterator[str]:
    """Yield the modules of packages, without importing them."""
    for name in names.split():
        yield (full := f"mrl_experiments.{name}")
        folder = ROOT / "src" / Path(*full.split("."))
        yield from (module.name for module in pkgutil.walk_packages([str(folder)], f"{full}."))


def notebook_page(path: Path) -> str:
    """Return a notebook as a page with its stored outputs; its charts are drawn in the browser."""
    blocks = [_html('<script src="../../_static/vega.js"></script>')]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for hidden, group in itertools.groupby(cells, _is_hidden):
        shown: list[str] = []
        for cell in group:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                blocks.append(re.sub(r"\]\(\.\./docs/", "](../", source).replace(".ipynb)", ".md)"))
                continue
            outputs = [_shown(one, f"chart{cells.index(cell)}") for one in cell["outputs"]]
            blocks += [_html(DETAILS)] if hidden and not shown else []
            blocks.append(f"```python\n{source}\n```")
            blocks += [] if hidden else outputs
            shown += outputs or [""]
        blocks += [_html("</details>"), *shown] if hidden else []
    return "\n\n".join(blocks) + "\n"


def _is_hidden(cell: dict[str, Any]) -> bool:
    return bool(cell["metadata"].get("jupyter", {}).get("source_hidden"))


def _html(*lines: str) -> str:
    return "\n".join(("```{raw} html", *lines, "```"))


def _shown(output: dict[str, Any], name: str) -> str:
    data = output.get("data", {})
    if output.get("name") == "stderr":
        return ""
    if MIME in data:
        spec = {key: value for key, value in data[MIME].items() if key != "$schema"}
        text = json.dumps(spec).replace("</", "<\\/")
        draw = f"vegaEmbed('#{name}', {text}, {{mode: 'vega-lite', actions: false}})"
        return _html(f'<div id="{name}" class="chart"></div>', f"<script>{draw}</script>")
    if "text/html" in data:
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        return _html(table.replace('border="1" class="dataframe"', 'class="docutils"'))
    return f"```text\n{''.join(output.get('text') or data['text/plain'])}\n```"


def write_generated(app: Any) -> None:
    """Write the pages that follow from the source: options, notebooks, and the reference of each package."""
    (STATIC / "site.css").write_text(STYLE, encoding="utf-8")
    (STATIC / "vega.js").write_text(
        f"(() => {{{vega_bundle()}}})()", encoding="utf-8"
    )  # its `_` is not Sphinx's
    pages = {"options": options_page()}
    pages |= {path.stem: notebook_page(path) for path in (ROOT / "notebooks").glob("*.ipynb")}
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


def shorten_types(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Write the types of attributes shortly, and keep an underscore at their end, which would make a link."""
    lines[:] = [ARRAY.sub(r"NDArray[\1]", line).replace("numpy.str_", "numpy.str\\_") for line in lines]


def shorten_signature(
    app: Any, what: str, name: str, of: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Return a signature with the types of arrays as they are written in the code."""
    return arguments and ARRAY.sub(r"NDArray[\1]", arguments), result and ARRAY.sub(r"NDArray[\1]", result)


def setup(app: Any) -> None:
    """Connect the above to Sphinx."""
    app.connect("autodoc-process-docstring", shorten_types, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("builder-inited", write_generated)
    app.connect("build-finished", write_first_page)
