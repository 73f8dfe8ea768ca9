"""MRL, MRL-E and FF as methods: values, gradients, errors and what they store."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composing import loss_options
from hydra.utils import instantiate
from methods import as_if_trained
from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.export import truncate
from mrl_experiments.losses.method import IGNORED

WIDTH, CLASSES, BATCH = 32, 10, 24
DIMS = (8, 16, 32)


class Backbone(nn.Module):
    width = WIDTH

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, WIDTH)

    def forward(self, x):
        return self.linear(x)


def build(loss, **options):
    torch.manual_seed(0)
    config = loss_options(loss, **options)
    return as_if_trained(instantiate(config)(backbone=Backbone(), num_classes=CLASSES))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, 6, generator=generator), torch.randint(CLASSES, (BATCH,), generator=generator)


@pytest.mark.parametrize("loss", ["mrl", "mrl_e"])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
def test_loss_is_the_weighted_sum_of_the_papers_formula(loss, weights):
    method = build(loss, weights=weights).double()
    x, y = batch()
    x = x.double()
    out = method(x, y)
    logits = method.logits(method.embed(x))
    assert tuple(logits) == DIMS == method.spec.dims
    terms = [F.cross_entropy(values, y, label_smoothing=0.1) for values in logits.values()]
    total = sum(c * term for c, term in zip(weights or [1, 1, 1], terms, strict=True))
    torch.testing.assert_close(out.loss, total)
    torch.testing.assert_close(out.losses, torch.stack(terms).detach())
    assert not out.losses.requires_grad
    hits = [(values.argmax(1) == y).sum() for values in logits.values()]
    assert out.correct.tolist() == hits
    assert out.count == BATCH
    fused = torch.autograd.grad(out.loss, list(method.parameters()))
    loop = torch.autograd.grad(total, list(method.parameters()))
    for ours, theirs in zip(fused, loop, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("loss", ["mrl", "mrl_e", "ff"])
def test_classifiers_start_at_zero(loss):
    method = instantiate(loss_options(loss))(backbone=Backbone(), num_classes=CLASSES)
    assert not any(parameter.any() for parameter in method.head.parameters())
    assert all(parameter.any() for parameter in method.backbone.parameters())


def test_mrl_has_a_classifier_a_size_and_mrl_e_one():
    sizes = {loss: sum(p.numel() for p in build(loss).head.parameters()) for loss in ("mrl", "mrl_e", "ff")}
    assert sizes["mrl"] == sum(CLASSES * (dim + 1) for dim in DIMS)
    assert sizes["mrl_e"] == sizes["ff"] == CLASSES * (WIDTH + 1)


def test_ff_reads_the_first_features_only():
    method = build("ff", dim=8)
    x, y = batch()
    method(x, y).loss.backward()
    gradient = method.backbone.linear.weight.grad
    assert gradient[:8].abs().min() > 0
    assert not gradient[8:].any()
    assert method.spec.dims == (8,)


def test_ff_is_mrl_with_one_size():
    ff, mrl = build("ff", dim=16), build("mrl", dims=[16])
    mrl.load_state_dict(ff.state_dict())
    assert torch.equal(ff(*batch()).loss, mrl(*batch()).loss)


def test_weights_follow_the_module():
    method = build("mrl", weights=[1.0, 2.0, 3.0]).to("meta")
    assert method.weights.device.type == "meta"
    assert "weights" not in method.state_dict()


@pytest.mark.parametrize("loss", ["mrl", "mrl_e", "ff"])
def test_stored_heads_give_the_same_logits(loss):
    method = build(loss)
    z = method.embed(batch()[0])
    heads = method.heads()
    for dim, logits in method.logits(z).items():
        np.testing.assert_allclose(heads.logits(z.detach().numpy(), dim), logits.detach(), atol=1e-5)
    assert heads.serves(11) == (loss == "mrl_e")
    for weight in heads.weights.values():
        weight[:] = 0
    assert all(parameter.any() for parameter in method.head.parameters())


@pytest.mark.parametrize("loss", ["mrl", "mrl_e"])
def test_a_truncated_method_costs_what_an_ff_model_costs(loss):
    method = build(loss).eval()
    small = truncate(method, 8)
    x, _ = batch()
    torch.testing.assert_close(small(x), method.logits(method.embed(x))[8])
    own = {name: tuple(p.shape) for name, p in small.linear.named_parameters()}
    assert own == {"weight": (CLASSES, 8), "bias": (CLASSES,)}
    ff = build("ff", dim=8)
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in ff.parameters())
    assert not small.training


def test_truncating_to_a_size_without_a_classifier():
    with pytest.raises(UserError, match="no classifier at 12 dims"):
        truncate(build("mrl"), 12)
    assert truncate(build("mrl_e"), 12).linear.in_features == 12


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        ("mrl", {"dim": 8}, "loss.dim=8 has no meaning for loss=mrl"),
        ("mrl_e", {"dim": 8}, "loss=ff loss.dim=8"),
        ("ff", {"dims": [8]}, "loss.dims=.* has no meaning for loss=ff"),
        ("ff", {"dim": 33}, "width 32"),
        ("ff", {"dim": 0}, "width 32"),
        ("mrl", {"dims": [8, 64]}, r"64 does not fit(.|\n)*width 32"),
        ("mrl", {"weights": [1.0]}, r"weights=\[1\.0\] for 3 dims"),
        ("mrl_e", {"label_smoothing": 1.0}, "label_smoothing=1.0"),
    ],
)
def test_options_without_meaning_are_named(loss, options, message):
    with pytest.raises(UserError, match=message):
        build(loss, **options)


@pytest.mark.parametrize("loss", ["mrl", "mrl_e", "ff"])
def test_a_batch_without_labels_that_count_has_no_loss_and_a_gradient_for_each_parameter(loss):
    method = build(loss)
    x = torch.randn(2, 5, 6)
    out = method(x, torch.full((2, 5), IGNORED))
    assert out.loss == 0 and out.count == 0 and not out.correct.any()
    out.loss.backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
