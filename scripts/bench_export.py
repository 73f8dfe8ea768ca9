"""Speed of exported models beside torch, and how far their logits differ: python scripts/bench_export.py

Networks have random weights, statistics of layers as after training, and MRL's classifiers of 1,000 classes.
Each file is measured against the whole model in torch, in turns within one process and with as many threads;
torch runs in inference_mode, channels last where that is faster.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from mrl_experiments.cost import network_macs
from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.export.graphs import LOGITS, graphs
from mrl_experiments.export.onnx_file import quantize, session, write_onnx
from mrl_experiments.loaded.inputs import ImageInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.models.timm_backbone import TimmBackbone
from mrl_experiments.runs import Run

CLASSES = 1000
Timed = Mapping[str, Callable[[], object]]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--models", nargs="+", default=["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
    options.add_argument("--size", type=int, default=64, help="side of the images, in pixels")
    options.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="images at a time")
    options.add_argument(
        "--dim", type=int, default=0, help="of the short model; 0: an eighth of the features"
    )
    options.add_argument("--repeats", type=int, default=30, help="of which medians are taken")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--inputs", type=int, default=1000, help="on which logits are compared")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {arch: measured(arch, arguments) for arch in arguments.models}
    print(json.dumps({"threads": arguments.threads, "size": arguments.size, "models": found}))


def measured(arch: str, arguments: argparse.Namespace) -> dict[str, object]:
    model = drawn(arch, arguments.size)
    dim = arguments.dim or model.dims[-4]
    with tempfile.TemporaryDirectory() as folder:
        return compared(model, dim, Path(folder), arguments)


def compared(model: LoadedModel, dim: int, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    shape = (model.inputs.channels, arguments.size, arguments.size)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    pick = torch.randn(arguments.inputs, *shape, generator=generator)
    whole, short = graphs(model, [model.width, dim], [LOGITS])
    files = {}
    for name, graph in (("whole", whole), (f"{dim} dims", short)):
        path = folder / f"{graph.name}.onnx"
        write_onnx(graph, path)
        quantize(graph, path, folder / f"{graph.name}-int8.onnx", pick[:128].split(32))
        files[name] = session(path, arguments.threads)
        files[f"{name}, int8"] = session(folder / f"{graph.name}-int8.onnx", arguments.threads)
    out: dict[str, object] = {"dim": dim, "width": model.width, "cut": list(short.cut)}
    with torch.inference_mode():
        macs = [network_macs(lambda one=one: one.module(images=pick[:1])) for one in (whole, short)]  # type: ignore[misc]
        out["macs"] = dict(zip(("whole", "short"), macs, strict=True))
        out["difference"] = {
            name: difference(graph.module, files[name], pick)
            for name, graph in (("whole", whole), (f"{dim} dims", short))
        }
        nets = {"torch": whole.module, f"torch, {dim} dims": short.module}
        fastest = channels_last(whole.module, pick[: max(arguments.batches)])
        for batch in arguments.batches:
            runs = timed(nets, files, pick[:batch], fastest)
            times = interleaved(runs, arguments.repeats)
            out[f"batch {batch}"] = {name: round(times["torch"] / time, 3) for name, time in times.items()}
            out[f"torch ms, batch {batch}"] = round(1000 * times["torch"], 3)
    print(model.run.name, *(f"  {key}: {value}" for key, value in out.items()), sep="\n", flush=True)
    return out


def timed(
    nets: Mapping[str, nn.Module],
    files: Mapping[str, Any],
    images: torch.Tensor,
    fastest: torch.memory_format,
) -> Timed:
    """Return what runs each once."""
    x, given = images.to(memory_format=fastest), {"images": images.numpy()}
    runs: dict[str, Callable[[], object]] = {name: partial(net, images=x) for name, net in nets.items()}
    return runs | {name: partial(file.run, None, given) for name, file in files.items()}


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


def channels_last(module: nn.Module, x: torch.Tensor) -> torch.memory_format:
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


def difference(module: nn.Module, file: Any, x: torch.Tensor) -> dict[str, float]:
    """Return the largest difference of logits by the largest logit, and the share of equal top-1."""
    ours = torch.cat([module(images=part)[0] for part in x.split(100)]).numpy()
    theirs = np.concatenate([file.run(None, {"images": part.numpy()})[0] for part in x.split(100)])
    same = float(np.mean(ours.argmax(1) == theirs.argmax(1)))
    return {"largest": float(np.abs(ours - theirs).max() / np.abs(ours).max()), "same_top1": same}


def drawn(arch: str, size: int) -> LoadedModel:
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
    inputs = ImageInputs(3, size, Augment())
    return LoadedModel(Run(Path(arch)), method.eval(), inputs, backbone.width, None)


if __name__ == "__main__":
    main()
