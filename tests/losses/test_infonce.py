"""The nested contrastive loss against a version that loops over pairs and sizes."""

import math

import pytest
import torch
from composing import loss_options
from hydra.utils import instantiate
from torch import nn

from mrl_experiments.errors import UserError
from mrl_experiments.losses.infonce import InfoNCE

B, D, DIMS, WEIGHTS = 12, 16, (2, 8, 16), (1.0, 2.0, 0.5)


class Towers(nn.Module):
    """Two linear towers; texts are recognised by their width."""

    width = D

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.towers = nn.ModuleDict({"6": nn.Linear(6, D), "5": nn.Linear(5, D)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.towers[str(x.shape[1])](x))


def method(option="infonce", backbone=None, **options):
    config = loss_options(option)
    return instantiate(config, **options)(backbone=backbone or Towers(), num_classes=9).double()


def pairs(seed=0, classes=1000):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, 6, generator=generator), torch.randn(B, 5, generator=generator)
    return tuple(part.double() for part in x), torch.randint(classes, (B,), generator=generator)


def by_hand(images, texts, y, dim, temperature):
    """Return the loss of each pair, the mean of both directions, by the definition."""
    losses = []
    for i in range(len(y)):
        both = 0.0
        for queries, keys in ((images, texts), (texts, images)):
            cosine = [
                torch.dot(queries[i, :dim], key[:dim]) / (queries[i, :dim].norm() * key[:dim].norm())
                for key in keys
            ]
            others = [c for j, c in enumerate(cosine) if j == i or y[j] != y[i]]
            both += torch.logsumexp(torch.stack(others) / temperature, 0) - cosine[i] / temperature
        losses.append(both / 2)
    return torch.stack(losses)


@pytest.mark.parametrize("classes", [4, 1000])  # with and without pairs that show the same
def test_loss_and_gradient_are_those_of_the_definition(classes):
    model = method(dims=list(DIMS), weights=list(WEIGHTS), temperature=0.2)
    (images, texts), y = pairs(classes=classes)
    out = model((images, texts), y)
    grads = torch.autograd.grad(out.loss, list(model.parameters()))
    z = model.embed(images), model.embed(texts)
    losses = [by_hand(*z, y, dim, torch.exp(-model.log_scale[i])).mean() for i, dim in enumerate(DIMS)]
    expected = sum(weight * loss for weight, loss in zip(WEIGHTS, losses, strict=True))
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.losses, torch.stack(losses).detach())
    for got, wanted in zip(grads, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(got, wanted)


def test_hits_are_counted_in_both_directions_among_other_labels():
    model = method(dims=list(DIMS))
    (images, texts), y = pairs(classes=4)
    sums = model.validate((images, texts), y)
    z = [model.embed(side).detach() for side in (images, texts)]
    for level, dim in enumerate(DIMS):
        unit = [nn.functional.normalize(side[:, :dim], dim=1) for side in z]
        ranks = []
        for cosines in (unit[0] @ unit[1].T, unit[1] @ unit[0].T):
            for i in range(B):
                ranks.append(sum(int(cosines[i, j] > cosines[i, i]) for j in range(B) if y[j] != y[i]))
        for column, k in ((1, 1), (2, 5)):
            assert sums[level, column] == sum(rank < k for rank in ranks) / 2
        loss = by_hand(*z, y, dim, model.scales()[level].reciprocal()).sum()
        torch.testing.assert_close(sums[level, 0], loss)
    assert sums[:, 3].tolist() == [B] * 3
    out = model((images, texts), y)
    assert out.correct.tolist() == sums[:, 1].tolist() and out.count == B


def test_a_size_alone_has_the_loss_it_has_inside_a_nesting():
    nested, alone = method(dims=list(DIMS)), method("infonce_ff", dim=8)
    alone.backbone.load_state_dict(nested.backbone.state_dict())
    x, y = pairs()
    assert alone.spec.dims == (8,)
    assert alone(x, y).loss.item() == pytest.approx(nested(x, y).losses[1].item())
    assert method("infonce_ff").spec.dims == (16,)
    assert method().spec.dims == (8, 16)


def test_the_scale_of_features_does_not_matter():
    x, y = pairs()
    model = method(dims=list(DIMS))
    before = model(x, y).loss
    with torch.no_grad():
        for tower in model.backbone.towers.values():
            tower.weight.mul_(7)
            tower.bias.mul_(7)
    torch.testing.assert_close(model(x, y).loss, before)


def test_temperatures_are_learned_by_each_size_and_stay_within_bounds():
    model = method(dims=list(DIMS), temperature=0.07)
    assert model.scales().tolist() == pytest.approx([1 / 0.07] * 3)
    x, y = pairs()
    model(x, y).loss.backward()
    assert (model.log_scale.grad != 0).all()
    optimizer = torch.optim.SGD([model.log_scale], lr=1e6)
    for sign in (1, -1):
        optimizer.zero_grad()
        model(x, y).loss.backward()
        model.log_scale.grad.abs_().mul_(sign)
        optimizer.step()
        bound = math.log(1) if sign > 0 else math.log(100)
        assert model.scales().log().tolist() == pytest.approx([bound] * 3)
        optimizer.zero_grad()
        model(x, y).loss.backward()
        assert model.log_scale.grad.abs().sum() > 0  # a temperature at its bound can come back


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": math.nan}, r"temperature=nan(.|\n)*0\.01 to 1"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1"),
        ({"dim": 8}, r"loss\.dim=8 has no meaning(.|\n)*infonce_ff loss\.dim=8"),
        ({"dims": [8, 99]}, "99 does not fit"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        method(**options)
    if "dims" in options:
        with pytest.raises(UserError, match=r"loss\.dims=\[8, 99\] has no meaning"):
            method("infonce_ff", **options)


def test_two_steps_of_rising_weights_may_share_a_backward_pass():
    model, (x, y) = method(dims=DIMS), pairs()
    total = torch.zeros(())
    for progress in (0.0, 0.25):
        model.set_progress(progress)
        total = total + model(x, y).loss
    total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_what_comes_without_a_partner_is_refused():
    (images, _), y = pairs()
    with pytest.raises(UserError, match=r"pairs(.|\n)*data=kanji_captions"):
        method()(images, y)
    with pytest.raises(UserError, match="no classifier"):
        method().logits(torch.zeros(2, D))


def gradients(model, x, y, seed=3):
    torch.manual_seed(seed)
    model.zero_grad()
    model(x, y).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_caching_gives_the_plain_gradient(chunk):
    plain = method(dims=list(DIMS))
    cached = method(dims=list(DIMS), cache_chunk=chunk)
    cached.load_state_dict(plain.state_dict())
    for got, wanted in zip(gradients(cached, *pairs()), gradients(plain, *pairs()), strict=True):
        torch.testing.assert_close(got, wanted)


def test_caching_draws_the_same_dropout_twice():
    """The gradient of a cached loss is that of the very function whose value it returned."""
    model = method(backbone=Towers(dropout=0.5), dims=list(DIMS), cache_chunk=5)
    x, y = pairs()
    exact = gradients(model, x, y)
    for parameter, grad in zip(model.parameters(), exact, strict=True):
        index = tuple(0 for _ in parameter.shape)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[index] += step
            torch.manual_seed(3)
            values.append(model(x, y).loss.item())
            with torch.no_grad():
                parameter[index] -= step
        assert grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3, abs=1e-7)


class Normalised(Towers):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(D)

    def forward(self, x):
        return self.norm(super().forward(x))


def test_caching_moves_running_statistics_once_a_chunk():
    plain = method(backbone=Normalised(), dims=list(DIMS))
    cached = method(backbone=Normalised(), dims=list(DIMS), cache_chunk=4)
    cached.load_state_dict(plain.state_dict())
    x, y = pairs()
    gradients(cached, x, y)
    for side in x:
        for part in side.split(4):
            plain.embed(part)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], value)
    assert cached.backbone.norm.momentum == 0.1


def test_caching_keeps_no_activations():
    def saved_bytes(model):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.nbytes if tensor.numel() > 1000 else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model((torch.randn(400, 6).double(), torch.randn(400, 5).double()), torch.arange(400)).loss
        loss.backward()
        return total

    class Deep(Towers):
        def forward(self, x):
            z = super().forward(x)
            for _ in range(200):
                z = torch.tanh(z)
            return z

    plain, cached = (method(backbone=Deep(), dims=[16], cache_chunk=chunk) for chunk in (None, 20))
    assert saved_bytes(cached) < saved_bytes(plain) / 2


def test_batches_in_evaluation_need_no_graph():
    model: InfoNCE = method(cache_chunk=4)
    with torch.inference_mode():
        sums = model.validate(*pairs())
    assert torch.isfinite(sums).all()
