"""What nested heads cost: forward and backward pass of head and loss against one `Linear(D, C)`.

All contenders of a case take turns, round by round, each round in an order of its own, for what runs before
leaves its traces in the cache; a ratio is the median over the rounds of the ratio within a round, so that a
slow moment of the machine hits both sides. Memory is the peak the allocator saw beside the gradients of the
parameters. For the heads alone the C library is told to keep freed memory: otherwise some contenders, by
luck, get every buffer fresh from the system and pay a page fault every 4 KiB.

    python scripts/bench_heads.py [--rounds 1.0]
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.cross_entropy import nested_cross_entropy
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import default_dims, prefix

CASES = {"images, D=2048, C=1000": (256, 2048, 1000, 40), "images, D=512, C=1000": (256, 512, 1000, 60)}
VOCABULARY = {"tokens, D=768, C=30522": (2048, 768, 30522, 5)}
STEP_ROUNDS = 90


class Case:
    """Features, labels and classifiers of one case, and the ways to compute the nested loss."""

    def __init__(self, batch: int, width: int, classes: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.dims = default_dims(width)
        with device:  # only here: a default device slows each later call from Python down
            self.z = torch.randn(batch, width, requires_grad=True)
            self.y = torch.randint(classes, (batch,))
            self.tied = nn.Linear(width, classes)
            self.separate = nn.ModuleList(nn.Linear(dim, classes) for dim in self.dims)

    def plain(self) -> Tensor:
        """One `Linear(D, C)` and its cross-entropy."""
        return F.cross_entropy(self.tied(self.z), self.y)

    def loop_mrl(self) -> Tensor:
        """MRL dim by dim."""
        losses = [
            F.cross_entropy(linear(prefix(self.z, dim)), self.y)
            for dim, linear in zip(self.dims, self.separate, strict=True)
        ]
        return torch.stack(losses).sum()

    def loop_mrl_e(self) -> Tensor:
        """MRL-E dim by dim."""
        weight, bias = self.tied.weight, self.tied.bias
        losses = [
            F.cross_entropy(F.linear(prefix(self.z, dim), prefix(weight, dim), bias), self.y)
            for dim in self.dims
        ]
        return torch.stack(losses).sum()

    def mrl(self) -> Tensor:
        """MRL in one pass."""
        weights, biases = zip(*((linear.weight, linear.bias) for linear in self.separate), strict=True)
        return nested_cross_entropy(self.z, weights, biases, self.y, self.dims).total

    def mrl_e(self) -> Tensor:
        """MRL-E in one pass."""
        return nested_cross_entropy(self.z, self.tied.weight, self.tied.bias, self.y, self.dims).total

    def contenders(self) -> dict[str, Callable[[], Tensor]]:
        """Return all ways to compute a loss, the loops also compiled."""
        own = {"mrl": self.mrl, "mrl_e": self.mrl_e}
        loops = {"loop_mrl": self.loop_mrl, "loop_mrl_e": self.loop_mrl_e}
        compiled = {f"compiled_{name}": torch.compile(loop, dynamic=False) for name, loop in loops.items()}
        return {"plain": self.plain, **own, **loops, **compiled}

    def clear(self) -> None:
        """Drop all gradients."""
        for tensor in (self.z, *self.tied.parameters(), *self.separate.parameters()):
            tensor.grad = None

    def peak(self, loss: Callable[[], Tensor]) -> int:
        """Bytes at the peak of one pass, without the gradients of the parameters."""
        self.clear()
        return peak_bytes(loss, [*self.tied.parameters(), *self.separate.parameters()])


def peak_bytes(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Return the bytes at the peak of forward and backward pass, without the gradients of the parameters."""
    parameters = list(parameters)
    if parameters[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss().backward()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
            loss().backward()
        events = trace.profiler.kineto_results.events()
        peak = max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))
    return peak - sum(p.grad.nbytes for p in parameters if p.grad is not None)


def synchronise() -> None:
    """Wait until a GPU, if one is in use, has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def keep_freed_memory() -> None:
    """Keep glibc from returning memory to the system; elsewhere, do nothing."""
    trim_threshold, mmap_threshold, limit = -1, -3, 1 << 30
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(trim_threshold, limit)
        library.mallopt(mmap_threshold, limit)


def interleaved(
    runs: dict[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Return the seconds of each run in each round, the runs taking turns in an order drawn anew."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order, generator = list(runs.items()), random.Random(0)
    for turn in range(warm_up + rounds):
        generator.shuffle(order)
        for name, run in order:
            start = time.perf_counter()
            run()
            synchronise()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, base, strict=True))


def bench_case(title: str, case: Case, rounds: int, console: Console) -> dict[str, float]:
    contenders = case.contenders()

    def run(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def once() -> None:
            case.clear()
            loss().backward()

        return once

    seconds = interleaved({name: run(loss) for name, loss in contenders.items()}, rounds)
    ratios = {name: ratio(values, seconds["plain"]) for name, values in seconds.items()}
    table = Table("contender", "ms", "times plain", "peak MB", title=f"{title}, {len(case.dims)} dims")
    for name, loss in contenders.items():
        milliseconds = 1e3 * statistics.median(seconds[name])
        table.add_row(name, f"{milliseconds:.1f}", f"{ratios[name]:.2f}", f"{case.peak(loss) / 1e6:.0f}")
    console.print(table)
    return ratios


def bench_step(rounds: int, console: Console, device: torch.device) -> dict[str, float]:
    """Compare whole training steps of resnet18 on 256 images of 32 px with 1,000 classes."""
    images = torch.randn(256, 3, 32, 32, device=device)
    labels = torch.randint(1000, (256,), device=device)

    def step(*, nested: bool, tied: bool = False) -> Callable[[], None]:
        torch.manual_seed(0)
        backbone = TimmBackbone(arch="resnet18", name="resnet18", channels=3, size=32)
        method = NestedClassifier(backbone, 1000, nested=nested, tied=tied, label_smoothing=0.1).to(device)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)

        def once() -> None:
            optimizer.zero_grad()
            method(images, labels).loss.backward()
            optimizer.step()

        return once

    steps: dict[str, Callable[[], object]] = {
        "ff": step(nested=False),
        "mrl": step(nested=True),
        "mrl_e": step(nested=True, tied=True),
    }
    seconds = interleaved(steps, rounds)
    ratios = {name: ratio(values, seconds["ff"]) for name, values in seconds.items()}
    table = Table("method", "ms", "times FF", title="training step, resnet18, 32 px, 1,000 classes")
    for name, values in seconds.items():
        table.add_row(name, f"{1e3 * statistics.median(values):.0f}", f"{ratios[name]:.3f}")
    console.print(table)
    return {"mrl_step": ratios["mrl"], "mrl_e_step": ratios["mrl_e"]}


def bench_evaluator(rounds: int, console: Console) -> float:
    """Time top-1 and top-5 at 9 dims for 256 images and 1,000 classes on one core, in milliseconds."""
    logits, labels = torch.randn(256, 9, 1000), torch.randint(1000, (256,))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = interleaved({"evaluator": lambda: nested_hits(logits, labels)}, rounds)["evaluator"]
    torch.set_num_threads(threads)
    milliseconds = 1e3 * statistics.median(seconds)
    console.print(f"top-1 and top-5 of (256, 9, 1000) logits on one core: {milliseconds:.2f} ms")
    return milliseconds


def bench_metrics(rounds: int, console: Console, device: torch.device) -> float:
    """Compare what only the per-dim top-1 needs, at D=2048, with the MRL-E pass that yields it."""
    case = Case(*CASES["images, D=2048, C=1000"][:3], device)
    logits = torch.randn(len(case.z), case.tied.out_features, device=device)
    target = torch.randn(len(case.dims), len(case.z), device=device)
    kept = torch.ones_like(case.y, dtype=torch.bool)

    def metrics() -> Tensor:
        runner_ups = [
            logits.amax(1) for _ in case.dims
        ]  # one dim's, in the cache as when it has been written
        return ((target > torch.stack(runner_ups)) & kept).sum(1).float()

    seconds = interleaved({"pass": lambda: case.mrl_e().backward(), "metrics": metrics}, rounds)
    share = ratio(seconds["metrics"], seconds["pass"])
    console.print(f"per-dim top-1 out of the MRL-E pass: {100 * share:.2f} % of its time")
    return share


def bench_all(scaled: Callable[[int], int], console: Console, device: torch.device) -> dict[str, float]:
    """Measure everything; `scaled` turns a usual number of rounds into the one wanted."""
    on_gpu = device.type == "cuda"
    console.print(torch.cuda.get_device_name() if on_gpu else f"threads: {torch.get_num_threads()}")
    figures = bench_step(scaled(STEP_ROUNDS), console, device)  # with the C library as train.py has it
    keep_freed_memory()
    for title, (batch, width, classes, rounds) in (CASES | VOCABULARY).items():
        ratios = bench_case(title, Case(batch, width, classes, device), scaled(rounds), console)
        suffix = "" if width == 2048 else f"_{width}"
        figures |= {f"{name}{suffix}": value for name, value in ratios.items() if name != "plain"}
    figures["metrics_share"] = bench_metrics(scaled(40), console, device)
    if not on_gpu:
        figures["evaluator_ms"] = bench_evaluator(scaled(100), console)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=float, default=1.0, help="factor on the number of rounds")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="under autocast to bfloat16")
    arguments = parser.parse_args()
    factor = arguments.rounds

    def scaled(rounds: int) -> int:
        return max(1, round(rounds * factor))

    with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.bf16):
        figures = bench_all(scaled, Console(), torch.device(arguments.device))
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
