"""Grad-CAM against its closed form, and against asking what the logit does when a place is changed."""

import pytest
import torch
from composing import composed
from methods import as_if_trained

from mrl_experiments.build import build_method
from mrl_experiments.errors import UserError
from mrl_experiments.gradcam.examples import Examples, named, select_informative
from mrl_experiments.gradcam.layers import choose_layer, stages
from mrl_experiments.gradcam.maps import class_maps

SIZE = 64  # test_resnet then ends in 2 x 2 cells


def method_of(*overrides):
    cfg = composed("train", "data=digits", "model.arch=test_resnet", *overrides)
    return as_if_trained(build_method(cfg, channels=1, size=SIZE, num_classes=5)).eval()


@pytest.fixture(params=["mrl", "mrl_e"])
def method(request):
    return method_of(f"loss={request.param}")


@pytest.fixture
def images():
    return torch.randn(3, 1, SIZE, SIZE)


def features(method, layer, images):
    """The maps of a layer, by a plain forward pass of everything."""
    kept = []
    with torch.no_grad():
        hook = layer.module.register_forward_hook(lambda *call: kept.append(call[-1]))
        logits = method.logits(method.embed(images))
        hook.remove()
    return kept[0], logits


def test_before_average_pooling_a_map_weighs_what_the_classifier_says(method, images):
    layer = choose_layer(method, images, "layer4")
    maps, logits = features(method, layer, images)
    for dim, found in class_maps(method, layer, images, (12, 96)).items():
        torch.testing.assert_close(found.predicted, logits[dim].argmax(1))
        weight, _ = method.head.parameters_at(dim)
        weights = weight[found.predicted]  # (B, dim): maps beyond the first `dim` have no say
        expected = torch.einsum("bc,bchw->bhw", weights, maps[:, :dim]).relu()
        peak = expected.amax((1, 2), keepdim=True)
        torch.testing.assert_close(found.heat, torch.where(peak > 0, expected / peak, expected))


@pytest.mark.slow
def test_in_an_earlier_layer_weights_are_the_slopes_of_the_logit(images):
    method = method_of("loss=mrl").double()
    images = images.double()
    layer = choose_layer(method, images, "layer3")
    maps, _ = features(method, layer, images)
    dim = 24
    found = class_maps(method, layer, images, (dim,))
    predicted = found[dim].predicted
    step = 1e-6

    def score(shifted):
        hook = layer.module.register_forward_hook(lambda *_: shifted)
        try:
            with torch.no_grad():
                return method.logits(method.embed(images))[dim].gather(1, predicted[:, None])[:, 0]
        finally:
            hook.remove()

    channels, cells = maps.shape[1], maps[0, 0].numel()
    slopes = torch.zeros(len(images), channels, dtype=torch.float64)
    for channel in range(channels):
        shift = torch.zeros_like(maps)
        shift[:, channel] = step  # at all places at once: the mean over places, but for their number
        slopes[:, channel] = (score(maps + shift) - score(maps - shift)) / (2 * step * cells)
    expected = torch.einsum("bc,bchw->bhw", slopes, maps).relu()
    peak = expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(
        found[dim].heat, torch.where(peak > 0, expected / peak, expected), atol=1e-4, rtol=1e-3
    )


def test_the_last_stage_that_shows_places_is_chosen(method, images):
    assert [layer.name for layer in stages(method, images)][-1] == "layer4"
    layer = choose_layer(method, images, None)
    assert (layer.name, layer.side) == ("layer3", (4, 4))


@pytest.mark.parametrize(
    ("overrides", "layer", "problem"),
    [
        ([], "layer5", "has none of that name"),
        ([], "global_pool", "no feature maps"),
        (["model.arch=test_vit", "+model.options.img_size=64"], None, "no feature maps"),
    ],
)
def test_what_has_no_maps_is_refused(overrides, layer, problem, images):
    with pytest.raises(UserError, match=problem):
        choose_layer(method_of(*overrides), images, layer)


def test_images_that_more_dims_get_right_come_first_each_of_another_class(images):
    method = method_of("loss=mrl")
    pool = torch.randn(40, 1, SIZE, SIZE)
    with torch.no_grad():
        logits = method.logits(method.embed(pool))
    few, all_of_them = logits[12].argmax(1), logits[96].argmax(1)
    labels = all_of_them.clone()
    labels[::2] = 4 - labels[::2]  # half of them are wrong, or right by chance
    examples = Examples(pool, labels, torch.arange(40))
    chosen = select_informative(method, examples, (12, 96), 40)
    assert sorted(chosen.index.tolist()) == list(range(40))
    classes = len(set(labels.tolist()))
    assert len(set(chosen.labels[:classes].tolist())) == classes
    rising = (few != labels) & (all_of_them == labels)
    first = chosen.index[:classes]
    for label, index in zip(labels[first].tolist(), first.tolist(), strict=True):
        assert rising[index] or not (rising & (labels == label)).any()


def test_images_by_number(images):
    examples = Examples(images, torch.arange(3), torch.tensor([2, 0, 1]))
    assert named(examples, [1, 2], "val").labels.tolist() == [2, 0]
    with pytest.raises(UserError, match="--images 3: val has no such image"):
        named(examples, [0, 3], "val")
