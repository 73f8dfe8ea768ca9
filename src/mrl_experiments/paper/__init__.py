"""The paper's published values, as result rows."""

from mrl_experiments.paper.published import PaperRow, published

__all__ = ["PaperRow", "published"]
