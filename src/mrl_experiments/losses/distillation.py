"""Nested distillation of similarities: each prefix ranks neighbours as the whole vector does."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.contrastive import Contrastive, sums
from mrl_experiments.losses.method import Inputs, StepOutput, width_of
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import Dims, NestingSpec, one_or_many, prefix

NEVER = -1e4  # in place of a scaled cosine; finite, since it is multiplied by a probability of 0


class _Batch(NamedTuple):
    """What is compared: queries (B, D) with candidates (N, D); `never` (B, N) are compared with none."""

    queries: Tensor
    candidates: Tensor
    never: Tensor


class SimilarityDistillation(Contrastive):
    """Train an adaptor of vectors x so that each prefix of z, renormalised, ranks as x does.

    At each dim m the loss is the Kullback-Leibler divergence KL(p || q_m) between two distributions over the
    others of a batch: p is the softmax of the cosines of x over a temperature, q_m that of the first m
    features of z over a temperature of its own, which is learned. Batches of data=vectors
    hold near neighbours, so that p says which are nearest, not only which are near.

    Of pairs (queries, positives), queries are compared with all positives and positives with all queries; p
    is then mixed with the partner itself: nested InfoNCE with the whole vectors as teacher.

    Args:
        backbone: Of vectors (B, D), such as an adaptor; its attribute `width` is D.
        num_classes: Not used; labels are not read.
        name: How rows and tables call the method.
        dim: Must be None: one map serves all dims.
        dims: The nested dims, or a function of D that gives them; None is D halved down to 8.
        weights: c_m of each dim; None is 1.
        label_smoothing: Must be 0.
        temperature: Of p, and initial value of all q_m.
        pair_share: Of pairs, the weight of the partner in p, from 0 to 1.
        similarity: cosine; or inner_product or l2 of vectors as they are, in units of the mean square of
            their norms, so that temperatures mean what they do for cosines.
    """

    weights: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        dim: int | None,
        dims: Dims | None,
        weights: Sequence[float] | None,
        label_smoothing: float,
        temperature: float,
        pair_share: float,
        similarity: str = "cosine",
    ) -> None:
        width = width_of(backbone)
        dims = one_or_many(width, dim, dims, nested=True, option=name, separate="ff")
        super().__init__(backbone, NestingSpec.resolve(width, dims, weights), temperature)
        if label_smoothing != 0:
            raise UserError(f"loss.label_smoothing={label_smoothing} has no meaning without labels")
        self.temperature, self.pair_share, self.similarity = temperature, pair_share, similarity
        self.register_buffer("weights", torch.tensor(self.spec.weights), persistent=False)

    def forward(self, x: Inputs, y: Tensor) -> StepOutput:
        """Return the loss of vectors x (B, D), or of pairs, whose y (B,) or (B, 2) says which are alike."""
        losses, hits = self._compare(x, y)
        means = losses.mean(dim=1)
        loss = (self.weights * means).sum()
        return StepOutput(loss, means.detach(), hits[:, 0], losses.shape[1])

    def validate(self, x: Inputs, y: Tensor) -> Tensor:
        """Return (L, 4): sums of loss, top-1 and top-5 hits over the rows of a batch, and their number.

        A hit is a row whose nearest other by x, or whose partner, is the nearest, or among five, by a prefix
        of z. Only this batch is searched, so values depend on how many there are.
        """
        return sums(*self._compare(x, y))

    def _compare(self, x: Inputs, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (L, N) of N comparisons and how many are hits (L, 2), in the first 1 and 5."""
        if isinstance(x, Tensor):
            never = torch.eye(len(x), dtype=torch.bool, device=x.device)
            z = self.embed(x)
            return self._direction(_Batch(x, x, never), _Batch(z, z, never), None)
        queries, positives = x
        of_both = y.reshape(len(y), -1)
        same = (of_both[:, None] == of_both).any(dim=2)
        same.fill_diagonal_(False)  # a copy of a partner, or another one of a query, is no negative
        ours = getattr(self.backbone, "forward_queries", self.backbone)(queries)
        theirs = self.embed(positives)
        target = torch.arange(len(y), device=y.device)
        ways = [
            self._direction(_Batch(queries, positives, same), _Batch(ours, theirs, same), target),
            self._direction(_Batch(positives, queries, same), _Batch(theirs, ours, same), target),
        ]
        losses, hits = zip(*ways, strict=True)
        return torch.cat(losses, dim=1), torch.stack(hits).sum(dim=0)

    def _direction(self, whole: _Batch, mapped: _Batch, target: Tensor | None) -> tuple[Tensor, Tensor]:
        scales = self.scales()
        with torch.autocast(whole.queries.device.type, enabled=False):
            with torch.no_grad():
                teacher = self._logits(whole, whole.queries.shape[1], 1 / self.temperature)
                p = teacher.softmax(dim=1)
                nearest = teacher.argmax(dim=1)
                if target is not None:
                    p.mul_(1 - self.pair_share)
                    p[target, target] += self.pair_share
                    nearest = target
                entropy = torch.special.entr(p).sum(dim=1)
            losses, hits = [], []
            for dim, scale in zip(self.spec.dims, scales, strict=True):
                if target is None and self._is_whole(dim):
                    losses.append(torch.zeros_like(entropy) * scale)  # which stays in the graph
                    hits.append(torch.full((2,), len(entropy), device=p.device))
                    continue
                logits = self._logits(mapped, dim, scale)
                losses.append(F.cross_entropy(logits, p, reduction="none") - entropy)
                hits.append(nested_hits({dim: logits.detach()}, nearest)[0])
        return torch.stack(losses), torch.stack(hits).float()

    def _logits(self, batch: _Batch, dim: int, scale: float | Tensor) -> Tensor:
        """Return scaled similarities (B, N) of the first `dim` features; far below for what is `never`."""
        queries, candidates = (prefix(z.float(), dim) for z in batch[:2])
        if self.similarity == "cosine":
            queries, candidates = (F.normalize(z, dim=1) for z in (queries, candidates))
        else:
            squares = candidates.square().sum(dim=1)
            scale = scale / squares.mean().detach().clamp_min(torch.finfo(squares.dtype).tiny)
        logits = (scale * queries) @ candidates.T
        if self.similarity == "l2":  # without the query's own square, which is the same for all
            logits = logits - scale * squares / 2
        return logits.masked_fill(batch.never, NEVER)

    def _is_whole(self, dim: int) -> bool:
        """Return whether z ranks as x at a dim by construction."""
        return dim == self.spec.dims[-1] and bool(getattr(self.backbone, "keeps_cosines", False))

    def logits(self, z: Tensor) -> dict[int, Tensor]:
        """Refuse: there are no classes."""
        raise UserError("vectors without labels have no classifier", remedy="data.labels= with loss=mrl")
