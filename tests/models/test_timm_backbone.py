import pytest
import timm
import torch

from mrl_experiments.errors import UserError
from mrl_experiments.models.blurpool import BlurredConv2d
from mrl_experiments.models.timm_backbone import TimmBackbone, current_arch


@pytest.mark.parametrize(
    ("arch", "size", "options", "width"),
    [
        ("resnet10t", 32, {}, 512),
        ("mobilenetv3_small_050", 32, {}, 1024),  # timm's num_features says 288
        ("convnext_atto", 32, {}, 320),
        ("vit_tiny_patch16_224", 32, {"patch_size": 4}, 192),
    ],
)
def test_any_architecture_gives_features_of_its_measured_width(arch, size, options, width):
    backbone = TimmBackbone(arch=arch, name=arch, channels=1, size=size, options=options)
    assert backbone.width == width
    assert backbone.train()(torch.zeros(2, 1, size, size)).shape == (2, width)


def test_building_a_backbone_leaves_its_statistics_alone():
    backbone = TimmBackbone(arch="resnet10t", name="r", channels=3, size=32)
    assert backbone.training
    assert all(int(buffer) == 0 for name, buffer in backbone.named_buffers() if "num_batches" in name)


def test_unknown_architecture_names_near_ones():
    with pytest.raises(UserError, match="resnet50"):
        TimmBackbone(arch="resnet_50", name="r", channels=3, size=32)


def test_an_image_too_small_is_refused():
    with pytest.raises(UserError, match="does not take 3x8x8"):
        TimmBackbone(arch="inception_v3", name="s", channels=3, size=8)


def test_an_unknown_option_is_refused():
    with pytest.raises(UserError, match="colour"):
        TimmBackbone(arch="resnet10t", name="r", channels=3, size=32, options={"colour": "blue"})


def test_a_missing_weights_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        TimmBackbone(
            arch="resnet10t", name="r", channels=3, size=32, pretrained=str(tmp_path / "none.safetensors")
        )


def test_local_weights_are_loaded_and_their_classifier_dropped(tmp_path):
    donor = timm.create_model("resnet10t", num_classes=1000)
    torch.save(donor.state_dict(), tmp_path / "donor.pth")
    backbone = TimmBackbone(
        arch="resnet10t", name="r", channels=3, size=32, pretrained=str(tmp_path / "donor.pth")
    )
    weights = backbone.net.state_dict()
    assert set(weights) == {key for key in donor.state_dict() if not key.startswith("fc.")}
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in weights.items())


def test_blurpool_wraps_the_strided_convolutions_of_a_resnet50():
    backbone = TimmBackbone(arch="resnet50", name="r", channels=3, size=64, blurpool=True)
    blurred = [m for m in backbone.modules() if isinstance(m, BlurredConv2d)]
    # Three stages halve the size, each in a 3x3 and a shortcut convolution; the stem has 3 input channels.
    assert len(blurred) == 6
    assert not any("kernel" in key for key in backbone.state_dict())


def test_blur_keeps_a_constant_image_inside_and_the_shape():
    conv = torch.nn.Conv2d(16, 16, 1, stride=2, bias=False)
    image = torch.ones(1, 16, 9, 9)
    plain, blurred = conv(image), BlurredConv2d(conv)(image)
    assert blurred.shape == plain.shape
    torch.testing.assert_close(blurred[..., 1:-1, 1:-1], plain[..., 1:-1, 1:-1])


@pytest.mark.filterwarnings("ignore:.*timm calls it")
def test_old_names_are_mapped_as_timm_does_with_the_size_of_the_images():
    assert current_arch("vit_base_patch16_224_in21k") == "vit_base_patch16_224.augreg_in21k"
    assert current_arch("tf_efficientnet_b0_ns") == "tf_efficientnet_b0.ns_jft_in1k"
    for old, new in timm.models.get_deprecated_models().items():
        assert current_arch(old).partition(".")[0] == new.partition(".")[0]
    backbone = TimmBackbone(
        arch="vit_tiny_patch16_224_in21k", name="v", channels=1, size=32, options={"depth": 1}
    )
    assert backbone.net.patch_embed.img_size == (32, 32)


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"arch": "resnt50"}, "resnet50"),
        ({"arch": "hf_hub:timm/resnet50"}, "resnet50"),
        ({"arch": "resnet50.a1_in1"}, "a1_in1k"),
        ({"arch": "resnet50", "pretrained": "a1_in1"}, "a1_in1k"),
        ({"arch": "resnet50", "pretrained": "weights/none"}, "no such file"),
    ],
)
def test_unknown_names_and_tags_come_with_near_ones(options, near):
    with pytest.raises(UserError, match=near):
        TimmBackbone(name="r", channels=3, size=32, **options)
