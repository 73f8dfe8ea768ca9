"""How long the report's page takes to open with few and with many rows: python scripts/bench_report.py

Rows of many imaginary models are written, the report is made of them, and Chromium opens each page several
times in turn. The last line is JSON: the seconds of each page, its size and their ratio.
"""

import argparse
import json
import shutil
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from mrl_experiments.report.write import write_report
from mrl_experiments.results import ResultRow, write_rows

DIMS = (8, 16, 32, 64, 128, 256, 512)
SEEDS = range(10)
MEASURED = [
    ("linear", {}, "top1"),
    *[("knn", {"k": k}, "top1") for k in (1, 5, 10, 20, 50, 100)],
    *[("retrieval", {}, f"{metric}@{k}") for metric in ("mAP", "P", "R") for k in (10, 25, 50, 100)],
]


def rows(count: int) -> list[ResultRow]:
    """Return `count` rows: all seeds and methods of one model, then of the next."""
    found: list[ResultRow] = []
    for number in range(count):
        kinds = product(SEEDS, ("mrl", "mrl_e", "other"), DIMS, MEASURED)
        for seed, method, dim, (evaluation, setting, metric) in kinds:
            run, model, value = f"{method}_{number}_s{seed}", f"model{number}", 0.8 - 2 / dim + seed / 100
            place = (run, method, model, f"data{number % 5}", "val", evaluation, "prefix", dim, True)
            found.append(ResultRow(*place, setting=setting, metric=metric, value=value, seed=seed))
            if len(found) == count:
                return found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs=2, default=(500, 50_000))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    times: dict[int, list[float]] = {count: [] for count in given.rows}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for count in given.rows:
            out = Path(folder) / str(count)
            write_rows(out / "rows.csv", rows(count))
            begun = time.perf_counter()
            write_report(str(out / "rows.csv"), out, out, {})
            print(f"{count} rows: the report was written in {time.perf_counter() - begun:.1f} s", flush=True)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(given.rounds):
            for count in given.rows:
                page = browser.new_page()
                begun = time.perf_counter()
                page.goto((Path(folder) / str(count) / "index.html").as_uri())
                page.wait_for_selector("#stories svg")
                times[count].append(time.perf_counter() - begun)
                page.close()
        sizes = {count: (Path(folder) / str(count) / "index.html").stat().st_size for count in given.rows}
    seconds = {count: round(median(found), 3) for count, found in times.items()}
    few, many = given.rows
    print(json.dumps({"seconds": seconds, "bytes": sizes, "ratio": round(seconds[many] / seconds[few], 3)}))


if __name__ == "__main__":
    main()
