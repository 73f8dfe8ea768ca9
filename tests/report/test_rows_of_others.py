"""Rows that are damaged, hostile or not finite: named, shown as what they are, obeyed nowhere."""

import csv
import html
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from commands import ROOT, run, start, succeed
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from study_rows import sheet, study
from test_report_page import browser, chromium, opened  # noqa: F401

from mrl_experiments.errors import UserError, command_line
from mrl_experiments.examples import Sheet, write_sheets
from mrl_experiments.report.prepare import faulty, tidy
from mrl_experiments.report.write import write_report
from mrl_experiments.result_files import find_rows
from mrl_experiments.results import ResultRow, write_rows
from mrl_experiments.text_tables import escaped, escaped_csv, escaped_markdown

TABLE = "table01-kanji1k-val-resnet10t"
NAMES = [
    "</script><script>alert(1)</script>", "<!--<script>", "<img src=x onerror=alert(1)>",
    "a|b", 'x"y', "it's",
    "$(id)", "`id`", "$x$ and $y_{$", "\\input{/etc/passwd}", "& % # _ { } ~ ^", 
    "=1+1", "+1+1", "-1+1", "@SUM(A1)",
    "[x](javascript:alert(1))", "javascript:alert(1)", "../../../etc", "/etc", "__proto__", "constructor",
    "_hidden", "${oc.env:HOME}",
    "שלום", "\u202egnp.exe", "\u2028\u2029", "😀👩‍👩‍👧", "long" * 300, "", " ", "k=²", "null",
]  # fmt: skip
BLOCKS = [*NAMES[:3], "../../../etc", "..", "שלום", "long" * 300, "", "\\input{/etc/passwd}", "$x$ and $y_{$"]
PLACES = ("run", "method", "model", "dataset", "reduction", "label")


def sound(*evaluations: str) -> list[ResultRow]:
    return [row for row in study(seeds=(0,)) if row.evaluation in evaluations]


def report_of(rows: list[ResultRow], folder: Path) -> tuple[Path, list[str]]:
    write_rows(folder / "rows.csv", rows)
    notes = write_report(str(folder / "rows.csv"), folder / "out", folder / "runs", {}, ["svg"])
    return folder / "out", notes


def data_of(page: Path) -> dict:
    def refused(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    text = page.read_text(encoding="utf-8")
    scripts = re.findall(
        r'<script type="application/json" id="([^"]*)"[^>]*>(.*?)</script>', text, flags=re.DOTALL
    )
    data = {html.unescape(name): json.loads(content, parse_constant=refused) for name, content in scripts}
    named = {name.removeprefix("data-"): content for name, content in data.items()}
    notes = re.findall(r"<li>(?!<a)(.*?)</li>", text.rpartition('id="notes-title"')[2], flags=re.DOTALL)
    return {
        "tables": {name: content for name, content in named.items() if "keys" in content},
        "charts": {name: content for name, content in named.items() if "layer" in content},
        "notes": [html.unescape(note) for note in notes],
        "runs": {run: href for run, _, href in data["sources"]},
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Path:
    """Return a report of rows in which every name is hostile once, and some values are no numbers."""
    first = [row for row in sound("linear") if row.dim in (8, 64) and row.split == "val"][:2]
    rows = [replace(row, run=name, method=name, label=name, seed=1) for name in NAMES for row in first]
    rows += [
        replace(row, **dict.fromkeys(PLACES, name), setting={"k": name}, seed=1)
        for name in BLOCKS
        for row in first
    ]
    rows += [
        replace(row, **{place: name}) for name in NAMES for row in first for place in ("evaluation", "metric")
    ]
    rows += [replace(row, split=name) for name in NAMES[:4] for row in first]
    values = (float("nan"), float("inf"), float("-inf"), 7.3, -1.0, 1e308)
    rows += [replace(first[0], value=value, dim=512, seed=number) for number, value in enumerate(values)]
    rows += [replace(row, dim=9_999_999_999) for row in first]
    rows += [replace(row, evaluation="language", metric="perplexity", value=1e17) for row in first]
    folder = tmp_path_factory.mktemp("odd")
    write_sheets(folder / "rows.csv", [hostile_sheet(name) for name in NAMES if len(name) < 300])
    return report_of([*sound("linear", "knn"), *rows], folder)[0]


def hostile_sheet(name: str) -> Sheet:
    shown = sheet(name, name, dataset=name, split=name, label=name)
    samples = [replace(sample, name=name, picture="", text=name) for sample in shown.examples.samples]
    return replace(shown, model=name, examples=replace(shown.examples, samples=samples))


@pytest.mark.slow
def test_one_row_that_is_not_finite_is_said_and_leaves_the_others_as_they_are(tmp_path):
    rows = sound("linear", "knn")
    before, _ = report_of(rows, tmp_path / "before")
    second = [replace(row, seed=1) for row in rows]
    lost = next(row for row in second if (row.method, row.dim, row.metric) == ("mrl", 16, "top1"))
    after, notes = report_of([*rows, *second, replace(lost, seed=2, value=float("nan"))], tmp_path / "after")
    assert [note for note in notes if "1 row of mrl_resnet10t_kanji1k_s0 is not finite" in note]
    data = data_of(after / "index.html")
    assert data["notes"] == notes
    shown = {dim: cell for dim, cell, *_ in data["tables"][TABLE]["rows"]}
    assert shown["16"]["t"] == "not finite" and "not finite" in [value for _, value in shown["16"]["s"]]
    same = {dim: cell["t"] for dim, cell, *_ in data_of(before / "index.html")["tables"][TABLE]["rows"]}
    assert all(cell["t"].startswith(same[dim]) for dim, cell in shown.items() if dim != "16")
    with (after / "tables" / f"{TABLE}.csv").open(newline="") as file:
        cells = {record["Dims"]: record["MRL"] for record in csv.DictReader(file)}
    assert cells["16"] == "nan" and float(cells["8"]) > 0
    assert "| 16 | not finite |" in (after / "tables" / f"{TABLE}.md").read_text()
    assert {path.name for path in (after / "figures").iterdir()} == {
        path.name for path in (before / "figures").iterdir()
    }


def test_a_page_of_nothing_but_nan_still_says_so(tmp_path):
    out, notes = report_of([replace(row, value=float("nan")) for row in sound("linear")], tmp_path)
    data = data_of(out / "index.html")
    assert notes and data["tables"] and not data["charts"]


@pytest.mark.parametrize(
    ("metric", "value", "reason"),
    [("top1", 7.3, "out of range"), ("mAP@10", -0.1, "out of range"), ("latency_ms", -1, "out of range"),
     ("top1", float("nan"), "not finite"), ("my_loss", float("inf"), "not finite"), ("class_gap", -0.5, ""),
     ("top1", 76.5, "in percent, it seems"), ("cosine", -0.004, ""), ("top1", 1.0000001, ""),
     ("my_loss", -7.3, ""), ("perplexity", 1e9, "")],
)  # fmt: skip
def test_values_that_a_metric_cannot_have_are_named_by_run(metric, value, reason):
    notes = faulty(tidy([replace(sound("linear")[0], metric=metric, value=value)]))
    assert [note.count(reason) for note in notes] == [1] * bool(reason)


def test_hostile_names_open_and_close_no_element(odd):
    page = (odd / "index.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # Vega's, and the page's
    assert not re.findall(r"<script(?! type=\"application/json\" id=\")", own, flags=re.IGNORECASE)
    data = {*re.findall(r"<script[^>]*>(.*?)</script>", own, flags=re.DOTALL)}
    assert not [text for text in data if re.search("[<>\u2028\u2029]", text)]
    assert not re.findall(r"<img|<!--", own)
    assert data_of(odd / "index.html")["runs"].keys() >= {
        name for name in NAMES if "/" not in name
    }  # as they are; a label with "/" is an ablation's


def test_links_lead_to_runs_of_this_folder_alone(tmp_path):
    rows = sound("linear")
    for name in ("a#b ?%c", "javascript:alert(1)"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    (tmp_path / "config.yaml").touch()
    names = ("a#b ?%c", "javascript:alert(1)", "..", str(tmp_path), "x" * 5000)
    write_rows(tmp_path / "rows.csv", [replace(rows[0], run=name, method=name[:9]) for name in names])
    write_report(str(tmp_path / "rows.csv"), tmp_path / "runs", tmp_path / "runs", {}, [])
    assert data_of(tmp_path / "runs/index.html")["runs"] == {
        names[0]: "a%23b%20%3F%25c/config.yaml", names[1]: "javascript%3Aalert%281%29/config.yaml",
        names[2]: "", names[3]: "", names[4]: "",
    }  # fmt: skip


def test_tables_keep_their_columns_and_spreadsheets_find_no_formula(odd):
    for path in (odd / "tables").glob("*.md"):
        rows = [line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert not any(re.search(r"<|(?<!\\)`|\]\(", row) for row in rows)
    for path in (odd / "tables").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not re.match(r"[=+@\t\r]|-(?![\d.])", cell) or re.fullmatch(r"[+-][\d.]+", cell), cell
    for path in (odd / "tables").glob("*.tex"):
        rows = path.read_text(encoding="utf-8").replace(r"$\pm$", "").replace(r"$\cdot$", "")
        body = rows.partition(r"\toprule")[2].replace("\\\\\n", "")
        assert not re.search(r"(?<!\\)[$#%_^~]", body), path
        assert r"\input" not in rows and not re.search(r"^\[", body, flags=re.MULTILINE)


def test_file_names_stay_inside_the_folder_and_apart(odd):
    names = [path.name for path in (odd / "figures").iterdir()]
    assert all(len(name.encode()) < 255 and re.fullmatch(r"[\w.-]+", name) for name in names)
    charts = [*data_of(odd / "index.html")["charts"]]
    assert len(charts) == len({*charts}) == len(names)
    assert all((odd / "figures" / f"{chart}.svg").is_file() for chart in charts)


@browser
def test_the_page_with_hostile_names_draws_itself(odd, chromium):  # noqa: F811
    page = opened(chromium, odd / "index.html")
    cards = page.locator("details[data-kind]")
    for card in cards.all():
        card.evaluate("card => { card.open = true; }")
    page.wait_for_function(
        "[...document.querySelectorAll('details[data-kind] .body')].every((b) => b.children.length)"
    )
    shown, blocks = page.inner_text("main"), page.locator("#tables select.block option").all_inner_texts()
    assert cards.count() > 5 and "not finite" in shown
    examples = page.locator("#neighbours select.block option").all_text_contents()
    assert len(examples) >= len(BLOCKS)
    page.select_option(
        "#neighbours select.block", label=next(text for text in examples if "<img src" in text)
    )
    page.wait_for_selector("#neighbours figcaption:has-text('<img src=x')")
    assert {"<!--<script>", "שלום"} <= {part for block in blocks for part in block.split(" · ")}
    assert page.evaluate("document.images.length") == 0 and page.errors == []
    page.context.close()


@pytest.mark.parametrize(
    "name", [*NAMES, "a b", "\\", "\\'", "a\\", "1e5", "true", "a,b", "x=y", "[a]", "{a:b}", "a:b", "~", "!"]
)
def test_a_command_means_the_name_to_the_shell_and_to_hydra(name):
    line = command_line("evaluate.py", {"run": name, "data": "digits"})
    printed = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {line.removeprefix('python ')}"], capture_output=True, check=True
    ).stdout.decode().split("\0")[:-1]  # fmt: skip
    assert printed == shlex.split(line)[1:]
    run, _ = OverridesParser.create().parse_overrides(printed[1:])
    assert OmegaConf.create({"run": run.value()})["run"] == name


def test_text_is_escaped_for_each_kind_of_table():
    assert escaped(r"\&%$#_{}~^<>|") == (
        r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"
    )
    assert escaped("[x]") == "{}[x]" and escaped("*") == "{}*" and escaped("8 ± 1") == r"8 $\pm$ 1"
    assert escaped_markdown("a|b\n<b>`x`[y](z)") == r"a\|b &lt;b&gt;\`x\`[y]\(z)"
    assert [escaped_csv(text) for text in ("=1", "+a", "-a", "@a", "-1.5", "a=1", "–")] == [
        "'=1", "'+a", "'-a", "'@a", "-1.5", "a=1", "–",
    ]  # fmt: skip


def test_bad_files_among_good_ones_are_named_and_the_others_used(tmp_path):
    write_rows(tmp_path / "good.csv", sound("linear")[:4])
    (tmp_path / "cut.csv").write_text((tmp_path / "good.csv").read_text()[:-9])
    (tmp_path / "bin\nary.csv").write_bytes(b"\x89PNG\0\xff")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "good.json").write_text('{"sheets": [1]}')
    patterns = [f"{tmp_path}/*.csv", f"{tmp_path}/none/*.csv"]
    notes = write_report(patterns, tmp_path / "out", tmp_path, {}, [])
    assert len(notes) == 5
    for name in (
        "good.json is no file of examples",
        "cut.csv",
        "bin\\nary.csv",
        "folder.csv",
        "no file matches",
    ):
        assert [note for note in notes if name in note], name
    assert data_of(tmp_path / "out" / "index.html")["notes"] == notes


def test_rows_are_named_by_one_path_by_several_and_by_globs(tmp_path, monkeypatch):
    first = sound("linear")[0]
    for name in ("a/b/c", "a/x", "odd [1]"):
        write_rows(tmp_path / name / "rows.csv", [replace(first, run=name)])
    write_rows(tmp_path / "odd [1]" / "[1].csv", [replace(first, run="literal")])
    monkeypatch.chdir(tmp_path)

    def runs(*patterns: str) -> list[str]:
        return sorted(row.run for row in find_rows(patterns)[0])

    assert runs("a/**/*.csv") == runs(f"{tmp_path}/a/**/*.csv") == runs("a/x/*.csv", "a/**/rows.csv")
    assert runs("odd [1]/[1].csv") == ["literal"]
    assert [row.run for row in find_rows("a/x/rows.csv")[0]] == ["a/x"]
    for nothing in ([], "none/*.csv", ["~nobody/x"], None, 5, [7]):
        with pytest.raises(UserError, match="no result rows"):
            find_rows(nothing)


def test_the_documented_pattern_finds_the_committed_rows():
    documented = re.search(r"'(rows=.*?)'", (ROOT / "conf" / "report.yaml").read_text())
    (override,) = OverridesParser.create().parse_overrides([documented[1]])
    rows, notes = find_rows([str(ROOT / pattern) for pattern in override.value()])
    assert len(rows) > 10_000 and not notes and not faulty(tidy(rows))


@pytest.mark.parametrize("out", ["{folder}/file", "{folder}/file/below", "/proc/none/out", "/sys/out"])
def test_a_folder_that_cannot_be_written_is_named(out, tmp_path):
    write_rows(tmp_path / "rows.csv", sound("linear")[:4])
    (tmp_path / "file").touch()
    out = Path(out.format(folder=tmp_path))
    with pytest.raises(UserError, match=str(tmp_path / "file") if "file" in out.parts else str(out)):
        write_report(str(tmp_path / "rows.csv"), out, tmp_path, {}, [])


@pytest.mark.slow
def test_the_command_takes_one_pattern_and_says_what_it_left_out(tmp_path):
    write_rows(tmp_path / "good.csv", sound("linear"))
    (tmp_path / "bad.csv").write_text("no rows")
    result = run("report.py", f"rows={tmp_path}/*.csv", f"out={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"note: left out: .*bad.csv is no file of result rows: .*\n", result.stderr)


def test_files_of_others_in_the_reports_folder_stay(tmp_path):
    kept = [tmp_path / "out" / "tables" / name for name in ("table1-mine.tex", "table01-notes.txt", "x.csv")]
    kept[0].parent.mkdir(parents=True)
    for path in kept:
        path.touch()
    report_of(sound("linear")[:4], tmp_path)
    assert all(path.exists() for path in kept)


@pytest.mark.slow
def test_two_reports_at_once_wait_for_each_other(tmp_path):
    write_rows(tmp_path / "rows.csv", sound("linear"))
    options = (f"rows={tmp_path}/rows.csv", f"out={tmp_path}/out")
    both = [start("report.py", *options) for _ in range(2)]
    ends = [(process.communicate(timeout=300), process.returncode) for process in both]
    assert [status for _, status in ends] == [0, 0], ends
    succeed("report.py", options[0], f"out={tmp_path}/alone")
    for part in ("tables", "figures"):
        assert {path.name for path in (tmp_path / "out" / part).iterdir()} == {
            path.name for path in (tmp_path / "alone" / part).iterdir()
        }


def test_a_folder_of_results_that_cannot_be_searched_is_named(tmp_path):
    write_rows(tmp_path / "a" / "results" / "knn.csv", [replace(sound("linear")[0], run="a")])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results").symlink_to("results")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results").touch()
    rows, notes = find_rows(f"{tmp_path}/*/results/*.csv")
    assert [row.run for row in rows] == ["a"]
    assert notes == [f"left out: {tmp_path / x / 'results'} is no folder that can be read" for x in "bc"]


def test_rows_of_one_run_in_the_folder_of_another_are_named(tmp_path):
    row = ResultRow("mine", "mrl", "m", "d", "val", "knn", "prefix", 8, True, {"k": 1}, "top1", 0.5, 0)
    path = tmp_path / "runs" / "theirs" / "results" / "knn-d-prefix.csv"
    write_rows(path, [row])
    assert any("holds rows of mine" in note for note in find_rows(str(path))[1])
    own = tmp_path / "runs" / "mine" / "results" / path.name
    write_rows(own, [row])
    assert find_rows(str(own))[1] == []
