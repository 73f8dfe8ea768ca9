"""Text at a chosen size: the tokens are those of the head, and bad requests are refused."""

import pytest
import torch
from commands import ROOT
from hydra import compose, initialize_config_dir

pytest.importorskip("transformers", reason="transformers is not installed")

from mrl_experiments.errors import UserError
from mrl_experiments.generate import continuation, generate
from mrl_experiments.losses.mrl_e import MRLE
from mrl_experiments.models.text_backbone import TextBackbone


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "attention_heads": 2, "vocabulary": 40, "length": 6}
    backbone = TextBackbone(arch="gpt2", name="tiny", causal=1, **sizes)
    torch.nn.init.normal_(backbone.shared_embedding)
    return MRLE(backbone, 40, "mrl_e", None, [8, 16], None, 0.0).eval()


def drawn(method, temperature, seed, dim=8, count=10):
    random = torch.Generator().manual_seed(seed)
    return continuation(method, torch.tensor([3, 5, 7]), dim, count, temperature, random).tolist()


@pytest.mark.parametrize("dim", [8, 16])
@torch.no_grad()
def test_without_temperature_each_token_is_the_likeliest_after_those_the_model_can_see(method, dim):
    tokens = [3, 5, 7]
    for _ in range(10):
        z = method.backbone(torch.tensor([tokens[-6:]]))[0, -1, :dim]
        tokens.append(int((method.backbone.shared_embedding[:, :dim] @ z).argmax()))
    assert drawn(method, 0, seed=0, dim=dim) == tokens[3:]


def test_draws_follow_the_seed(method):
    assert drawn(method, 5.0, seed=1) == drawn(method, 5.0, seed=1) != drawn(method, 5.0, seed=2)


@pytest.mark.parametrize("wrong", ["tokens=0", "temperature=-1", "temperature=nan"])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("generate", ["run=any", f"root={tmp_path}", wrong])
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        generate(cfg)
