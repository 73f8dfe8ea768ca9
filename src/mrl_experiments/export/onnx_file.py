"""ONNX files: written by torch's exporter, compared with the model, and in 8 bits where asked for."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrl_experiments.errors import UserError, said
from mrl_experiments.export.graphs import DIM, Graph
from mrl_experiments.packages import needed

CLOSE = 1e-4  # of the largest value of an output: rounding


def check_packages() -> None:
    """Raise UserError unless what writes and runs ONNX is installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needed(name, "format=onnx")


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph, with a batch of any size, and compare what onnxruntime makes of its example.

    Raises:
        UserError: If torch cannot export it, or the file computes something else.
    """
    with exporting(
        f"torch cannot export {graph.name} as ONNX", "a network of operators that ONNX has", "torch_export"
    ):
        program: Any = torch.onnx.export(
            graph.module,
            (),
            kwargs=dict(graph.example),
            input_names=[*graph.example],
            output_names=[*graph.outputs],
            dynamic_shapes=graph.shapes(),
            dynamo=True,
            verbose=False,
        )
        program.save(str(path), external_data=False)
    inputs = {name: one.numpy() for name, one in graph.example.items()}
    check_same(graph, session(path).run(None, inputs), path)


def check_same(graph: Graph, found: Sequence[NDArray[np.float32]], path: Path) -> None:
    """Raise UserError unless outputs are those of a graph's module, up to rounding."""
    with torch.no_grad():
        expected = graph.module(**graph.example)
    for name, ours, theirs in zip(graph.outputs, expected, found, strict=True):
        largest = float(ours.abs().max())
        if theirs.shape != ours.shape or np.abs(theirs - ours.numpy()).max() > CLOSE * max(largest, 1e-6):
            raise UserError(
                f"{path.name}: {name} differs from the run's",
                expected=f"the same up to {CLOSE:g} of the largest value",
                remedy="report it with the run's config.yaml; format=safetensors has the weights as they are",
            )


def session(path: Path, threads: int = 0) -> Any:
    """Return onnxruntime's session of a file, on the CPU; 0 threads: as many as it chooses."""
    runtime = needed("onnxruntime", "format=onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantize(graph: Graph, path: Path, out: Path, calibration: Sequence[Tensor] | None) -> None:
    """Write an ONNX file in 8 bits.

    With images to calibrate on, weights and activations are 8 bits, ranges as these images have them.
    Without, and of networks with attention, whose activations have no ranges that fit all images, weights
    are, and activations are rounded as they come.

    Args:
        graph: What is in the file.
        path: The file.
        out: The new one.
        calibration: Batches of the first argument, or None.
    """
    needed("onnxruntime", "int8=true")
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    first, *_ = graph.example
    rest = {name: one.numpy() for name, one in graph.example.items() if name == DIM}
    batches = iter([{first: one.numpy(), **rest} for one in calibration or ()])
    reader: Any = SimpleNamespace(get_next=lambda: next(batches, None))
    prepared = out.with_suffix(".prepared.onnx")
    try:
        with _quiet():
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            if calibration is None or _attends(prepared):
                quantization.quantize_dynamic(
                    str(prepared), str(out), weight_type=quantization.QuantType.QInt8
                )
            else:
                quantization.quantize_static(
                    str(prepared),
                    str(out),
                    reader,
                    per_channel=True,
                    reduce_range=True,  # processors without VNNI add pairs of products in 16 bits
                    op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                )
    except Exception as error:
        raise UserError(
            f"onnxruntime cannot write {path.name} in 8 bits: {said(error)}", remedy="leave out int8=true"
        ) from error
    finally:
        prepared.unlink(missing_ok=True)


def _attends(path: Path) -> bool:
    """Return whether a network has attention: a softmax by which something computed is multiplied."""
    graph = needed("onnx", "int8=true").load(str(path)).graph
    shares = {name for node in graph.node if node.op_type == "Softmax" for name in node.output}
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    products = [set(node.input) for node in graph.node if node.op_type == "MatMul"]
    return any(factors & shares and factors - shares <= computed for factors in products)


@contextmanager
def exporting(problem: str, expected: str, other: str) -> Iterator[None]:
    """Trace without notes or gradients; each network that cannot be exported fails in its own way.

    Args:
        problem: What an error begins with.
        expected: The networks that can be.
        other: The format to take instead.
    """
    try:
        with _quiet(), torch.no_grad():
            yield
    except Exception as error:
        raise UserError(
            f"{problem}: {type(error).__name__}: {said(error)}",
            expected=expected,
            remedy=f"name the dims, dim=[8,64], where the dim is an argument; or format={other}",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' notes on their own progress from the terminal; errors are raised."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
