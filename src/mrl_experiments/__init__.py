"""Train, evaluate and deploy nested (Matryoshka) representations (Kusupati et al., 2022).

What people import is here, and loaded when it is first used:

    from mrl_experiments import AdaptiveIndex, load, nested_cross_entropy, truncate
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrl_experiments.adaptive.classification.classifier import AdaptiveClassifier as AdaptiveClassifier
    from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex as AdaptiveIndex
    from mrl_experiments.build import load_method as load_method
    from mrl_experiments.embeddings import Embeddings as Embeddings
    from mrl_experiments.export import truncate as truncate
    from mrl_experiments.loaded.model import load as load
    from mrl_experiments.losses.classifier import NestedClassifier as NestedClassifier
    from mrl_experiments.losses.cross_entropy import nested_cross_entropy as nested_cross_entropy
    from mrl_experiments.nesting import NestingSpec as NestingSpec
    from mrl_experiments.runs import Run as Run
    from mrl_experiments.training.module import NestedModule as NestedModule

_PLACES = {
    "AdaptiveClassifier": "adaptive.classification.classifier",
    "AdaptiveIndex": "adaptive.retrieval.index",
    "Embeddings": "embeddings",
    "NestedClassifier": "losses.classifier",
    "NestedModule": "training.module",
    "NestingSpec": "nesting",
    "Run": "runs",
    "load": "loaded.model",
    "load_method": "build",
    "nested_cross_entropy": "losses.cross_entropy",
    "truncate": "export",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that no command pays for those it does without."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
