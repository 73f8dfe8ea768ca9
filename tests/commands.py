"""Running the root scripts as a user does: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ["data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=2"]


def start(
    script: str, *overrides: str, env: dict[str, str] | None = None, own_group: bool = False
) -> subprocess.Popen[str]:
    """Start a root script; `own_group`: with its own processes in a group, as a shell does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0 if own_group else None,
    )


def run(script: str, *overrides: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a root script to its end."""
    process = start(script, *overrides)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(script: str, *overrides: str, timeout: float = 300) -> str:
    """Run a root script that must end well; return what it printed."""
    done = run(script, *overrides, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout
