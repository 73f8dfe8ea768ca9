"""The balanced recipe: standardized features, and classifiers of few dims that learn faster."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrl_experiments.losses.classifier import NestedClassifier, NestedHeads
from mrl_experiments.models.timm_backbone import TimmBackbone

DIMS, CLASSES = (12, 24, 48, 96), 5


def classifier(recipe, **options):
    torch.manual_seed(0)
    backbone = TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=16)
    return NestedClassifier(backbone, CLASSES, recipe=recipe, **options)


def trained(method, steps=3):
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x, y = torch.randn(16, 1, 16, 16, generator=generator), torch.arange(16) % CLASSES
        optimizer.zero_grad()
        method(x, y).loss.backward()
        optimizer.step()
    return method.eval(), torch.randn(8, 1, 16, 16, generator=generator)


def test_features_of_a_batch_are_standardized_in_training_and_by_running_statistics_after():
    method = classifier("balanced")
    x = torch.randn(64, 1, 16, 16)
    z = method.embed(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(96), atol=1e-4, rtol=0)
    spread = method.backbone.net(x).std(0) > 1e-2  # a feature that is always 0 stays so
    torch.testing.assert_close(z.std(0, correction=0)[spread], torch.ones(96)[spread], atol=0.05, rtol=0)
    norm = method.eval().backbone.norm
    raw = method.backbone.net(x)
    expected = (raw - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(method.embed(x), expected)


def test_the_papers_recipe_leaves_features_and_state_as_they_are():
    method = classifier("paper")
    x = torch.randn(4, 1, 16, 16)
    assert torch.equal(method.eval().embed(x), method.backbone.net(x))
    assert not any("norm." in name and "backbone.norm" in name for name in method.state_dict())


@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_are_those_of_the_loop_over_the_same_classifiers(tied):
    method = classifier("balanced", tied=tied, label_smoothing=0.1, weights={24: 2.0}).double()
    method, x = trained_double(method)
    y = torch.arange(len(x)) % CLASSES
    out = method(x, y)
    z = method.embed(x)
    losses = [
        F.cross_entropy(F.linear(z[:, :dim], *method.head.parameters_at(dim)), y, label_smoothing=0.1)
        for dim in DIMS
    ]
    total = losses[0] + 2 * losses[1] + losses[2] + losses[3]
    torch.testing.assert_close(out.loss, total)
    ours = torch.autograd.grad(out.loss, list(method.parameters()))
    theirs = torch.autograd.grad(total, list(method.parameters()))
    torch.testing.assert_close(ours, theirs)


def trained_double(method):
    with torch.no_grad():
        for parameter in method.head.parameters():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return method.eval(), torch.randn(8, 1, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize("dim", [16, 256])
def test_a_step_of_sgd_moves_the_logits_of_m_dims_by_the_root_of_128_over_m_as_far(dim):
    z, y = torch.randn(50, 256), torch.randint(CLASSES, (50,))
    moved = {}
    for balanced in (False, True):
        heads = NestedHeads((16, 256), CLASSES, tied=False, balanced=balanced)
        optimizer = torch.optim.SGD(heads.linear.parameters(), lr=1.0)
        heads(z, y, torch.ones(2)).total.backward()
        optimizer.step()
        bias = heads.parameters_at(dim)[1]  # biases move alike
        moved[balanced] = heads.logits(z)[dim] - bias
    torch.testing.assert_close(moved[True], moved[False] * (128 / dim) ** 0.5)


def test_a_step_moves_the_logits_of_a_tied_classifier_as_those_of_separate_ones():
    z, y = torch.randint(2, (1, 256)) * 2.0 - 1, torch.tensor([3])
    moved = {}
    for tied in (False, True):
        heads = NestedHeads((16, 64, 256), CLASSES, tied=tied, balanced=True)
        optimizer = torch.optim.SGD(heads.linear.parameters(), lr=1.0)
        heads(z, y, torch.ones(3)).total.backward()  # from zero, all dims have the same gradient
        optimizer.step()
        logits = heads.logits(z)
        moved[tied] = torch.cat([logits[dim] - heads.parameters_at(dim)[1] for dim in heads.dims])
    torch.testing.assert_close(moved[True], moved[False])


@pytest.mark.parametrize("tied", [False, True])
def test_stored_classifiers_read_standardized_features_and_give_the_same_logits(tied):
    method, x = trained(classifier("balanced", tied=tied))
    z = method.embed(x).detach()
    stored = method.heads()
    for dim, logits in method.logits(z).items():
        np.testing.assert_allclose(stored.logits(z.numpy(), dim), logits.detach(), rtol=1e-4, atol=1e-5)
    assert stored.tied == tied


def test_networks_without_batch_normalization_get_none():
    backbone = TimmBackbone(arch="test_vit", name="vit", channels=1, size=16, options={"patch_size": 4})
    method = NestedClassifier(backbone, CLASSES, recipe="balanced")
    assert not method.head.balanced and not list(backbone.buffers())


def test_backbones_without_standardization_keep_the_papers_classifiers():
    class Plain(nn.Module):
        width = 16

        def forward(self, x):
            return x

    method = NestedClassifier(Plain(), CLASSES, recipe="balanced")
    assert not method.head.balanced


def test_a_last_layer_that_is_cut_still_gives_the_first_standardized_features():
    from mrl_experiments.export import truncate

    method, x = trained(classifier("balanced"))
    small = truncate(method, 12)
    assert small.cut
    torch.testing.assert_close(small(x), method.logits(method.embed(x))[12], atol=1e-5, rtol=1e-4)
