"""Requests a second of serve.py with and without shared batches: python scripts/bench_serve.py

Two servers of the same run, one that shares batches (batch=64 wait=2) and one that computes each request
alone (batch=1 wait=0), are driven in turns by N clients, each of which sends one picture and waits for its
vector. Beside them stand calls of `encode` in one process without HTTP, one picture at a time and 64 at a
time, from the same PNG. The run is drawn, not trained: speed does not depend on weights. CPU is that of the
server alone, which other programs on the machine do not change as they change the rest.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mrl_experiments import load

ROOT = Path(__file__).parents[1]
SERVERS = {"batched": ["batch=64", "wait=2"], "alone": ["batch=1", "wait=0"]}
START = 120  # seconds a server has to begin


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", default="resnet10t")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="at a time")
    options.add_argument("--seconds", type=float, default=3, help="of a round")
    options.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    options.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = drawn(root, arguments.model)
        ports = {}
        for name, typed in SERVERS.items():
            given = [f"run={run.name}", f"root={root}", f"threads={arguments.threads}", "queue=4096", *typed]
            ports[name] = served(stack, given)
        found = measured(run, ports, arguments)
    show(found)
    print(json.dumps({"model": arguments.model, "threads": arguments.threads, **found}))


def drawn(root: Path, model: str) -> Path:
    """Train a run of digits for one step, and return its folder."""
    typed = ["experiment=digits", f"model.arch={model}", "model.name=drawn", f"root={root}", "logger=csv"]
    typed += [
        "epochs=1",
        "trainer=cpu",
        "trainer.limit_train_batches=1",
        "data.loader=torch",
        "data.workers=0",
    ]
    subprocess.run([sys.executable, ROOT / "train.py", *typed], check=True, stdout=subprocess.DEVNULL)
    (run,) = (root / "runs").iterdir()
    return run


def served(stack: ExitStack, typed: Sequence[str]) -> int:
    """Start a server, which ends with the stack; return its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, str(ROOT / "serve.py"), f"port={port}", *typed]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return port
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("a server did not begin") from None
            time.sleep(0.1)


def pictures() -> list[bytes]:
    """Return digits of 32 px as PNG."""
    found = []
    for image in load_digits().images[:64]:
        file = io.BytesIO()
        Image.fromarray((image * 15.9).astype("uint8")).resize((32, 32)).save(file, "png")
        found.append(file.getvalue())
    return found


def measured(run: Path, ports: Mapping[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return medians over rounds, in each of which all take turns."""
    files = pictures()
    urls = ["data:image/png;base64," + base64.b64encode(file).decode() for file in files]
    bodies = [json.dumps({"inputs": [url]}).encode() for url in urls]
    model = load(run)
    rounds: dict[str, list[dict[str, float]]] = {}
    for turn in range(arguments.rounds + 1):
        for size in (1, 64):
            told = bare(model, files, size, arguments.seconds if turn else 0.5)
            rounds.setdefault(f"encode, {size} at a time", []).append(told)
        for count in arguments.clients:
            for name, port in ports.items():
                told = asyncio.run(driven(port, bodies, count, arguments.seconds if turn else 0.5))
                rounds.setdefault(f"{name}, {count} clients", []).append(told)
    return {  # the first round warms up
        name: {key: round(median(one[key] for one in told[1:]), 3) for key in told[0]}
        for name, told in rounds.items()
    }


def bare(model: Any, files: Sequence[bytes], size: int, seconds: float) -> dict[str, float]:
    """Return pictures a second that are decoded and embedded without a server, and the CPU of each."""
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while (spent := time.perf_counter() - start) < seconds:
        model.encode([Image.open(io.BytesIO(file)) for file in files[:size]])
        count += size
    return {"per second": count / spent, "cpu ms": 1000 * (time.process_time() - cpu) / count}


def counted(port: int) -> tuple[float, float, float]:
    """Return what a server has counted: seconds of CPU, batches, and inputs of all batches."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    names = ("process_cpu_seconds_total", "mrl_batch_inputs_count", "mrl_batch_inputs_sum")
    cpu, batches, inputs = (float(found[name]) for name in names)
    return cpu, batches, inputs


async def driven(port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Return requests a second of so many clients, and the latencies in milliseconds."""
    headers = {"Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    times: list[float] = []
    before = counted(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=60) as client:
        start = time.perf_counter()

        async def one(number: int) -> None:
            while time.perf_counter() - start < seconds:
                begin = time.perf_counter()
                body = bodies[(number + len(times)) % len(bodies)]
                response = await client.post("/embed", content=body, headers=headers)
                response.raise_for_status()
                times.append(time.perf_counter() - begin)

        await asyncio.gather(*map(one, range(clients)))
        spent = time.perf_counter() - start
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    cpu, batches, inputs = (after - was for after, was in zip(counted(port), before, strict=True))
    told = {"per second": len(times) / spent, "cpu ms": 1000 * cpu / inputs, "batch": inputs / batches}
    return told | {"p50 ms": float(p50), "p99 ms": float(p99)}


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    base = found["encode, 1 at a time"]["per second"]
    print(f"{'':24}{'pictures/s':>11}{'of encode':>11}{'cpu ms':>9}{'batch':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, told in found.items():
        rest = "".join(f"{told[key]:9.1f}" for key in ("cpu ms", "batch", "p50 ms", "p99 ms") if key in told)
        print(f"{name:24}{told['per second']:11.1f}{told['per second'] / base:11.2f}{rest}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
