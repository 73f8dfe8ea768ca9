"""Exported models beside torch: how far logits differ, what 8 bits cost, and how fast they are.

python scripts/bench_export.py --runs outputs/runs/mrl_resnet10t_digits_s0   (images, texts or both; trained)
python scripts/bench_export.py --models resnet18 convnext_atto   (random weights, 64 px, 1,000 classes)

Of a run, inputs are its validation samples with their labels, and so many copies of these with noise (of
images Gaussian, of texts an eighth of the tokens replaced) as make `--inputs`. Of models with random weights,
which have statistics of layers as after training, they are noise, and 8 bits have no accuracy to lose.
Logits are those of classifiers; of a dual encoder's text tower, the cosines with the vectors that torch gives
of 1,000 validation images, of which the nearest has to be of the text's class.
Each file is measured against the whole model in torch, in turns within one process and with as many threads;
torch runs in inference_mode, channels last where that is faster.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from mrl_experiments.build import stored_data, trusted_config
from mrl_experiments.cost import network_macs
from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.export.graphs import EMBEDDING, LOGITS, Graph, graphs
from mrl_experiments.export.onnx_file import quantize, session, write_onnx
from mrl_experiments.export.program import write_program
from mrl_experiments.export.write import trained_images
from mrl_experiments.loaded.inputs import ImageInputs, TextInputs
from mrl_experiments.loaded.model import LoadedModel, load
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.losses.method import IGNORED
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.runs import Run

CLASSES, CALIBRATED, BATCH = 1000, 256, 32
Timed = Mapping[str, Callable[[], object]]


@dataclass
class Case:
    """A model, or one tower, and what it is asked.

    Attributes:
        model: The model.
        outputs: What of it is compared.
        inputs: (N, ...) images or tokens.
        labels: (N,) or, of language models, (N, T); None where there are none.
        calibration: Images for 8 bits; None of texts.
        candidates: (M, D) features of images with which texts are compared, with their classes (M,).
    """

    model: LoadedModel
    outputs: Sequence[str]
    inputs: Tensor
    labels: Tensor | None
    calibration: list[Tensor] | None
    candidates: tuple[Tensor, Tensor] | None = None


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--runs", nargs="+", default=[], help="folders of trained runs")
    options.add_argument("--models", nargs="+", default=[], help="names of timm, with random weights")
    options.add_argument("--size", type=int, default=64, help="side of the images of --models, in pixels")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="inputs at a time")
    options.add_argument(
        "--dim", type=int, default=0, help="of the short model; 0: about an eighth of the features"
    )
    options.add_argument("--repeats", type=int, default=30, help="of which medians are taken")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--tokens", type=int, default=32, help="of a text, the first so many")
    options.add_argument("--inputs", type=int, default=10_000, help="on which logits are compared")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {}
    cases = [partial(of_run, Path(run), arguments.tokens) for run in arguments.runs]
    cases += [partial(drawn, arch, arguments.size) for arch in arguments.models]
    for make in cases:
        case = make(arguments.inputs)
        with tempfile.TemporaryDirectory() as folder:
            name = case.model.run.name
            found[name] = measured(case, Path(folder), arguments)
            print(name, *(f"  {key}: {value}" for key, value in found[name].items()), sep="\n", flush=True)
    print(json.dumps({"threads": arguments.threads, "models": found}))


def measured(case: Case, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    model = case.model
    dim = arguments.dim or max((one for one in model.dims if one <= model.width / 8), default=model.dims[0])
    both = [one for one in graphs(model, [model.width, dim], case.outputs) if argument_of(one) in one.example]
    both = [one for one in both if case.candidates is None or argument_of(one) == "tokens"]
    out: dict[str, object] = {"dim": dim, "width": model.width, "cut": list(both[1].cut)}
    out["inputs"] = len(case.inputs)
    files: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, size, graph in zip(("whole", f"{dim} dims"), (model.width, dim), both, strict=True):
        programs = written(graph, case, folder, arguments.threads)
        files |= {f"{name}{kind}": run for kind, run in programs.items() if kind != ", torch_export"}
        out[name] = compared(case, size, graph, programs)
    first = argument_of(both[0])
    macs = [network_macs(partial(one.module, **{first: case.inputs[:1]})) for one in both]
    out["macs"] = dict(zip(("whole", "short"), macs, strict=True))
    nets = {"torch": both[0].module, f"torch, {dim} dims": both[1].module}
    images = case.inputs.ndim == 4
    fastest = channels_last(both[0].module, case.inputs[:BATCH]) if images else torch.contiguous_format
    for batch in arguments.batches:
        times = interleaved(timed(nets, files, first, case.inputs[:batch], fastest), arguments.repeats)
        out[f"batch {batch}"] = {name: round(times["torch"] / time, 3) for name, time in times.items()}
        out[f"torch ms, batch {batch}"] = round(1000 * times["torch"], 3)
    return out


def argument_of(graph: Graph) -> str:
    return next(iter(graph.example))


def written(graph: Graph, case: Case, folder: Path, threads: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return what runs a graph's files on a batch: of ONNX, in 8 bits, of torch.export."""
    paths = [folder / f"{graph.name}{suffix}" for suffix in (".onnx", "-int8.onnx", ".pt2")]
    write_onnx(graph, paths[0])
    quantize(graph, paths[0], paths[1], case.calibration)
    write_program(graph, paths[2])
    first = argument_of(graph)
    sessions = [session(path, threads) for path in paths[:2]]
    program = torch.export.load(paths[2]).module()

    def of(file: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.from_numpy(file.run(None, {first: x.numpy()})[0])

    return {
        "": of(sessions[0]),
        ", int8": of(sessions[1]),
        ", torch_export": lambda x: program(**{first: x})[0],
    }


@torch.inference_mode()
def compared(
    case: Case, dim: int, graph: Graph, files: Mapping[str, Callable[[Tensor], Tensor]]
) -> dict[str, dict[str, float]]:
    """Return what becomes of the logits in each file.

    Returns:
        The largest difference by the largest logit, the share of equal top-1, and where there are labels the
        accuracy in percent.
    """
    first = argument_of(graph)
    runs = {"torch": lambda x: graph.module(**{first: x})[0], **files}
    largest, apart = 0.0, dict.fromkeys(runs, 0.0)
    best: dict[str, list[Tensor]] = {name: [] for name in runs}
    for x in case.inputs.split(BATCH):
        logits = {name: as_logits(case, dim, run(x)) for name, run in runs.items()}
        largest = max(largest, float(logits["torch"].abs().max()))
        for name, one in logits.items():
            apart[name] = max(apart[name], float((one - logits["torch"]).abs().max()))
            best[name].append(one.argmax(-1))
    top = {name: torch.cat(parts) for name, parts in best.items()}
    told = {
        name: {
            "largest": apart[name] / largest,
            "same_top1": round(float((one == top["torch"]).float().mean()), 5),
        }
        for name, one in top.items()
    }
    if case.labels is not None:
        counted = case.labels != IGNORED
        for name, one in top.items():
            answers = one if case.candidates is None else case.candidates[1][one]
            right = (answers == case.labels)[counted].float().mean()
            told[name]["top1"] = round(100 * float(right), 3)
    return {name.removeprefix(", ") or "onnx": values for name, values in told.items()}


def as_logits(case: Case, dim: int, output: Tensor) -> Tensor:
    """Return logits (..., C), of vectors (B, dim) their cosines with the candidates."""
    if case.candidates is None:
        return output
    return output @ nn.functional.normalize(case.candidates[0][:, :dim], dim=1).T


def of_run(folder: Path, tokens: int, count: int) -> Case:
    """Return a trained run, or of a dual encoder its text tower, with labelled inputs."""
    model = load(folder)
    texts = isinstance(model.inputs, TextInputs)
    with stored_data(model.run, trusted_config(model.run)) as data:
        dual = not isinstance(model.inputs, TextInputs | ImageInputs)
        splits = ["val", "val_text"] if dual else ["val"]
        for split in splits:
            data.prepare(split)
        candidates = None
        if dual:
            images, classes = joined(data.dataloader("val"), 1000)
            candidates = torch.from_numpy(model.encode(list(images), model.width)), classes
        inputs, labels = joined(data.dataloader(splits[-1]), count)
    if not inputs.is_floating_point():
        inputs, labels = inputs[:, :tokens], labels[:, :tokens] if labels.ndim == 2 else labels
    generator = torch.Generator().manual_seed(0)
    more = [noisy(inputs, model, generator) for _ in range(-(-count // len(inputs)) - 1)]
    inputs = torch.cat([inputs, *more])[:count]
    labels = labels.repeat(len(more) + 1, *[1] * (labels.ndim - 1))[:count]
    calibration = None if texts or dual else trained_images(model, CALIBRATED)
    outputs = [EMBEDDING if dual else LOGITS]
    return Case(model, outputs, inputs, labels, calibration, candidates)


def joined(batches: Iterator[Any], most: int) -> tuple[Tensor, Tensor]:
    """Return up to so many inputs and labels, evenly spread over those of a split."""
    parts = [(x, y) for x, y, _ in batches]
    x, y = (torch.cat([torch.as_tensor(part[side]) for part in parts]) for side in (0, 1))
    rows = torch.linspace(0, len(x) - 1, min(most, len(x))).long()
    return x[rows].contiguous(), y[rows]


def noisy(inputs: Tensor, model: LoadedModel, generator: torch.Generator) -> Tensor:
    """Return images with noise, or tokens of which an eighth, none filled up or masked, are others."""
    if inputs.is_floating_point():
        return inputs + 0.3 * torch.randn(inputs.shape, generator=generator)
    texts = getattr(model.inputs, "texts", model.inputs)
    assert isinstance(texts, TextInputs)
    others = inputs.flatten()[torch.randint(inputs.numel(), inputs.shape, generator=generator)]
    fixed = torch.tensor([texts.tokenizer.pad, texts.tokenizer.mask])
    kept = (torch.rand(inputs.shape, generator=generator) > 1 / 8) | torch.isin(inputs, fixed)
    return torch.where(kept | torch.isin(others, fixed), inputs, others)


def timed(
    nets: Mapping[str, nn.Module],
    files: Mapping[str, Callable[[Tensor], Tensor]],
    argument: str,
    inputs: Tensor,
    fastest: torch.memory_format,
) -> Timed:
    """Return what runs each once."""
    x = inputs.to(memory_format=fastest)
    runs: dict[str, Callable[[], object]] = {
        name: partial(net, **{argument: x}) for name, net in nets.items()
    }
    return runs | {name: partial(run, inputs) for name, run in files.items()}


@torch.inference_mode()
def interleaved(runs: Timed, repeats: int) -> dict[str, float]:
    """Return median seconds of each, measured in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            start = perf_counter()
            run()
            if turn > 1:
                times[name].append(perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def channels_last(module: nn.Module, x: Tensor) -> torch.memory_format:
    """Return the memory format in which torch is faster, the module in it."""
    formats = (torch.contiguous_format, torch.channels_last)
    times = {}
    for one in formats:
        module.to(memory_format=one)
        images = x.to(memory_format=one)
        times[one] = interleaved({"": lambda images=images: module(images=images)}, 5)[""]  # type: ignore[misc]
    best = min(times, key=lambda one: times[one])
    module.to(memory_format=best)
    return best


def drawn(arch: str, size: int, count: int) -> Case:
    """Return a model as after training: statistics and scales of all layers, and classifiers, are drawn."""
    torch.manual_seed(0)
    backbone = TimmBackbone(arch=arch, name=arch, channels=3, size=size)
    method = NestedClassifier(backbone, CLASSES)
    for parameter in method.head.parameters():
        nn.init.normal_(parameter, std=0.2)
    method.train()
    with torch.no_grad():
        for _ in range(5):
            method.embed(torch.randn(16, 3, size, size))
    model = LoadedModel(Run(Path(arch)), method.eval(), ImageInputs(3, size, Augment()), backbone.width, None)
    inputs = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return Case(model, [LOGITS], inputs, None, list(inputs[:CALIBRATED].split(BATCH)))


if __name__ == "__main__":
    main()
