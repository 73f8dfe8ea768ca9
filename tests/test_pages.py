"""The documentation: code and commands of its pages run, links lead somewhere, and no option is missing."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, run, succeed
from composing import composed
from PIL import Image
from sklearn.datasets import load_digits

from mrl_experiments.options.check import check
from mrl_experiments.options.models import offer_models
from mrl_experiments.options.reference import options_page
from mrl_experiments.options.table import COMMANDS, EVALUATIONS, GROUPS
from mrl_experiments.options.typed import quoted, renamed
from mrl_experiments.places import CONF

DOCS = ROOT / "docs"
PAGES = [path for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("results/**/*.md")]]
CODE = [page for page in sorted(DOCS.glob("*.md")) if "```python\n" in page.read_text(encoding="utf-8")]
# Whose commands run in one folder, one after the other, since later ones use the run of the first.
RUN = ["start", "adaptive_retrieval", "adaptive_classification", "choose_dims", "your_embeddings"]
RUN += ["your_images", "finetune", "extend", "vectors", "export", "engines"]
ELSEWHERE = {"library": "test_library.py", "serve": "serve/test_process.py"}
COMMAND = r"(?:^    (?:\$ )?|`)python (train|embed|evaluate|report|export|serve|generate)\.py ([^\n`]*)"
READS = ("export", "engines")  # whose code, but for the first two blocks, reads what its commands write


def blocks(page, language):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page.stem, marks=[pytest.mark.slow] if page.stem == "export" else []
        )  # it makes five formats
        for page in CODE
    ],
)
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(
    page, tmp_path, monkeypatch, capsys, trained_runs
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    if page in ELSEWHERE:
        pytest.skip(f"{ELSEWHERE[page]} runs it")
    code = blocks(page, "python")
    if page in READS:
        code = code[:2]
    if page == "export":  # whose first blocks need the run of start.md alone
        (tmp_path / "outputs" / "runs").mkdir(parents=True)
        (tmp_path / "outputs" / "runs" / "mrl_resnet10t_digits_s0").symlink_to(trained_runs["digits"].folder)
        capsys.readouterr()  # what training said
    exec(compile("\n".join(code), f"{page}.md", "exec"), {"__name__": page})
    shown = re.sub(r"\d", "0", (DOCS / f"{page}.md").read_text(encoding="utf-8"))
    for line in capsys.readouterr().out.splitlines():
        if re.search(r"[a-z]{3,} .*\d|\d.* [a-z]{3,}", line):  # a sentence with a figure
            assert re.sub(r"\d", "0", line.strip()) in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = link.partition("#")
        if ":" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_table_of_contents():
    listed = (DOCS / "index.md").read_text(encoding="utf-8").split()
    assert {page.stem for page in DOCS.glob("*.md")} - {*listed} == {"index"}


def test_the_page_of_options_has_each_with_its_default():
    page = options_page()
    for group, options in [("", one) for one in COMMANDS.values()] + [*GROUPS.items()]:
        for key in options:
            if not key.endswith("."):
                assert f"| `{f'{group}.{key}'.removeprefix('.')}` |" in page
    assert all(f"`evaluation.{key}`" in page for options in EVALUATIONS.values() for key in options)
    assert "| `epochs` | `4` | passes over the training data | a whole number of epochs from 1 to" in page
    assert "| `loss.label_smoothing` | `0.1`; `0` (infonce, infonce_ff, similarity_distillation) |" in page
    assert "| `data.size` | `null`; " in page
    assert "| `evaluation.indexes.*.codes` |" in page


def typed(page):
    """Return the commands of a page after a $, with the lines that a backslash continues."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^    \$ (.*)$", text, flags=re.MULTILINE)


def words(command, folder):
    """Return what a shell makes of a command."""
    shown = ["sh", "-c", f"printf '%s\\0' {command}"]
    return subprocess.check_output(shown, cwd=folder, text=True).split("\0")[:-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:600], digits.target, strict=False)):
        path = folder / "photos" / f"class_{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).resize((48, 48)).convert("RGB").save(path)
    return folder


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_the_options_of_all_commands_of_a_page_are_there(page):
    """Also of those that want a GPU, ImageNet or the network; of several choices the first."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for script, rest in re.findall(COMMAND, text, flags=re.MULTILINE):
        typed = [word for word in shlex.split(rest, comments=True) if not word.startswith("-")]
        if any(sign in rest for sign in ("hydra", "...", "<")) or "model=module" in typed:
            continue  # with modules or files of one's own, or only a part of a command
        typed = [re.sub(r"^(evaluation|reduction|loss)=\[?(\w+),.*", r"\1=\2", word) for word in typed]
        typed = [re.sub(r"^(seed|loss\.dim|evaluation)\.?\w*=(\w+),.*", r"\1=\2", word) for word in typed]
        typed = [re.sub(r"^evaluation\.(\w+)\.(?=k=)", "evaluation.", word) for word in typed]
        offer_models(typed, CONF)
        check(composed(script, *(quoted(renamed(word)) for word in typed)), script)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page, folder, tmp_path_factory):
    code = blocks(page, "python")
    for block in [*code, *blocks(page, "yaml")]:
        name = block.partition("\n")[0].removeprefix("# ")
        if name.endswith((".py", ".yaml")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block)
    if page in (
        "your_embeddings",
        "finetune",
        "vectors",
        "engines",
    ):  # whose code writes what its commands read
        (folder / "page.py").write_text("\n".join(code[:2] if page in READS else code))
        succeed(folder / "page.py", folder=folder)
    environment = {"WANDB_MODE": "disabled", "MRL_DATA": str(tmp_path_factory.getbasetemp() / "prepared")}
    for command in typed(page):
        program, script, *arguments = words(command, folder)
        assert program == "python"
        done = run(script, *arguments, env=environment, folder=folder, timeout=900)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    if page in READS:
        subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=folder, check=True)


@pytest.mark.skipif("SITE" not in os.environ, reason="make docs builds the site and asks for this test")
def test_the_site_has_its_pages_and_charts():
    site = Path(os.environ["SITE"])
    assert "docs/index.html" in (site / "index.html").read_text()
    assert "AdaptiveIndex" in (site / "docs" / "generated" / "api_adaptive.html").read_text()
    cascade = (site / "docs" / "generated" / "cascade.html").read_text()
    assert "vegaEmbed('#chart" in cascade and '"bind": {"input": "range"' in cascade
    assert "vegaEmbed" in (site / "_static" / "vega.js").read_text()
