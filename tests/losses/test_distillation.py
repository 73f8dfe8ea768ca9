"""Nested distillation of similarities against its definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composing import loss_options

from mrl_experiments.construct import construct
from mrl_experiments.errors import UserError
from mrl_experiments.models.adaptor import Adaptor
from mrl_experiments.names import SIMILARITIES

DIMS, WIDTH, COUNT = (3, 6, 12), 12, 9


def method_of(kind="linear", **changed):
    torch.manual_seed(0)
    backbone = Adaptor(WIDTH, kind=kind)
    backbone.use(np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, WIDTH)))[0])
    options = {"dims": list(DIMS), "weights": [1, 2, 0.5], "temperature": 0.2, **changed}
    return construct(loss_options("similarity_distillation", **options))(backbone=backbone, num_classes=0)


def vectors(seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((COUNT, WIDTH)).astype(np.float32))


def score(similarity, query, candidates):
    """Return (N,) of one query (D,); of vectors as they are in units of their mean square."""
    if similarity == "cosine":
        return F.cosine_similarity(query, candidates, dim=1)
    products = (
        candidates @ query if similarity == "inner_product" else -(candidates - query).square().sum(1) / 2
    )
    return products


def by_definition(method, queries, candidates, never, share, target, similarity="cosine"):
    """Return the KL divergence (L, N), row by row, over the candidates that count."""
    z, others = method.embed(queries), method.embed(candidates)
    rows, cut = [], [others[:, :dim].detach() for dim in DIMS]
    for row in range(len(queries)):
        kept = (~never[row]).nonzero()[:, 0]
        unit = [1 if similarity == "cosine" else x.square().sum(1).mean() for x in (candidates, *cut)]
        p = (score(similarity, queries[row], candidates[kept]) / unit[0] / 0.2).softmax(0)
        if target is not None:
            p = (1 - share) * p + share * (kept == target[row])
        column = []
        for dim, log_scale, one in zip(DIMS, method.log_scale, unit[1:], strict=True):
            scores = score(similarity, z[row, :dim], others[kept, :dim]) / one
            log_q = (log_scale.exp() * scores).log_softmax(0)
            column.append((p * (p.log() - log_q)).sum())
        rows.append(torch.stack(column))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rows_are_compared_with_all_others(similarity):
    method, x = method_of(similarity=similarity), 3 * vectors()
    out = method(x, torch.arange(COUNT))
    expected = by_definition(method, x, x, torch.eye(COUNT, dtype=torch.bool), 0, None, similarity)
    torch.testing.assert_close(out.losses, expected.mean(dim=1).detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.loss, (torch.tensor([1, 2, 0.5]) * expected.mean(dim=1)).sum())
    sums = method.validate(x, torch.arange(COUNT))
    torch.testing.assert_close(sums[:, 0], expected.sum(dim=1), atol=1e-4, rtol=1e-4)
    assert sums[-1, 1:].tolist() == [COUNT] * 3  # the whole vectors rank as they do


def test_pairs_are_compared_both_ways_and_copies_are_no_negatives():
    method, queries, documents = method_of(pair_share=0.25), vectors(1), vectors(2)
    documents[4] = documents[2]
    y = torch.arange(COUNT)
    y[4] = 2
    never = torch.zeros(COUNT, COUNT, dtype=torch.bool)
    never[2, 4] = never[4, 2] = True
    own = torch.arange(COUNT)
    ways = [(queries, documents), (documents, queries)]
    expected = torch.cat([by_definition(method, *way, never, 0.25, own) for way in ways], dim=1)
    out = method((queries, documents), y)
    torch.testing.assert_close(out.losses, expected.mean(dim=1).detach(), atol=1e-5, rtol=1e-4)
    assert out.count == 2 * COUNT


def test_training_learns_which_neighbours_are_near():
    method, x = method_of(kind="orthogonal"), vectors() * torch.logspace(0, -2, WIDTH)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        out = method(x, torch.arange(COUNT))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.losses)
    assert losses[-1][0] < losses[0][0] / 2
    assert losses[-1][-1] == 0  # an orthogonal map changes nothing at full width


def test_what_makes_no_sense_is_refused():
    for options, said in [({"label_smoothing": 0.1}, "label_smoothing"), ({"dim": 4}, r"loss\.dim=4")]:
        with pytest.raises(UserError, match=said):
            method_of(**options)
    with pytest.raises(UserError, match=r"data\.labels="):
        method_of().logits(vectors())
    with pytest.raises(UserError, match="the data have none"):
        construct(loss_options("mrl"))(backbone=Adaptor(16), num_classes=0)
