"""The balanced recipe: standardized features, few dims that learn faster, and what teaches each."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrl_experiments.losses.classifier import NestedClassifier, NestedHeads
from mrl_experiments.losses.cross_entropy import nested_cross_entropy_loop
from mrl_experiments.losses.decorrelation import decorrelation
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
def test_what_each_dim_teaches_and_how_long_the_backbones_gradient_is(tied):
    method = classifier("balanced", tied=tied, label_smoothing=0.1, weights={24: 2.0}).double()
    method, x = trained_double(method)
    y = torch.arange(len(x)) % CLASSES
    out = method(x, y)
    z = method.embed(x)
    full = method.logits(z)[96].detach().softmax(1)
    total = z.new_zeros(())
    for smaller, dim, c in zip((0, *DIMS), DIMS, (1, 2, 1, 1), strict=False):
        taught = smaller if tied else min(smaller, 12)  # those before have another teacher
        weight, bias = method.head.parameters_at(dim)
        weight = torch.cat([weight[:, :taught].detach(), weight[:, taught:]], 1) if tied else weight
        logits = F.linear(torch.cat([z[:, :taught].detach(), z[:, taught:dim]], 1), weight, bias)
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        distilled = dim == 48 and not tied
        total = total + c * (0.5 * (loss + F.cross_entropy(logits, full)) if distilled else loss)
    length = 7**0.5 if tied else (3 + 2 ** (4 / 3)) ** (3 / 4)  # norms of the weights 1, 2, 1, 1
    total = total + 0.0025 * length * covariances(z).square().sum() / 96
    torch.testing.assert_close(out.loss, total)
    for part, share in ((method.backbone, 1 / length), (method.head, 1)):
        parameters = list(part.parameters())
        theirs = torch.autograd.grad(share * total, parameters, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(out.loss, parameters, retain_graph=True), theirs)


def covariances(z):
    """Of different features; 0 on the diagonal."""
    every = torch.einsum("ni,nj->ij", z, z) / len(z)
    return every - torch.diag(every.diag())


@pytest.mark.parametrize("samples", [7, 40])
def test_the_penalty_is_the_sum_of_squared_covariances_and_zero_without_any(samples):
    z = torch.randn(samples, 12, dtype=torch.float64, requires_grad=True)
    expected = covariances(z).square().sum() / 12
    penalty = decorrelation(z)
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (penalty, expected)))
    apart = torch.eye(12) * 12**0.5
    assert decorrelation(apart).item() == pytest.approx(0, abs=1e-6)


def test_training_with_a_heavy_penalty_leaves_features_that_repeat_each_other_less():
    repeated = {}
    for weight in (0.0, 1.0):
        method = classifier("balanced")
        method.head.decorrelation.fill_(weight)
        trained(method, steps=30)
        images = torch.randn(256, 1, 16, 16, generator=torch.Generator().manual_seed(3))
        repeated[weight] = covariances(method.train().embed(images)).square().sum()
    assert repeated[1.0] < 0.9 * repeated[0.0]


def test_a_separate_model_has_the_whole_gradient_of_its_loss():
    method, x = trained_double(classifier("balanced", nested=False, dim=24).double())
    y = torch.arange(len(x)) % CLASSES
    z = method.embed(x)[:, :24]
    loss = F.cross_entropy(F.linear(z, *method.head.parameters_at(24)), y)
    loss = loss + 0.0025 * covariances(z).square().sum() / 24
    parameters = list(method.parameters())
    ours = torch.autograd.grad(method(x, y).loss, parameters, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(loss, parameters))


def trained_double(method):
    with torch.no_grad():
        for parameter in method.head.parameters():
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return method.eval(), torch.randn(8, 1, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize(("dim", "power"), [(16, 1.0), (256, 0.5)])
def test_a_step_of_sgd_moves_the_logits_of_few_dims_as_far_as_those_of_128(dim, power):
    z, y = torch.randn(50, 256), torch.randint(50, (50,))
    moved = {}
    for balanced in (False, True):
        heads = NestedHeads((16, 256), 50, tied=False, balanced=balanced)
        optimizer = torch.optim.SGD(heads.linear.parameters(), lr=1.0)
        heads(z, y, torch.ones(2)).total.backward()
        optimizer.step()
        bias = heads.parameters_at(dim)[1]  # biases move alike
        moved[balanced] = heads.logits(z)[dim] - bias
    torch.testing.assert_close(moved[True], moved[False] * (128 / dim) ** power)


def test_a_step_moves_the_logits_of_a_tied_classifier_as_far_as_said():
    z, y = torch.randint(2, (1, 256)) * 2.0 - 1, torch.tensor([3])
    moved = {}
    for tied in (False, True):
        heads = NestedHeads((16, 64, 256), 50, tied=tied, balanced=True)
        optimizer = torch.optim.SGD(heads.linear.parameters(), lr=1.0)
        heads(z, y, torch.ones(3)).total.backward()  # from zero, all dims have the same gradient
        optimizer.step()
        logits = heads.logits(z)
        moved[tied] = torch.cat([logits[dim] - heads.parameters_at(dim)[1] for dim in heads.dims])
    shares = torch.tensor([(16 / 128) ** 0.4, (64 / 128) ** 0.4, 2**0.4 / 2**0.5])
    torch.testing.assert_close(moved[True], moved[False] * shares[:, None])


@pytest.mark.parametrize("classes", [2, 5, 10, 1000])
def test_with_few_classes_no_step_moves_logits_further_than_their_number_allows(classes):
    dims, most = (8, 64, 512), 16 * (classes - 1)
    heads = {tied: NestedHeads(dims, classes, tied=tied, balanced=True) for tied in (False, True)}
    moved = heads[False].factors.square() * torch.tensor(dims)
    torch.testing.assert_close(moved, torch.tensor([128.0, 128.0, 256.0]).clamp(max=most))
    of_all = heads[True].factors.square().sum()
    assert of_all == pytest.approx(min(most, 128 * 4**0.4), rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_balanced_runs_stored_no_factors_and_keep_theirs(tied):
    def factor(dim):  # of all columns together where tied, from which each takes its share
        return (128 / dim) ** 0.25

    heads = NestedHeads((16, 64, 256), CLASSES, tied=tied, balanced=True)
    stored = {name: torch.randn_like(value) for name, value in heads.linear.state_dict().items()}
    heads.load_state_dict({f"linear.{name}": value for name, value in stored.items()})
    if tied:
        assert heads.factors[:16].square().sum() * 3 == pytest.approx(16 * factor(16) ** 2)
    else:
        expected = stored["64.weight"] * factor(64)
        torch.testing.assert_close(heads.parameters_at(64)[0], expected)
    again = NestedHeads((16, 64, 256), CLASSES, tied=tied, balanced=True)
    again.load_state_dict(heads.state_dict())
    torch.testing.assert_close(again.parameters_at(64), heads.parameters_at(64))


def test_a_run_begun_while_each_dim_taught_its_own_columns_goes_on_so():
    now, before = (NestedHeads((8, 16, 32, 64), CLASSES, tied=False, balanced=True) for _ in range(2))
    since = ("teach_alone", "decorrelation")
    stored = {name: value for name, value in now.state_dict().items() if name not in since}
    before.load_state_dict(stored)
    assert before.decorrelation == 0 and now.decorrelation > 0
    assert before.teaching == {"teach_alone": 4} and before.norm == 2
    again = NestedHeads((8, 16, 32, 64), CLASSES, tied=False, balanced=True)
    again.load_state_dict(before.state_dict())
    assert again.teaching == before.teaching and again.norm == before.norm and again.decorrelation == 0
    again.load_state_dict(now.state_dict())
    assert again.teaching["teach_alone"] == 1 and again.norm == 4 / 3
    assert again.teaching["distillation"].tolist() == [0, 0, 0.5, 0]


@pytest.mark.parametrize("dims", [(8,), (8, 64), (8, 16, 64)])
def test_three_dims_or_fewer_have_none_in_the_middle_to_distil_to(dims):
    heads = NestedHeads(dims, CLASSES, tied=False, balanced=True)
    assert heads.teaching.get("distillation") is None
    z, y = torch.randn(6, 64, requires_grad=True), torch.arange(6) % CLASSES
    options = {"teach_alone": 1, "label_smoothing": 0.1}
    nn.init.normal_(heads.linear[str(dims[-1])].weight)
    parameters = [heads.parameters_at(dim) for dim in dims]
    loop = nested_cross_entropy_loop(z, *map(list, zip(*parameters, strict=True)), y, dims, **options)
    total = heads(z, y, torch.ones(len(dims)), 0.1).total
    torch.testing.assert_close(total, loop.sum())
    ours, theirs = (torch.autograd.grad(value, z, retain_graph=True) for value in (total, loop.sum()))
    torch.testing.assert_close(ours, theirs)


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
