"""Sums of per-size losses and hits over batches: what is logged while training and what validation counts."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mrl_experiments.evaluations.nested_accuracy import nested_hits
from mrl_experiments.losses.method import Method, StepOutput

METRICS = ("loss", "top1", "top5")  # of validation, in the order of batch_sums


class StepSums:
    """Sums of per-size training metrics, kept on the device so that no step waits for the host."""

    def __init__(self, method: Method) -> None:
        self._dims = method.spec.dims
        self._losses: Tensor | None = None
        self._correct: Tensor | None = None
        self._steps = self._samples = 0

    def add(self, out: StepOutput) -> None:
        """Add one step."""
        if self._losses is None or self._correct is None:
            self._losses, self._correct = torch.zeros_like(out.losses), torch.zeros_like(out.correct)
        self._losses += out.losses
        self._correct += out.correct
        self._steps += 1
        self._samples += out.count

    def drain(self) -> dict[int, dict[str, float]]:
        """Return {dim: {loss, top1}} and start anew; empty when nothing was added."""
        if self._losses is None or self._correct is None or not self._samples:
            return {}
        losses, top1 = (self._losses / self._steps).tolist(), (self._correct / self._samples).tolist()
        self._losses = self._correct = None
        self._steps = self._samples = 0
        return {
            dim: {"loss": loss, "top1": share}
            for dim, loss, share in zip(self._dims, losses, top1, strict=True)
        }


def batch_sums(logits: Mapping[int, Tensor], labels: Tensor) -> Tensor:
    """Return (L, 4) sums over a batch: cross-entropy, top-1 hits, top-5 hits, samples."""
    losses = [F.cross_entropy(level.float(), labels, reduction="sum") for level in logits.values()]
    hits = nested_hits(logits, labels).to(losses[0].dtype)
    counts = torch.full((len(losses), 1), float(len(labels)), device=labels.device)
    return torch.cat([torch.stack(losses)[:, None], hits, counts], dim=1)
