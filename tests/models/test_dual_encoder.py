"""Two real towers in one space."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from mrl_experiments.errors import UserError
from mrl_experiments.models.dual_encoder import DualEncoder
from mrl_experiments.models.text_backbone import TextTower

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PAD = 2


def tower(type="bert", **options):
    return TextTower(type=type, vocabulary=50, length=8, pad=PAD, options={**SMALL, **options})


def encoder(**options):
    given = {"arch": "test_resnet", "width": 24, "text": {"type": "bert", "options": SMALL}, **options}
    return DualEncoder(name="tiny", channels=1, size=32, vocabulary=50, length=8, pad=PAD, **given)


def test_both_sides_have_the_width_asked_for():
    model = encoder()
    assert model(torch.randn(3, 1, 32, 32)).shape == (3, 24)
    assert model(torch.randint(3, 50, (3, 8))).shape == (3, 24)
    assert model.width == 24


def test_padding_changes_nothing():
    model = tower().eval()
    text = torch.randint(3, 50, (2, 5))
    padded = torch.cat([text, torch.full((2, 3), PAD)], dim=1)
    torch.testing.assert_close(model(padded), model(text))


def test_all_parameters_are_trained():
    model = encoder()
    sides = model(torch.randn(3, 1, 32, 32)), model(torch.randint(3, 50, (3, 8)))
    sum(side.square().sum() for side in sides).backward()
    lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not lacking  # DDP would wait for them


@pytest.mark.parametrize("type", ["bert", "roberta", "electra"])
def test_other_encoders_of_transformers_work(type):
    options = {"max_position_embeddings": 16} if type == "roberta" else {}
    assert tower(type, **options)(torch.randint(3, 50, (2, 8))).shape == (2, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tower("burt"), "burt is not a model type of transformers"),
        (lambda: tower(num_attention_heads=5), r"cannot build model\.text\.type=bert"),
        (lambda: tower(max_position_embeddings=4), r"data\.length=8 tokens, but the model has 4 positions"),
        (lambda: encoder(arch="resnet_fifty"), "not a timm architecture"),
        (lambda: encoder()((torch.zeros(1, 1, 32, 32), torch.zeros(1, 8).long())), "loss=infonce"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
