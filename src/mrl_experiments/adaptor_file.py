"""One file for a map of vectors: its arrays, the dims it was trained at, and a digest that identifies it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from mrl_experiments.directions import setting_of
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_path, reading

Array = NDArray[np.float32]


@dataclass(frozen=True)
class AdaptorFile:
    """A map of vectors x (N, D) to z (N, D) whose prefixes are to be used.

    Attributes:
        arrays: `matrix` (D, D), and of an MLP `mlp_in` (D, H), `mlp_bias` (H,) and `mlp_out` (H, D). Where
            queries have a map of their own, `query_matrix` (D, D), and `matrix` is that of documents.
        dims: The dims that it was trained at.
        map: What it is: trained, closed form or identity.
        similarity: By which the vectors are compared: cosine, inner_product or l2.
    """

    arrays: Mapping[str, Array]
    dims: Sequence[int]
    map: str
    similarity: str = "cosine"

    @property
    def width(self) -> int:
        """D."""
        return len(self.arrays["matrix"])

    @cached_property
    def digest(self) -> str:
        """A short hash of the map: vectors are comparable where those of their maps are equal."""
        content = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            content.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array, "<f4").tobytes())
        return content.hexdigest()[:16]

    @property
    def two_maps(self) -> bool:
        """Whether queries have a map of their own."""
        return "query_matrix" in self.arrays

    def apply(self, x: Array, *, queries: bool = False) -> Array:
        """Return z (N, D) of vectors x (N, D).

        Args:
            x: Vectors.
            queries: They are queries, which may have a map of their own.

        Raises:
            UserError: If their width is another.
        """
        if x.shape[1] != self.width:
            raise UserError(f"vectors of {x.shape[1]} dims", expected=f"{self.width}, as the adaptor takes")
        z = x @ self.arrays["query_matrix" if queries and self.two_maps else "matrix"]
        if "mlp_in" in self.arrays:
            norms = np.linalg.norm(x, axis=1, keepdims=True)
            unit = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
            hidden = np.maximum(unit @ self.arrays["mlp_in"] + self.arrays["mlp_bias"], 0)
            z += norms * (hidden @ self.arrays["mlp_out"])
        return np.asarray(z)

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        metadata = {"dims": json.dumps(list(self.dims)), "map": self.map, "digest": self.digest}
        metadata |= setting_of(self.similarity)
        with atomic_path(path) as temporary:
            save_file(dict(self.arrays), temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> "AdaptorFile":
        """Read what `save` wrote.

        Raises:
            UserError: If it is missing, damaged, or anything else.
        """
        remedy = "repeat the train.py command of its run, or restore it from a copy"
        with reading(path, "an adaptor", remedy):
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = cls(
                arrays, json.loads(metadata["dims"]), metadata["map"], metadata.get("similarity", "cosine")
            )
            width = len(arrays["matrix"])
            shapes: dict[str, tuple[int, ...]] = {"matrix": (width, width)}
            if "query_matrix" in arrays:
                shapes["query_matrix"] = (width, width)
            if "mlp_in" in arrays:
                hidden = len(arrays["mlp_bias"])
                shapes |= {"mlp_in": (width, hidden), "mlp_bias": (hidden,), "mlp_out": (hidden, width)}
            if {name: array.shape for name, array in arrays.items()} != shapes:
                raise ValueError("its arrays do not belong together")
            if metadata["digest"] != found.digest:
                raise ValueError("its digest is another")
        return found
