"""How long an adaptor takes to fit: python scripts/bench_fit.py [--sizes 100000x768 1000000x1024]

Each size is one `train.py data=vectors model=adaptor` on unit vectors around 2,000 centres in float16, whose
principal directions fall as 1 / sqrt(i), in a random rotation (seed 0): from reading the file to the table of
what each dim keeps. The last line is one JSON object, by size: seconds on the clock, CPU seconds, and the
most memory of the process in MB, mapped pages of the file included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TRAIN = Path(__file__).parents[1] / "train.py"
BLOCK = 20_000
CENTRES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["100000x768", "1000000x1024"], help="rows x dims")
    sizes = [tuple(map(int, size.split("x"))) for size in parser.parse_args().sizes]
    figures = {}
    for rows, width in sizes:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / "base.npy"
            write(base, rows, width)
            figures[f"{rows}x{width}"] = fit(base)
    print(json.dumps(figures))


def write(path: Path, rows: int, width: int) -> None:
    """Write vectors (rows, width)."""
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
    directions = turned / np.sqrt(np.arange(1, width + 1, dtype=np.float32))[:, None]
    centres = random.standard_normal((CENTRES, width), dtype=np.float32)
    out = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, BLOCK):
        part = out[start : start + BLOCK]
        noise = random.standard_normal(part.shape, dtype=np.float32)
        x = (centres[random.integers(CENTRES, size=len(part))] + noise) @ directions
        part[:] = x / np.linalg.norm(x, axis=1, keepdims=True)
    out.flush()


def fit(base: Path) -> dict[str, float]:
    """Train an adaptor of a file in a process of its own; return what it took."""
    options = ["data=vectors", f"data.base={base}", "model=adaptor", "logger=csv", f"root={base.parent}"]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, str(TRAIN), *options])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    seconds = time.monotonic() - began
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": used.ru_maxrss // 1024}


if __name__ == "__main__":
    main()
