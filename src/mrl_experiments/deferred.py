"""Imports that a command can do without are made when they are first used."""

import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

METRICS = "torchmetrics"


def defer_metrics() -> None:
    """Make `import torchmetrics` load its two base classes, and the rest once something else of it is used.

    Lightning imports the package for these two. The metrics themselves load transformers, torchvision and
    scipy, which takes longer than torch and Lightning together.
    """
    if METRICS not in sys.modules:
        sys.meta_path.insert(0, _MetricsFinder())


class _MetricsFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != METRICS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _BaseClassesFirst(spec.loader)
        return spec


class _BaseClassesFirst(Loader):
    """Execute a package in full only when something besides its base classes is asked for.

    Args:
        loader: The package's own.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Import the base classes from their own files."""
        names: Any = module
        names._logger = logging.getLogger(METRICS)  # which these files import from the package

        import torchmetrics.utilities  # noqa: F401  # the other way round it imports itself in a circle
        from torchmetrics.collections import MetricCollection
        from torchmetrics.metric import Metric

        names.Metric, names.MetricCollection = Metric, MetricCollection

        def load(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            del names.__getattr__
            self._loader.exec_module(module)
            return getattr(module, name)

        names.__getattr__ = load
