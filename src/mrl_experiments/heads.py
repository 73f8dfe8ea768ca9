"""The classifiers of a trained model, stored beside its embeddings so that no checkpoint is needed later."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, reading, require_regular
from mrl_experiments.nesting import prefix

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Heads:
    """Linear classifiers on prefixes.

    Attributes:
        weights: {dim: (C, dim)}.
        biases: {dim: (C,)}.
        tied: There is one classifier, and its first m columns are a classifier for the first m features, for
            any m (MRL-E; reductions of a fixed-feature model).

    Example:
        >>> heads = Heads({4: np.ones((3, 4))}, {4: np.zeros(3)}, tied=True)
        >>> heads.serves(2), heads.logits(np.ones((5, 4)), 2).tolist()[0]
        (True, [2.0, 2.0, 2.0])
    """

    weights: Mapping[int, Array]
    biases: Mapping[int, Array]
    tied: bool

    def dims(self) -> tuple[int, ...]:
        """Return the dims that have a classifier of their own, ascending."""
        return tuple(sorted(self.weights))

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return len(next(iter(self.biases.values())))

    def of_classes(self, classes: NDArray[np.int64]) -> "Heads":
        """Return classifiers that tell apart only `classes`, in that order."""
        return Heads(
            {dim: weight[classes] for dim, weight in self.weights.items()},
            {dim: bias[classes] for dim, bias in self.biases.items()},
            self.tied,
        )

    def serves(self, dim: int) -> bool:
        """True if there is a classifier for the first `dim` features."""
        return dim <= max(self.weights) if self.tied else dim in self.weights

    def at(self, dim: int) -> tuple[Array, Array]:
        """Return the classifier for the first `dim` features: weight (C, dim), bias (C,)."""
        if not self.serves(dim):
            raise UserError(f"no classifier at {dim} dims", expected=f"one of {list(self.dims())}")
        own = max(self.weights) if self.tied else dim
        return prefix(self.weights[own], dim), self.biases[own]

    def logits(self, z: Array, dim: int) -> Array:
        """Return the logits (B, C) of features z (B, >= dim)."""
        weight, bias = self.at(dim)
        return prefix(z, dim) @ weight.T + bias

    def logits_of(self, z: Array, dim: int, classes: NDArray[np.int64], block: int = 8192) -> Array:
        """Return (B,): the logit of one class for each of the features z (B, >= dim), `classes` (B,)."""
        weight, bias = self.at(dim)
        parts = [slice(start, start + block) for start in range(0, len(classes), block)]
        products = [np.einsum("bd,bd->b", prefix(z[part], dim), weight[classes[part]]) for part in parts]
        return np.concatenate(products) + bias[classes]

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        tensors = {f"weight.{d}": np.ascontiguousarray(w, dtype=np.float32) for d, w in self.weights.items()}
        tensors |= {f"bias.{d}": np.ascontiguousarray(b, dtype=np.float32) for d, b in self.biases.items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"tied": str(self.tied)})

    @classmethod
    def load(cls, path: Path, remedy: str = "write it again") -> "Heads":
        """Read what `save` wrote.

        Raises:
            UserError: If it is missing, damaged, or anything else.
        """
        require_regular(path, remedy)
        with reading(path, "the classifiers of a run", remedy):
            with safe_open(path, framework="np") as file:
                tied = (file.metadata() or {}).get("tied") == "True"
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            kinds: dict[str, dict[int, Array]] = {"weight": {}, "bias": {}}
            for name, tensor in tensors.items():
                kind, dim = name.split(".")
                kinds[kind][int(dim)] = tensor
            weights, biases = kinds["weight"], kinds["bias"]
            shapes = {dim: (len(bias), dim) for dim, bias in biases.items()}
            if not weights or {dim: weight.shape for dim, weight in weights.items()} != shapes:
                raise ValueError("weights and biases do not belong together")
        return cls(weights, biases, tied)
