"""metrics.csv: everything logged while training, one value a line, appended as it happens."""

import csv
import zlib
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from mrl_experiments.files import atomic_path, explain_os_errors, require_regular

COLUMNS = ("step", "epoch", "metric", "dim", "value")


class MetricsFile(Logger):
    """Append metrics named `metric` or `metric@dim` to a CSV file.

    Unlike Lightning's CSVLogger it keeps what an interrupted run wrote, and lines stay valid when new
    metrics appear. Lines beyond the step a run resumes from are dropped by `rewind`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """There is one version of a run."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line a metric."""
        values = dict(metrics)
        epoch = int(values.pop("epoch", 0))
        new = not self.path.exists()
        with explain_os_errors(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            for name, value in values.items():
                metric, _, dim = name.partition("@")
                writer.writerow((step, epoch, metric, dim, f"{value:.6g}"))

    @rank_zero_only
    def rewind(self, step: int, size: int | None = None, crc32: int | None = None) -> None:
        """Drop the lines after `step` and those beyond `size` bytes, and, with a word, any that are damaged.

        A file that holds no metrics, or those of another run, is set aside.

        Args:
            step: Of the checkpoint.
            size: Of the file at the checkpoint, since lines of its step may have come after it; None where
                that is not known.
            crc32: Of these bytes; None as for `size`.

        Raises:
            UserError: If the file cannot be read or written.
        """
        with explain_os_errors(self.path):
            if not self.path.exists():
                if size:
                    print(f"{self.path} is missing: a new one begins", flush=True)
                return
            require_regular(self.path)
            content = self.path.read_bytes()[:size]
            header, *lines = content.decode(errors="replace").split("\n")
            ours = crc32 in (None, zlib.crc32(content))
            if not ours or header != ",".join(COLUMNS):
                what = "holds no metrics" if ours else "is not the one that the checkpoint was written with"
                aside = self.path.with_suffix(".damaged")
                print(f"{self.path} {what}: it goes to {aside.name}, a new one begins", flush=True)
                self.path.replace(aside)
                return
        lines = lines[:-1]  # what follows the last end of a line was cut short
        steps = [_step(line) for line in lines]
        if damaged := steps.count(None):
            print(f"{self.path}: {damaged} damaged lines are left out", flush=True)
        kept = [line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step]
        with atomic_path(self.path) as path:
            path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")

    def written(self) -> dict[str, int]:
        """Return by what a checkpoint knows the file again, as it is now: the arguments of `rewind`."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return {"size": len(content), "crc32": zlib.crc32(content)}


def _step(line: str) -> int | None:
    """Return the step of a line, or None when it is not a whole one."""
    try:
        ((step, epoch, metric, dim, value),) = csv.reader([line])
        float(value), int(epoch), int(dim or 0)
        return int(step) if metric and metric.isprintable() and "\ufffd" not in metric else None
    except (ValueError, csv.Error):
        return None
