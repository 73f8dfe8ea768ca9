"""A trained adaptor, read from its file, as a reduction of the vectors it was made for."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.reductions.linear_map import LinearMap


@dataclass(frozen=True)
class AdaptedMap(LinearMap):
    """What an adaptor does, be it a matrix or more."""

    adaptor: AdaptorFile
    queries: bool = False

    @property
    def of_queries(self) -> "AdaptedMap":
        """The map of queries, where they have one of their own."""
        return replace(self, queries=True)

    @property
    def setting(self) -> dict[str, str]:
        """The digest, by which rows of two adaptors are told apart."""
        return {"adaptor": self.adaptor.digest}

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mapped features (n, D)."""
        return self.adaptor.apply(features, queries=self.queries)


@dataclass(frozen=True)
class Adaptor:
    """The map of `adaptor.safetensors` in the folder of a run of model=adaptor, beside SVD and the others."""

    draws: int
    file: str | None
    needs_train = False

    def fit(self, train: Embeddings | None, draw: int) -> AdaptedMap:
        """Read the file; nothing is fitted.

        Raises:
            UserError: If it is not named, missing or damaged.
        """
        if self.file is None:
            raise UserError(
                "reduction=adaptor without its file",
                expected="reduction.file=<run>/adaptor.safetensors, of a run of data=vectors model=adaptor",
            )
        adaptor = AdaptorFile.load(Path(self.file).expanduser())
        name = f"adaptor {adaptor.digest}"
        return AdaptedMap(adaptor.arrays["matrix"], name, keeps_heads=False, adaptor=adaptor)
