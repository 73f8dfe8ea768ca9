"""The page, in a browser: it draws itself without a network, and answers to mouse and keyboard."""

import csv
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

FRAME = """
<body style="margin:0">
<iframe id="page" src="probed.html" width="WIDTH" height="900" style="border:0"></iframe>
<script>
page.onload = () => {
  const answer = document.createElement("pre");
  answer.textContent = page.contentDocument.body.textContent;
  document.body.replaceChildren(answer);
};
</script>
"""
# Runs in the page after it has drawn itself; collects what a reader would see.
PROBE = """
const q = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = (selector) => all(selector).filter((node) => node.getClientRects().length).length;
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const seen = { errors };
const figure = q("#figure02-kanji1k-val-resnet10t");
const table = q("#table01-kanji1k-val-resnet10t");
const legend = (name) => [...figure.querySelectorAll(".legend button")].find((b) => b.textContent === name);
seen.cards = shown(".card");
seen.claims = all("#claims tbody tr").map((row) => row.cells[1].innerText);
seen.overflow = document.documentElement.scrollWidth - innerWidth;
seen.lines = figure.querySelectorAll(".series path.line").length;
seen.cell = table.querySelector("tbody td").innerText;
seen.missing = table.querySelector("tbody tr:last-child td .none").textContent;

press(figure.querySelector("svg"), "ArrowRight");
seen.first = q("#tip").innerText;
press(figure.querySelector("svg"), "ArrowRight");
seen.second = q("#tip").innerText;
const point = figure.querySelector(".series:not(.theirs) .mark").getBoundingClientRect();
const where = { clientX: point.x + point.width / 2, clientY: point.y + point.height / 2, bubbles: true };
figure.querySelector("svg").dispatchEvent(new PointerEvent("pointermove", where));
seen.hovered = q("#tip").innerText;

const marks = () => figure.querySelectorAll(".plot .mark").length;
seen.marks = [marks()];
legend("MRL-E").click();
seen.marks.push(marks());
seen.pressed = legend("MRL-E").ariaPressed;
seen.focused = document.activeElement.textContent;
legend("MRL-E").click();
seen.marks.push(marks());
q("#paper").click();
seen.marks.push(marks());
seen.papers = shown("td small");
q("#paper").click();

table.querySelector("td button").click();
seen.dialog = q("#source").innerText;
seen.link = q("#source a").getAttribute("href");
q("#source").close();
q("#dataset").value = "kanji4k";
q("#dataset").dispatchEvent(new Event("change"));
seen.filtered = shown(".card");
seen.names = all("main h3").filter((h) => h.getClientRects().length).map((h) => h.textContent);
const answer = Object.assign(document.createElement("pre"), { textContent: JSON.stringify(seen) });
document.body.replaceChildren(answer);
"""


def look(page: Path, width: int, folder: Path) -> dict:
    """Load a copy of the page with the probe at its end and return what it saw."""
    catch = "<script>const errors = []; addEventListener('error', (e) => errors.push(e.message));</script>"
    text = page.read_text(encoding="utf-8").replace("<style>", catch + "<style>", 1)
    # Chromium has no window narrower than 500 pixels, a frame may be.
    probed = folder / "probed.html"
    probed.write_text(text.replace("</body>", f"<script>{{{PROBE}}}</script></body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        "--dump-dom",
        f"--user-data-dir={folder}/profile", "--window-size=1400,1000", "--virtual-time-budget=5000",
        "--host-resolver-rules=MAP * ~NOTFOUND", frame.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall(r"<pre>(.*?)</pre>", result.stdout, flags=re.DOTALL)
    return json.loads(html.unescape(found))


@pytest.fixture(scope="module", params=[1400, 390], ids=["wide", "narrow"])
def seen(request, report, tmp_path_factory) -> dict:
    return look(report / "index.html", request.param, tmp_path_factory.mktemp("page"))


@browser
def test_the_page_draws_figures_and_tables_without_errors(seen, report):
    assert seen["errors"] == []
    assert seen["cards"] == len(list((report / "tables").glob("*.md"))) + len(
        list((report / "figures").glob("*.png"))
    )
    assert seen["overflow"] <= 0
    with (report / "tables" / "claims.csv").open(newline="") as file:
        verdicts = [record["verdict"] for record in csv.DictReader(file)]
    assert [text.partition(",")[0] for text in seen["claims"]] == verdicts
    assert seen["lines"] >= 10


@browser
def test_cells_show_ours_above_the_papers_and_dashes_where_nothing_was_measured(seen):
    assert seen["cell"].split("\n") == ["65.52 ± 0.20", "66.63"]
    assert seen["missing"] == "–"


@browser
def test_values_can_be_read_by_keyboard_and_pointer(seen):
    assert "MRL" in seen["first"] and "65.52 ± 0.20 %" in seen["first"] and "8 dims" in seen["first"]
    assert "16 dims" in seen["second"]
    assert "dims" in seen["hovered"] and seen["hovered"] != seen["second"]


@browser
def test_a_click_on_its_name_hides_a_method_and_another_shows_it(seen):
    all_marks, without, again, ours = seen["marks"]
    assert without == all_marks - 7 - 9  # ours at 7 sizes, the paper's at 9
    assert again == all_marks
    assert ours < all_marks and seen["papers"] == 0
    assert seen["pressed"] == "false"
    assert seen["focused"] == "MRL-E"


@browser
def test_a_number_leads_to_its_runs_and_commands(seen):
    assert "python evaluate.py run=mrl_resnet10t_kanji1k_s0 data=kanji1k evaluation=linear" in seen["dialog"]
    assert seen["link"] == "../runs/mrl_resnet10t_kanji1k_s0/config.yaml"


@browser
def test_the_filter_leaves_one_data_set(seen):
    assert 0 < seen["filtered"] < seen["cards"]
    assert all("unseen" in name for name in seen["names"])


def test_the_page_names_nothing_to_load(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*["']""", page)
    assert not re.findall(r"@import|url\((?!data:)|\bfetch\(|XMLHttpRequest", page)


def test_text_from_rows_cannot_end_the_script(rows, tmp_path):
    import dataclasses

    from mrl_experiments.report.write import write_report
    from mrl_experiments.results import write_rows

    odd = [dataclasses.replace(row, model="</script><b>x") for row in rows if row.evaluation == "linear"]
    write_rows(tmp_path / "rows.csv", odd)
    write_report([f"{tmp_path}/rows.csv"], tmp_path / "out", tmp_path, {})
    assert "</script><b>" not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
