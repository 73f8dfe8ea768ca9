"""No reduction: the prefixes of the representation as it is."""

from dataclasses import dataclass
from typing import ClassVar

from mrl_experiments.embeddings import Embeddings


@dataclass(frozen=True)
class Prefix:
    """First m features: how nested runs are used, and what the paper calls Rand. FS for a run of one dim."""

    draws: int
    needs_train = False
    setting: ClassVar[dict[str, str]] = {}

    def fit(self, train: Embeddings | None, draw: int) -> "Prefix":
        """Learn nothing."""
        return self

    def apply(self, embeddings: Embeddings) -> Embeddings:
        """Change nothing."""
        return embeddings
