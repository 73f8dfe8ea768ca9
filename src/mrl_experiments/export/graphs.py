"""Modules to be exported: inputs, and a dim where it is left open, to vectors and logits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.export.truncated import linear_of, narrowed
from mrl_experiments.heads import Heads
from mrl_experiments.loaded.inputs import ImageInputs, SequenceInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.models.dual_encoder import DualEncoder
from mrl_experiments.nesting import prefix

EMBEDDING, LOGITS, DIM = "embeddings", "logits", "dim"
QUERY, DOCUMENT = "query", "document"
EXAMPLES = 2  # in the batch that is traced: 1 would be taken for a constant


@dataclass(frozen=True)
class Graph:
    """A module to be exported.

    Attributes:
        name: Of its file, without the suffix.
        module: Maps `example` to a tuple of `outputs`.
        example: Arguments of the module by name.
        dynamic: For each argument, the axes of any size with the largest size, or None.
        outputs: Names of what it gives.
        cut: Layers that compute the first features alone.
    """

    name: str
    module: nn.Module
    example: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, tuple[str, int | None]]]
    outputs: Sequence[str]
    cut: Sequence[str] = field(default=())

    def shapes(self) -> dict[str, Any]:
        """Return `dynamic` as torch.export takes it."""
        names = {name: most for axes in self.dynamic.values() for name, most in axes.values()}
        sizes = {name: torch.export.Dim(name, max=most) for name, most in names.items()}
        return {
            argument: {axis: sizes[name] for axis, (name, _) in self.dynamic.get(argument, {}).items()}
            or None
            for argument in self.example
        }


class AtDim(nn.Module):
    """Vectors of the first features, of length one, and their logits.

    Args:
        backbone: Gives features (..., D) of at least `dim`.
        dim: How many count.
        linear: The classifier of these, or None.
        outputs: What is given.
        normalize: Whether vectors have length one.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        linear: nn.Linear | None,
        outputs: Sequence[str],
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.dim, self.linear = backbone, dim, linear
        self.outputs, self.normalize = tuple(outputs), normalize

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs: vectors (..., dim), logits (..., C)."""
        z = prefix(self.backbone(inputs), self.dim)
        given = {EMBEDDING: lambda: _vectors(z, self.normalize), LOGITS: lambda: self.linear(z)}  # type: ignore[misc]
        return tuple(given[name]() for name in self.outputs)


def _vectors(z: Tensor, normalize: bool) -> Tensor:
    return F.normalize(z, dim=-1) if normalize else z


class AnyDim(nn.Module):
    """The same of a dim that is an argument; one that is not nested means the next that is.

    The classifiers lie side by side in one matrix, of which a dim reads its columns.

    Args:
        backbone: Gives features (..., D).
        dims: The nested dims, the last D.
        heads: A classifier of each, or None.
        outputs: What is given.
        normalize: Whether vectors have length one.
    """

    dims: Tensor
    starts: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        dims: Sequence[int],
        heads: Heads | None,
        outputs: Sequence[str],
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone, self.outputs, self.width = backbone, tuple(outputs), dims[-1]
        ends = torch.tensor(dims)
        self.register_buffer("dims", ends)
        shared = heads is None or heads.tied
        self.register_buffer("starts", torch.zeros_like(ends) if shared else ends.cumsum(0) - ends)
        if heads is not None:
            own = [linear_of(*heads.at(dim)) for dim in dims]
            each = own[-1:] if heads.tied else own
            self.weight = nn.Parameter(torch.cat([linear.weight.detach() for linear in each], dim=1))
            self.bias = nn.Parameter(torch.stack([linear.bias.detach() for linear in own]))

    def forward(self, inputs: Tensor, dim: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs: vectors (..., dim), logits (..., C)."""
        z = self.backbone(inputs)
        place = (self.dims < dim).sum().clamp(max=len(self.dims) - 1)
        used = self.dims[place].item()
        torch._check(used >= 1)
        torch._check(used <= self.width)
        z = z.narrow(-1, 0, used)
        return tuple(
            _vectors(z, self.normalize) if name == EMBEDDING else self._logits(z, place)
            for name in self.outputs
        )

    def _logits(self, z: Tensor, place: Tensor) -> Tensor:
        start, used = cast(int, self.starts[place].item()), z.shape[-1]
        torch._check(start >= 0)
        torch._check(start + used <= self.weight.shape[1])
        return z @ self.weight.narrow(1, start, used).T + self.bias[place]


class AdaptorMap(nn.Module):
    """The map of an adaptor's file: vectors (B, D) to the first `dim` features (B, dim).

    Args:
        adaptor: The file.
        dim: How many features.
        queries: With the map of queries, where they have one of their own.
    """

    def __init__(self, adaptor: AdaptorFile, dim: int, queries: bool = False) -> None:
        super().__init__()
        arrays = {"matrix": adaptor.arrays["query_matrix" if queries else "matrix"][:, :dim]}
        self.has_mlp = "mlp_in" in adaptor.arrays
        if self.has_mlp:
            arrays |= {name: adaptor.arrays[name] for name in ("mlp_in", "mlp_bias")}
            arrays["mlp_out"] = adaptor.arrays["mlp_out"][:, :dim]
        for name, array in arrays.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(array)))

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, dim) of vectors x (B, D)."""
        z = x @ self.get_parameter("matrix")
        if self.has_mlp:
            norms = x.norm(dim=1, keepdim=True)
            unit = x / norms.clamp_min(torch.finfo(x.dtype).tiny)
            hidden = (unit @ self.get_parameter("mlp_in") + self.get_parameter("mlp_bias")).relu()
            z = z + norms * (hidden @ self.get_parameter("mlp_out"))
        return z


def graphs(model: LoadedModel, dims: Sequence[int] | None, outputs: Sequence[str]) -> Iterator[Graph]:
    """Yield what is exported of a run: one for each dim, or for None one with the dim as an argument.

    A dual encoder has one for images and one for texts, an adaptor of two maps one for queries and one for
    documents.

    Args:
        model: The run.
        dims: Nested dims, or None.
        outputs: Some of EMBEDDING and LOGITS.
    """
    for part, (argument, example, axes) in parts(model).items():
        inputs, dynamic = {argument: example}, {argument: axes}
        for dim in [None] if dims is None else dims:
            name = "-".join(filter(None, (part or "model", str(dim or ""))))
            cut: Sequence[str] = ()
            if dim is None:
                backbone = _backbone(model, part, model.width)
                module: nn.Module = AnyDim(backbone, model.dims, model.heads, outputs, model.by_cosine)
                inputs = {argument: example, DIM: torch.tensor(model.dims[0])}
            else:
                linear = linear_of(*model.heads.at(dim)) if model.heads else None
                backbone = _backbone(model, part, dim)
                if backbone is model.method.backbone:
                    backbone, cut = narrowed(model.method, dim)
                module = AtDim(backbone, dim, linear, outputs, model.by_cosine)
            yield Graph(name, Named(module, [*inputs]).eval(), inputs, dynamic, outputs, cut)


class Named(nn.Module):
    """A module whose arguments have the names that files show."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module, self.names = module, tuple(names)

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the module does of its arguments in their order."""
        outputs: tuple[Tensor, ...] = self.module(*(inputs[name] for name in self.names))
        return outputs


def parts(model: LoadedModel) -> dict[str, tuple[str, Tensor, dict[int, tuple[str, int | None]]]]:
    """Return of each tower, "" where there is one: its argument, an example, and its axes of any size."""
    batch: dict[int, tuple[str, int | None]] = {0: ("batch", None)}
    backbone, inputs = model.method.backbone, model.inputs
    generator = torch.Generator().manual_seed(0)
    if isinstance(inputs, ImageInputs):
        shape = (inputs.channels, inputs.size, inputs.size)
        return {"": ("images", torch.randn(EXAMPLES, *shape, generator=generator), batch)}
    if isinstance(inputs, SequenceInputs):
        return {"": ("tokens", *_tokens(inputs.length, generator))}
    if isinstance(backbone, DualEncoder):
        images = torch.randn(EXAMPLES, *backbone.image.shape, generator=generator)
        return {
            "image": ("images", images, batch),
            "text": ("tokens", *_tokens(inputs.texts.length, generator)),  # type: ignore[attr-defined]
        }
    two = model.adaptor is not None and model.adaptor.two_maps
    vectors = torch.randn(EXAMPLES, model.width, generator=generator)
    return {part: ("vectors", vectors, batch) for part in ((QUERY, DOCUMENT) if two else ("",))}


def _tokens(length: int, generator: torch.Generator) -> tuple[Tensor, dict[int, tuple[str, int | None]]]:
    tokens = torch.randint(3, 200, (EXAMPLES, max(2, length - 1)), generator=generator)
    return tokens, {0: ("batch", None), 1: ("length", length)}


class Tower(nn.Module):
    """One side of a dual encoder, with its projection to the first `dim` features."""

    def __init__(self, tower: nn.Module, project: nn.Linear, dim: int) -> None:
        super().__init__()
        self.tower, self.project = tower, nn.Linear(project.in_features, dim, bias=False)
        with torch.no_grad():
            self.project.weight.copy_(project.weight[:dim])

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, dim)."""
        features: Tensor = self.project(self.tower(x))
        return features


def _backbone(model: LoadedModel, part: str, dim: int) -> nn.Module:
    """Return what gives at least the first `dim` features of a tower."""
    backbone = model.method.backbone
    if model.adaptor is not None:
        return AdaptorMap(model.adaptor, dim, queries=part == QUERY)
    if isinstance(backbone, DualEncoder):
        towers = {
            "image": (backbone.image, backbone.project_image),
            "text": (backbone.text, backbone.project_text),
        }
        return Tower(*towers[part], dim)
    return backbone
