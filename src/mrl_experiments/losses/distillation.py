"""Nested distillation of similarities: each prefix ranks neighbours as the whole vector does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrl_experiments.losses.contrastive import Contrastive
from mrl_experiments.losses.method import Inputs
from mrl_experiments.nested_accuracy import nested_hits
from mrl_experiments.nesting import prefix

Pair = tuple[Tensor, Tensor]  # queries (B, D) and candidates (N, D)
NEVER = -1e4  # in place of a scaled cosine; finite, since it is multiplied by a probability of 0


class SimilarityDistillation(Contrastive):
    """Train an adaptor of vectors x so that each prefix of z, renormalized, ranks as x does.

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
        temperature: Of p, and initial value of all q_m.
        pair_share: Of pairs, the weight of the partner in p, from 0 to 1.
        similarity: cosine; or inner_product or l2 of vectors as they are, in units of the mean square of
            their norms, so that temperatures mean what they do for cosines.
        options: dim, dims, weights, weights_rise and label_smoothing; see `Contrastive`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        name: str,
        temperature: float,
        pair_share: float,
        similarity: str = "cosine",
        **options: Any,
    ) -> None:
        super().__init__(backbone, option=name, separate="ff", temperature=temperature, **options)
        self.temperature, self.pair_share, self.similarity = temperature, pair_share, similarity

    def compare(self, x: Inputs, y: Tensor, *, everywhere: bool) -> tuple[Tensor, Tensor]:
        """Return the losses (L, N) and how many of the N comparisons are hits (L, 2).

        A hit is a row whose nearest other by x, or whose partner, is the nearest, or among five, by a prefix
        of z.

        Args:
            x: Vectors (B, D), or pairs of them.
            y: Of pairs, (B,) or (B, 2): which are alike.
            everywhere: Not used; candidates are those of this process.
        """
        if isinstance(x, Tensor):
            z, itself = self.embed(x), torch.eye(len(x), dtype=torch.bool, device=x.device)
            return self._direction((x, x), (z, z), itself, paired=False)
        queries, positives = x
        of_both = y.reshape(len(y), -1)
        same = (of_both[:, None] == of_both).any(dim=2)
        same.fill_diagonal_(False)  # a copy of a partner, or another one of a query, is no negative
        ours = getattr(self.backbone, "forward_queries", self.backbone)(queries)
        theirs = self.embed(positives)
        ways = [
            self._direction((queries, positives), (ours, theirs), same, paired=True),
            self._direction((positives, queries), (theirs, ours), same, paired=True),
        ]
        losses, hits = zip(*ways, strict=True)
        return torch.cat(losses, dim=1), torch.stack(hits).sum(dim=0)

    def _direction(self, whole: Pair, mapped: Pair, never: Tensor, *, paired: bool) -> tuple[Tensor, Tensor]:
        """Compare queries with candidates, both as they are and as they are mapped.

        never: (B, N) True where a query is compared with no such candidate.
        paired: Whether candidate i belongs to query i.
        """
        scales = self.scales()
        with torch.autocast(never.device.type, enabled=False):
            with torch.no_grad():
                p = self._logits(whole, whole[0].shape[1], 1 / self.temperature, never).softmax(dim=1)
                nearest = p.argmax(dim=1)
                if paired:
                    p.mul_(1 - self.pair_share).diagonal().add_(self.pair_share)
                    nearest = torch.arange(len(p), device=p.device)
                entropy = torch.special.entr(p).sum(dim=1)
            losses, hits = [], []
            for dim, scale in zip(self.spec.dims, scales, strict=True):
                keeps_cosines = dim == self.spec.dims[-1] and getattr(self.backbone, "keeps_cosines", False)
                if keeps_cosines and not paired:  # z ranks as x does
                    losses.append(torch.zeros_like(entropy) * scale)  # which stays in the graph
                    hits.append(torch.full((2,), len(entropy), device=p.device))
                    continue
                logits = self._logits(mapped, dim, scale, never)
                losses.append(F.cross_entropy(logits, p, reduction="none") - entropy)
                hits.append(nested_hits({dim: logits.detach()}, nearest)[0])
        return torch.stack(losses), torch.stack(hits).float()

    def _logits(self, pair: Pair, dim: int, scale: float | Tensor, never: Tensor) -> Tensor:
        """Return scaled similarities (B, N) of the first `dim` features; far below for what is `never`."""
        queries, candidates = (prefix(z.float(), dim) for z in pair)
        if self.similarity == "cosine":
            queries, candidates = (F.normalize(z, dim=1) for z in (queries, candidates))
        else:
            squares = candidates.square().sum(dim=1)
            scale = scale / squares.mean().detach().clamp_min(torch.finfo(squares.dtype).tiny)
        logits = (scale * queries) @ candidates.T
        if self.similarity == "l2":  # without the query's own square, which is the same for all
            logits = logits - scale * squares / 2
        return logits.masked_fill(never, NEVER)
