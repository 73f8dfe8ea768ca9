"""Programs of torch.export: `torch.export.load("model.pt2").module()`, without this project's code."""

from pathlib import Path

import torch

from mrl_experiments.export.graphs import Graph
from mrl_experiments.export.onnx_file import check_same, exporting


def write_program(graph: Graph, path: Path) -> None:
    """Write a graph, with a batch of any size, and compare what the file computes.

    Raises:
        UserError: If torch cannot export it, or the file computes something else.
    """
    with exporting(f"torch.export cannot take {graph.name}", "a network that it can trace", "safetensors"):
        program = torch.export.export(
            graph.module, (), kwargs=dict(graph.example), dynamic_shapes=graph.shapes()
        )
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
    with torch.no_grad():
        found = loaded(**graph.example)
    check_same(graph, [one.detach().numpy() for one in found], path)
