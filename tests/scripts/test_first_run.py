"""The first run: one command from training to the page."""

import subprocess
import sys

import pytest
from commands import ROOT, TINY

from mrl_experiments.results import read_rows

TORCH = ["data.loader=torch", "data.workers=0"]  # without FFCV, whose loops are compiled each time


@pytest.mark.slow
def test_one_command_trains_embeds_evaluates_and_reports_and_does_so_again(tmp_path):
    command = [sys.executable, "scripts/first_run.py", *TINY, *TORCH, "epochs=1", f"root={tmp_path}"]
    for again in (False, True):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("is finished already" in done.stdout) is again
    rows = read_rows(tmp_path / "runs" / "mrl_tiny_digits_s0" / "results" / "linear-digits-prefix.csv")
    top1 = {row.dim: row.value for row in rows if row.metric == "top1" and row.trained}
    drawn = done.stdout.rpartition("top-1 on val")[2]
    for dim, value in top1.items():
        assert f"{dim:>6}  " in drawn and f"{value:6.1%}  {4 * dim:>6,} bytes" in drawn
    assert (tmp_path / "report" / "index.html").exists()


def test_a_step_that_fails_ends_it_with_its_status(tmp_path):
    command = [sys.executable, "scripts/first_run.py", *TINY, "epochs=0", f"root={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "epochs=0" in done.stderr and "embed.py run" in done.stdout
    assert "$ python embed.py" not in done.stdout
