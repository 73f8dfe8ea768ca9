"""metrics.csv: everything logged while training, one value a line, appended as it happens."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

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
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            for name, value in values.items():
                metric, _, dim = name.partition("@")
                writer.writerow((step, epoch, metric, dim, f"{value:.6g}"))

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and a line that a kill cut short."""
        if not self.path.exists():
            return
        header, *lines = self.path.read_text(encoding="utf-8").splitlines()
        whole = [line for line in lines if line.count(",") == len(COLUMNS) - 1]
        kept = [line for line in whole if int(line.split(",")[0]) <= step]
        self.path.write_text("\n".join([header, *kept]) + "\n", encoding="utf-8")
