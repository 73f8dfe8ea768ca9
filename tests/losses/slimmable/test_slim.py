"""loss=slim as a method: what a step learns in either mode, both protocols of evaluation, and bad options."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from composing import loss_options
from hydra.utils import instantiate
from methods import as_if_trained
from torch import nn

from mrl_experiments.cost import network_macs
from mrl_experiments.errors import UserError
from mrl_experiments.losses.slimmable.slim import CALIBRATION_BATCHES
from mrl_experiments.models.timm_backbone import TimmBackbone

CLASSES, BATCH = 10, 12
WIDTHS, DIMS = (0.25, 0.5, 0.75, 1.0), (24, 48, 72, 96)


def build(**options):
    torch.manual_seed(0)
    config = loss_options("slim", **options)
    backbone = TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=16)
    return as_if_trained(instantiate(config)(backbone=backbone, num_classes=CLASSES))


def universal(**options):
    return build(mode="universal", **options)


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, 1, 16, 16, generator=generator)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def features(method, width, x):
    with method.net.at(width):
        return method.backbone(x)


def logits(method, width, x):
    """The classifier's columns of as many features as the width has."""
    z = features(method, width, x)
    return z @ method.head.linear.weight[:, : z.shape[1]].T + method.head.linear.bias


def gradients(method, loss):
    method.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in method.parameters()]


def ran(method, monkeypatch):
    """Record the widths that a method runs at."""
    widths, at = [], method.net.at
    monkeypatch.setattr(method.net, "at", lambda width: widths.append(width) or at(width))
    return widths


@pytest.mark.parametrize("weights", [None, [4.0, 3.0, 2.0, 0.5]])
def test_switchable_adds_up_the_losses_of_all_widths(weights):
    method = build(weights=weights).double()
    x, y = batch()
    x = x.double()
    values = [logits(method, width, x) for width in WIDTHS]
    terms = [F.cross_entropy(value, y, label_smoothing=0.1) for value in values]
    total = sum(c * term for c, term in zip(weights or [1] * 4, terms, strict=True))
    expected = gradients(method, total)
    out = method(x, y)
    torch.testing.assert_close(out.loss, total)
    torch.testing.assert_close(out.losses.double(), torch.stack(terms).detach(), rtol=1e-6, atol=0)
    assert out.correct.tolist() == [(value.argmax(1) == y).sum() for value in values]
    assert out.count == BATCH and method.spec.dims == DIMS
    torch.testing.assert_close(gradients(method, out.loss), expected)


def test_switchable_runs_all_widths_from_the_largest_down(monkeypatch):
    method = build()
    widths = ran(method, monkeypatch)
    method(*batch())
    assert widths == [1.0, 0.75, 0.5, 0.25]


def test_universal_keeps_the_sandwich_rule(monkeypatch):
    method = universal()
    widths = ran(method, monkeypatch)
    for _ in range(3):
        method(*batch())
    steps = [widths[start : start + 4] for start in range(0, len(widths), 4)]
    assert len(steps) == 3
    for largest, *between, smallest in steps:
        assert (largest, smallest) == (1.0, 0.25)
        assert 1 > between[0] > between[1] > 0.25
    assert len({width for step in steps for width in step}) == 2 + 6  # random, anew each step


@pytest.mark.parametrize(("widths", "count"), [((0.2, 1.0), 2), ((0.2, 0.3, 0.4, 0.5, 1.0), 5)])
def test_universal_draws_as_many_widths_as_are_listed_uniformly_between_the_ends(widths, count):
    method = universal(widths=widths)
    steps = [method.step_widths() for _ in range(2000)]
    assert {len(step) for step in steps} == {count}
    between = np.array([step[1:-1] for step in steps]).ravel()
    counted, _ = np.histogram(between, bins=8, range=(0.2, 1.0))
    assert counted.sum() == len(between)
    assert np.allclose(counted, len(between) / 8, rtol=0.2)


def test_universal_teaches_narrower_widths_what_the_largest_says():
    """In-place distillation: hard labels for the largest, its soft-max, as a constant, for all others."""
    method = universal().double()
    x, y = batch()
    x = x.double()
    torch.manual_seed(3)
    widths = method.step_widths()
    first, *others = [logits(method, width, x) for width in widths]
    taught = first.detach().softmax(dim=1)
    own = F.cross_entropy(first, y, label_smoothing=0.1)
    distilled = [-(taught * value.log_softmax(dim=1)).sum(dim=1).mean() for value in others]
    expected = gradients(method, own + sum(distilled))
    torch.manual_seed(3)
    out = method(x, y)
    torch.testing.assert_close(out.loss, own + sum(distilled))
    torch.testing.assert_close(out.losses[[0, 3]].double(), torch.stack([distilled[-1], own]).detach())
    torch.testing.assert_close(gradients(method, out.loss), expected)


def test_universal_reports_only_sizes_that_a_step_trains():
    out = universal()(*batch())
    assert out.losses.isnan().tolist() == out.correct.isnan().tolist() == [False, True, True, False]


def test_only_the_shapes_of_a_universal_network_change_from_step_to_step():
    assert (build().static_shapes, universal().static_shapes) == (True, False)


def test_universal_narrows_to_8_channels_at_least():
    method = universal(widths=[0.01, 1.0])
    assert method.spec.dims == (8, 96)
    seen = []
    for layer in method.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, out: seen.append(out.shape[1]))
    features(method, 0.01, batch()[0])
    assert seen and set(seen) == {8}
    assert build(widths=[0.02, 1.0]).spec.dims == (2, 96)  # a switchable network has no floor


def test_a_universal_network_is_measured_once_training_is_over():
    method = universal()
    x, y = batch()
    for _ in range(3):
        method(x, y).loss.backward()
    method.eval()
    assert method.validate(x, y)[[1, 2], -1].tolist() == [0, 0]  # widths that no step has met
    with pytest.raises(UserError, match=r"no statistics at the widths \[0.5, 0.75\]"):
        method.subnetworks()
    batches = iter([x, -x, 2 * x])
    assert method.finish(batches) and next(batches, None) is None
    assert method.validate(x, y)[:, -1].tolist() == [BATCH] * 4
    assert set(method.subnetworks()) == {"", "w0.25", "w0.5", "w0.75"}


def test_the_end_of_training_looks_at_few_batches():
    drawn = itertools.count()
    small = torch.randn(2, 1, 16, 16)
    universal().finish(small for _ in drawn)
    assert next(drawn) == CALIBRATION_BATCHES
    assert not build().finish(iter(lambda: pytest.fail("a switchable network needs none"), 0))


@pytest.fixture(scope="module", params=["switchable", "universal"])
def trained(request):
    """Both modes after a few steps, evaluated; tests change nothing of it."""
    method = build(mode=request.param)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02)
    for seed in range(4):
        optimizer.zero_grad()
        method(*batch(seed)).loss.backward()
        optimizer.step()
    method.finish(batch(seed)[0] for seed in range(4))
    return method.eval()


def test_validation_is_native(trained):
    x, y = batch()
    sums = trained.validate(x, y)
    for width, row in zip(WIDTHS, sums, strict=True):
        values = logits(trained, width, x)
        top5 = (values.topk(5).indices == y[:, None]).any(dim=1)
        loss, hits = F.cross_entropy(values, y, reduction="sum"), (values.argmax(1) == y).sum()
        assert row.tolist() == pytest.approx([loss.item(), hits.item(), top5.sum().item(), BATCH], rel=1e-5)


def test_truncated_is_the_full_networks_first_features_and_columns(trained):
    x, _ = batch()
    full = trained.subnetworks()[""]
    z = features(trained, 1.0, x)
    torch.testing.assert_close(full.embed(x), z)
    heads = full.heads()
    linear = trained.head.linear
    for dim in (3, 24, 48, 96):
        expected = z[:, :dim] @ linear.weight[:, :dim].T + linear.bias
        np.testing.assert_allclose(heads.logits(z.detach().numpy(), dim), expected.detach(), atol=1e-5)
    torch.testing.assert_close(trained.logits(z)[24], z[:, :24] @ linear.weight[:, :24].T + linear.bias)


def test_native_widths_have_features_classifiers_and_costs_of_their_own(trained):
    x, _ = batch()
    parts, macs = trained.subnetworks(), {}
    for width, dim in zip(WIDTHS, DIMS, strict=True):
        part = parts["" if width == 1 else f"w{width:g}"]
        z = part.embed(x)
        assert z.shape == (BATCH, dim) and part.spec.dims == (dim,)
        torch.testing.assert_close(z, features(trained, width, x))
        torch.testing.assert_close(part.logits(z)[dim], logits(trained, width, x))
        heads = part.heads()
        assert heads.serves(dim) and (width == 1) == heads.serves(dim - 1)
        macs[width] = network_macs(lambda part=part: part.embed(x))
    assert list(macs.values()) == sorted(macs.values())
    assert macs[0.25] < 0.12 * macs[1.0] and macs[0.5] < 0.3 * macs[1.0]
    differing = features(trained, 0.5, x) - features(trained, 1.0, x)[:, :48]
    assert differing.abs().max() > 0.01  # the protocols are not the same


def test_weights_and_statistics_travel_in_the_state(trained):
    x, y = batch()
    again = build(mode="universal" if trained.universal else "switchable").eval()
    again.load_state_dict(dict(trained.state_dict()))  # as files have it, without the versions of layers
    torch.testing.assert_close(again.validate(x, y), trained.validate(x, y))
    assert set(again.subnetworks()) == set(trained.subnetworks())


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({"dim": 8}, "loss.dim=8 has no meaning", "loss.widths"),
        ({"dims": [8, 96]}, r"loss.dims=\[8, 96\] has no meaning", "loss.widths"),
        ({"mode": "universal", "weights": [1, 1, 1, 1]}, "no meaning for loss.mode=universal", "null"),
        ({"weights": [1.0]}, "weights", "4"),
        ({"widths": [0.25, 0.5]}, r"\[0.25, 0.5\]", "the last 1.0"),
        ({"widths": [0.01, 0.02, 1.0], "mode": "universal"}, r"have \[8, 8, 96\] features", "far apart"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5", "0 to below 1"),
    ],
)
def test_bad_options_are_named_with_what_was_expected(options, problem, remedy):
    with pytest.raises(UserError, match=problem) as refused:
        build(**options)
    assert remedy in str(refused.value)


def test_only_backbones_that_can_be_narrowed_are_taken():
    config = loss_options("slim")
    with pytest.raises(UserError, match="not a Linear"):
        instantiate(config)(backbone=nn.Linear(4, 4), num_classes=CLASSES)
    vit = TimmBackbone(arch="test_vit", name="vit", channels=1, size=16, options={"patch_size": 4})
    with pytest.raises(UserError, match="norm1 of VisionTransformer is a LayerNorm"):
        instantiate(config)(backbone=vit, num_classes=CLASSES)
