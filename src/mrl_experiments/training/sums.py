"""Sums of per-size losses and hits over batches: what is logged while training."""

from typing import Any

import torch
from torch import Tensor

from mrl_experiments.losses.method import Method, StepOutput


class StepSums:
    """Sums of per-size training metrics, kept on the device so that no step waits for the host."""

    def __init__(self, method: Method) -> None:
        self._dims = method.spec.dims
        self._losses: Tensor | None = None
        self._correct: Tensor | None = None
        self._steps = 0
        self._labels: int | Tensor = 0

    def add(self, out: StepOutput) -> None:
        """Add one step."""
        if self._losses is None or self._correct is None:
            self._losses, self._correct = torch.zeros_like(out.losses), torch.zeros_like(out.correct)
        if self._losses.device != out.losses.device:  # they come from a checkpoint
            self._losses, self._correct = self._losses.to(out.losses), self._correct.to(out.correct)
            self._labels = torch.as_tensor(self._labels, device=out.losses.device)
        self._losses += out.losses
        self._correct += out.correct
        self._steps += 1
        self._labels = self._labels + out.count

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint inside a log interval."""
        return {
            "losses": self._losses,
            "correct": self._correct,
            "steps": self._steps,
            "labels": torch.as_tensor(self._labels),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with sums of before."""
        self._losses, self._correct = state["losses"], state["correct"]
        self._steps, self._labels = state["steps"], state["labels"]

    def drain(self) -> dict[int, dict[str, float]]:
        """Return {dim: {loss, top1}} and start anew; empty when nothing was added."""
        if self._losses is None or self._correct is None or not self._labels:
            return {}
        losses, top1 = (self._losses / self._steps).tolist(), (self._correct / self._labels).tolist()
        self._losses = self._correct = None
        self._steps = self._labels = 0
        return {
            dim: {"loss": loss, "top1": share}
            for dim, loss, share in zip(self._dims, losses, top1, strict=True)
        }
