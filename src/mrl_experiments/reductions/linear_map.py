"""A linear map of representations, after which prefixes are the reduced representation."""

import os
import tempfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrl_experiments.embeddings import Embeddings, check_finite
from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors
from mrl_experiments.heads import Heads

BLOCK = 16384


@dataclass(frozen=True)
class LinearMap:
    """Features z (N, D) become z A.

    Attributes:
        matrix: A (D, D').
        name: Tells this map from all others, and so the results kept for it.
        keeps_heads: A is orthonormal, so a classifier W z is W A (z A), of which any m columns serve m
            features.
    """

    matrix: NDArray[np.float32]
    name: str
    keeps_heads: bool

    @property
    def setting(self) -> dict[str, str]:
        """What the rows of this map say beside the reduction and the draw."""
        return {}

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mapped features (n, D') of some rows (n, D)."""
        return features @ self.matrix

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Return the embeddings mapped, in a temporary memory-mapped file.

        Raises:
            UserError: If the width is not that of the training set, or a result is beyond float32.
        """
        if embeddings.width != len(self.matrix):
            raise UserError(
                f"these embeddings have {embeddings.width} features",
                expected=f"{len(self.matrix)}, as those that the reduction was fitted on",
            )
        shape = (len(embeddings), self.matrix.shape[1])
        with explain_os_errors(f"{tempfile.gettempdir()} (TMPDIR)"), tempfile.TemporaryFile() as file:
            # A hole in the file that cannot be filled later, on a full disk, would kill the process.
            os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
            features = np.memmap(file, np.float32, mode="w+", shape=shape)
        for start in range(0, len(embeddings), BLOCK):
            rows = slice(start, start + BLOCK)
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                features[rows] = self.transform(embeddings.features[rows])
        source = f"{embeddings.meta.get('split', 'embeddings')} after the reduction ({self.name})"
        check_finite(features, source, remedy="scale the embeddings: their norms are at an end of float32")
        heads = self._map_heads(embeddings.heads) if self.keeps_heads and embeddings.heads else None
        return embeddings.with_features(features, heads, reduction=self.name)

    def _map_heads(self, heads: Heads) -> Heads:
        own = max(heads.weights)
        weight, bias = heads.at(own)
        width = self.matrix.shape[1]
        return Heads({width: weight @ self.matrix[:own]}, {width: bias}, tied=True)
