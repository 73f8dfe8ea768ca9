"""What a change costs in training: python scripts/bench_versions.py --before <commit> [--rounds 10]

Trains with the code of a commit and with that of this folder at the same time, a core and a thread each, and
swaps the cores every round: whatever the machine does besides reaches both. `train.py` is run as typed, on
images of 32 px in folders; the time is that between two optimizer steps, so that the loader, Lightning and
callbacks are in it. Prints a line for each round and, as its last line, a JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
STEPS, BATCH, WARM = 40, 256, 6
TIMED = f"""
import json, os, runpy, sys, time
os.sched_setaffinity(0, {{int(sys.argv.pop(1))}})
import torch
times, step = [], torch.optim.SGD.step
def timed(*args, **options):
    done = step(*args, **options)
    times.append((time.perf_counter(), time.process_time()))
    return done
torch.optim.SGD.step = timed
os.chdir(sys.argv[1])
sys.argv = [sys.argv[1] + "/train.py", *sys.argv[2:]]
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    (w0, c0), (w1, c1) = times[{WARM}], times[-1]
    print("\\n" + json.dumps([(w1 - w0) / (len(times) - 1 - {WARM}), (c1 - c0) / (len(times) - 1 - {WARM})]))
"""


def write_pictures(folder: Path) -> None:
    """Write one epoch of coloured noise on ten patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 255, (10, 32, 32, 3))
    for split, count in (("train", STEPS * BATCH), ("val", 20)):
        for number in range(count):
            path = folder / split / f"class{number % 10}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = 0.7 * patterns[number % 10] + rng.integers(0, 76, (32, 32, 3))
            Image.fromarray(image.astype(np.uint8)).save(path)


def start(tree: Path, folder: Path, core: int, name: str) -> "subprocess.Popen[str]":
    """Start an epoch of training with the code of `tree` on one core."""
    options = [
        *("data=image_folder", f"data.root={folder / 'pictures'}", "data.size=32", "epochs=1", "logger=csv"),
        *(f"root={folder / name}", "trainer.precision=32-true", f"data.batch_size={BATCH}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    environment["MRL_DATA"] = str(folder / "data" / name.rstrip("0123456789"))
    return subprocess.Popen(
        [sys.executable, "-c", TIMED, str(core), str(tree), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seconds(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Return seconds and CPU seconds of a step."""
    output = process.communicate()[0]
    if process.returncode:
        sys.exit(output[-2000:])
    wall, cpu = json.loads(output.strip().splitlines()[-1])
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True, help="a commit")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder / "code"), options.before], check=True)
        trees = {"before": folder / "code", "after": ROOT}
        ratios = []
        try:
            for turn in range(options.rounds):
                running = {
                    which: start(tree, folder, cores[(place + turn) % len(cores)], f"{which}{turn}")
                    for place, (which, tree) in enumerate(trees.items())
                }
                found = {which: seconds(process) for which, process in running.items()}
                speed, cpu = (found["before"][i] / found["after"][i] for i in (0, 1))
                print(
                    f"round {turn}: images/s after / before {speed:.3f}, CPU seconds {1 / cpu:.3f}",
                    flush=True,
                )
                ratios.append((speed, 1 / cpu))
        finally:
            subprocess.run([*git, "remove", "--force", str(folder / "code")], check=False)
    speeds, costs = zip(*ratios, strict=True)
    error = statistics.stdev(speeds) / len(speeds) ** 0.5 if len(speeds) > 1 else None
    figures = {"images_per_s": statistics.median(speeds), "mean": statistics.fmean(speeds), "error": error}
    print(json.dumps({**figures, "cpu_seconds": statistics.median(costs), "rounds": len(ratios)}))


if __name__ == "__main__":
    main()
