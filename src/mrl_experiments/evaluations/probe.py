"""Linear probing: a new classifier on frozen features, one for each dim."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl_experiments.embeddings import Embeddings
from mrl_experiments.loops import tracked
from mrl_experiments.metrics.likelihood import scores
from mrl_experiments.results import Measurement, measured
from mrl_experiments.search.database import labelled
from mrl_experiments.search.same_rows import refuse_same_rows

BLOCK = 16384
Solver = Callable[[nn.Linear, Tensor, Tensor], None]


def probe(
    queries: Embeddings, database: Embeddings | None, dims: Sequence[int], *, solver: Solver, seed: int
) -> Iterator[Measurement]:
    """Yield the accuracy of a multinomial logistic regression fitted on `database` (Rand. LP of Table 1).

    Features are standardised with the database's mean and deviation, whatever their scale; one that is the
    same in the whole database is left out. top1, top5, nll: as for `trained_head`.
    `solver` fits a zero-initialized Linear(d, C) to features (N, d) and labels (N,); `seed` fixes its order.

    Raises:
        UserError: Without a database, when a query's label is not in it, or when it is the queries.
    """
    refuse_same_rows(queries, database, "other samples to fit the probe on than those it is measured on")
    database = labelled(queries, database)
    classes, targets = np.unique(database.labels, return_inverse=True)
    labels = np.searchsorted(classes, queries.labels)
    for dim in tracked(dims, "fitting probes", len(dims)):
        torch.manual_seed(seed)
        model = nn.Linear(dim, len(classes))
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        fitted, asked = _standardised(database.at(dim), queries.at(dim))
        solver(model, fitted, torch.from_numpy(targets))
        logits = _logits(model, asked)
        values = scores(logits.numpy(), labels).mean(axis=0)
        yield from measured(dim, dict(zip(("top1", "top5", "nll"), values, strict=True)))


def _standardised(database: NDArray[np.float32], queries: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """Return both, (N, d) and (Q, d), with the mean and deviation of each feature of the database removed."""
    extremes = [np.abs(part).max(axis=0) for part in (database, queries)]
    spread = np.ptp(database, axis=0)
    # Squares of features: float32 serves from 1e-15 to 1e15.
    ordinary = max(map(np.max, extremes)) < 1e15 and (spread[spread > 0] > 1e-15).all()
    features, asked = (
        torch.from_numpy(np.array(part, np.float32 if ordinary else np.float64))
        for part in (database, queries)
    )
    deviation, mean = torch.std_mean(features, dim=0, correction=min(1, len(features) - 1))
    deviation[torch.from_numpy(spread == 0)] = torch.inf
    return features.sub_(mean).div_(deviation).float(), asked.sub_(mean).div_(deviation).float()


def lbfgs(model: nn.Linear, features: Tensor, labels: Tensor, *, iterations: int, l2: float) -> None:
    """Minimise mean cross-entropy + l2/2 ||W||^2 over all samples at once; deterministic."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = l2 / 2 * model.weight.square().sum()
        loss.backward()
        total = loss.detach()
        for part, target in zip(features.split(BLOCK), labels.split(BLOCK), strict=True):
            loss = F.cross_entropy(model(part), target, reduction="sum") / len(labels)
            loss.backward()
            total = total + loss.detach()
        return total

    optimizer.step(closure)


def sgd(
    model: nn.Linear, features: Tensor, labels: Tensor, *, epochs: int, batch_size: int, lr: float, l2: float
) -> None:
    """Minimise the same by SGD with momentum 0.9 and a cosine schedule, in a new random order each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    steps = epochs * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(batch_size):
            loss = F.cross_entropy(model(features[batch]), labels[batch])
            loss = loss + l2 / 2 * model.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def _logits(model: nn.Linear, features: Tensor) -> Tensor:
    return torch.cat([model(part) for part in features.split(BLOCK)])
