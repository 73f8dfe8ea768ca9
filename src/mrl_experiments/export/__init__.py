"""A trained run for use elsewhere: a plain module of one dim, folders for hubs, files for other runtimes."""

from mrl_experiments.export.truncated import TruncatedClassifier, truncate

__all__ = ["TruncatedClassifier", "truncate"]
