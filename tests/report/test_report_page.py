"""The page, in a browser: it draws itself without a network, and answers to mouse, keyboard and filters."""

import csv
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from mrl_experiments.report.write import write_report
from mrl_experiments.results import write_rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
TABLE, FIGURE = "#table01", "#figure02"
SCREENS = 10


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def opened(
    chromium: Browser, page: Path, width: int = 1400, scheme: str = "light", address: str = ""
) -> Page:
    """Open a page without a network; what goes wrong in it is kept in `page.errors`."""
    context = chromium.new_context(
        viewport={"width": width, "height": 1000}, color_scheme=scheme, accept_downloads=True, offline=True
    )
    shown = context.new_page()
    shown.errors = []
    shown.on("pageerror", lambda error: shown.errors.append(str(error)))
    shown.on("dialog", lambda dialog: (shown.errors.append("a dialog"), dialog.dismiss()))
    shown.goto(page.as_uri() + address)
    shown.wait_for_selector("html[data-ready]")
    return shown


@pytest.fixture
def page(chromium, report) -> Iterator[Page]:
    shown = opened(chromium, report / "index.html")
    yield shown
    assert shown.errors == []
    shown.context.close()


def unfold(page: Page, card: str) -> None:
    page.click(f"{card} > summary")
    page.wait_for_selector(f"{card} .files button")


@browser
def test_it_opens_with_how_few_dims_and_ends_with_claims_and_stays_short(page):
    sentences = page.locator("#stories li")
    sentences.first.wait_for()
    assert sentences.count() == 3
    assert (
        "64 of 512 dims" not in sentences.nth(1).inner_text()
        and "bytes per vector" in sentences.nth(1).inner_text()
    )
    page.wait_for_selector("#stories svg")
    assert re.search(r"\d+ of 512 dims are within 1 % of full quality", sentences.nth(0).inner_text())
    texts = page.locator("#stories svg text").all_text_contents()
    assert [text for text in texts if re.fullmatch(r"[15] %: \d+ dims", text)]
    assert [node.get_attribute("id") for node in page.locator("main > section").all()][-1] == "claims"
    assert page.evaluate("document.documentElement.scrollHeight") <= SCREENS * 1000


@browser
def test_a_table_has_the_papers_values_sorts_filters_and_downloads(page, report, tmp_path):
    unfold(page, TABLE)
    first = page.locator(f"{TABLE} tbody tr").first.locator("td").first
    assert first.inner_text().split("\n") == ["65.52 ± 0.20", "66.63"]
    keys = page.locator(f"{TABLE} tbody th")
    page.click(f"{TABLE} thead th >> nth=0 >> button")
    page.click(f"{TABLE} thead th >> nth=0 >> button")
    assert keys.all_text_contents()[:2] == ["2048", "1024"]
    page.fill(f"{TABLE} input[type=search]", "65.52")
    assert page.locator(f"{TABLE} tbody th >> visible=true").all_inner_texts() == ["8"]
    for kind, suffix in (("CSV", "csv"), ("MD", "md"), ("TEX", "tex")):
        with page.expect_download() as waiting:
            page.click(f"{TABLE} .files button:has-text('{kind}')")
        waiting.value.save_as(tmp_path / suffix)
        (written,) = (report / "tables").glob(f"table01-kanji1k-val*.{suffix}")
        assert (tmp_path / suffix).read_text() == written.read_text()
    page.uncheck("[name=paper]")
    assert page.locator(f"{TABLE} td small >> visible=true").count() == 0


@browser
def test_a_figure_shows_values_hides_lines_and_the_papers_and_downloads(page, tmp_path):
    unfold(page, FIGURE)
    marks = page.locator(f"{FIGURE} .mark-symbol.role-mark path")
    everything = marks.count()
    page.locator(f"{FIGURE} .mark-symbol.role-mark").last.locator("path").first.hover()
    page.wait_for_selector(".vg-tooltip.visible")
    tip = page.inner_text(".vg-tooltip")
    assert "MRL" in tip and "±" in tip and "3 runs" in tip and "dims" in tip
    page.locator(f"{FIGURE} .role-legend-symbol path").first.click(force=True)
    page.wait_for_function(f"[...document.querySelectorAll('{FIGURE} .mark-symbol.role-mark path')]"
                           ".filter((m) => getComputedStyle(m).opacity < 0.2).length > 5")  # fmt: skip
    page.uncheck("[name=paper]")
    page.wait_for_function(
        f"document.querySelectorAll('{FIGURE} .mark-symbol.role-mark path').length < {everything}"
    )
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as waiting:
            page.click(f"{FIGURE} .files button:has-text('{kind}')")
        waiting.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)


@browser
def test_examples_show_the_same_queries_at_each_dim_and_through_a_funnel(page):
    card = page.locator("#neighbours")
    assert card.locator("select.block option").all_inner_texts() == [
        f"kanji1k val · resnet10t · {name}" for name in ("MRL", "MRL-E")
    ]
    near = card.locator("table.examples").first
    assert near.locator("thead th").nth(2).inner_text().startswith("64 dims: 50.0 % of all queries")
    first = near.locator("tbody tr").first
    assert first.locator("th img").evaluate("image => image.naturalWidth") == 1
    assert first.locator("td").nth(0).locator("figcaption").all_inner_texts() == ["moon ✗", "sun ✓"]
    assert first.locator("td q").first.inner_text() == "a crescent"
    card.locator("details summary", has_text="funnel").click()
    assert "3 of these 20 are of its class" in card.locator("td small:visible").first.inner_text()
    card.locator("details summary", has_text="taken for which").click()
    confused = " ".join(card.locator("table.examples:visible").last.inner_text().split())
    assert (
        confused
        == "Class taken for at 8 dims at 64 dims at 512 dims sun a crescent moon ✗ 7 of 9 1 of 9 0 of 9"
    )
    page.select_option("[name=dataset]", "kanji4k")
    assert not card.is_visible()


@browser
def test_a_number_leads_to_its_runs_and_commands(page):
    unfold(page, TABLE)
    page.locator(f"{TABLE} td button").first.click()
    said = page.inner_text("#source")
    assert "run=mrl_resnet10t_kanji1k_s0 data=kanji1k evaluation=linear" in said
    link = page.locator("#source a").first
    assert link.get_attribute("href") == "../runs/mrl_resnet10t_kanji1k_s0/config.yaml"


@browser
@pytest.mark.slow
def test_filters_and_open_cards_are_kept_in_the_address(page, chromium, report):
    before = page.locator("details.card:visible").count()
    page.select_option("[name=dataset]", "kanji4k")
    page.select_option("[name=axis]", "linear")
    assert 0 < page.locator("details.card:visible").count() < before
    page.click("#table10 > summary")
    page.wait_for_function("location.hash.includes('open=table10')")
    again = opened(chromium, report / "index.html", address=page.evaluate("location.hash"))
    assert again.input_value("[name=dataset]") == "kanji4k" and again.input_value("[name=axis]") == "linear"
    again.wait_for_selector("#table10 tbody td")
    named = again.locator("details[data-kind]:visible summary .count").all_inner_texts()
    assert all("kanji4k" in text or "blocks" in text for text in named)


@browser
@pytest.mark.parametrize(
    ("width", "scheme"),
    [*(pytest.param(1400, scheme, marks=pytest.mark.slow) for scheme in ("light", "dark")), (400, "light")],
)
def test_nothing_is_cut_off_and_axe_finds_no_fault(chromium, report, width, scheme):
    page = opened(chromium, report / "index.html", width, scheme)
    for card in (FIGURE, TABLE, "#table08"):
        unfold(page, card)
    page.locator("#neighbours summary").evaluate_all("all => all.forEach((s) => (s.parentNode.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if width == 1400:
        wide = "[...document.querySelectorAll('.scroll')].map((s) => s.scrollWidth - s.clientWidth)"
        assert max(page.evaluate(wide)) <= 0
    page.evaluate(AXE.read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
    assert [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in faults] == []
    assert page.errors == []
    page.context.close()


def test_the_page_names_nothing_to_load(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*["']""", own)
    assert not re.findall(r"@import|url\((?!data:)", own)


def test_claims_are_for_the_papers_kind_of_runs_alone(rows, tmp_path):
    own = [
        dataclasses.replace(row, dataset="mine") for row in rows if row.evaluation == "knn" and row.seed == 0
    ]
    write_rows(tmp_path / "rows.csv", own)
    write_report(
        f"{tmp_path}/rows.csv", tmp_path / "out", tmp_path, {"kanji1k": {"dataset": "imagenet1k"}}, []
    )
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert 'id="stories"' in page and 'id="claims"' not in page
    assert not list((tmp_path / "out" / "tables").glob("claims.*"))


def test_data_of_ones_own_are_held_against_no_claim_beside_the_papers_kind(rows, tmp_path):
    knn = [row for row in rows if row.evaluation == "knn" and row.seed == 0]
    write_rows(tmp_path / "rows.csv", [*knn, *(dataclasses.replace(row, dataset="mine") for row in knn)])
    write_report(
        f"{tmp_path}/rows.csv", tmp_path / "out", tmp_path, {"kanji1k": {"dataset": "imagenet1k"}}, []
    )
    with (tmp_path / "out" / "tables" / "claims.csv").open(newline="") as file:
        assert {record["dataset"] for record in csv.DictReader(file)} == {"kanji1k", ""}


def test_verdicts_on_the_page_are_those_of_the_file(report):
    page = (report / "index.html").read_text(encoding="utf-8")
    with (report / "tables" / "claims.csv").open(newline="") as file:
        verdicts = [record["verdict"].replace(" ", "-") for record in csv.DictReader(file)]
    assert re.findall(r'<tr class="([\w-]+)" data-dataset', page) == verdicts
