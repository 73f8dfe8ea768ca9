"""Transformers as backbones: what they learn from, and what is refused before training."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from mrl_experiments.errors import UserError
from mrl_experiments.models.text_backbone import TextBackbone

SIZES = {"width": 16, "layers": 2, "attention_heads": 2, "vocabulary": 40, "length": 6}


def backbone(arch, causal=0, **changes):
    return TextBackbone(arch=arch, name=arch, causal=causal, **{**SIZES, **changes})


@pytest.mark.parametrize(
    ("arch", "causal"), [("bert", 0), ("modernbert", 0), ("gpt2", 1), ("llama", 1), ("gpt_neox", 1)]
)
def test_each_token_of_the_vocabulary_can_learn(arch, causal):
    net = backbone(arch, causal, options={"intermediate_size": 24} if arch != "gpt2" else None)
    tokens = torch.arange(36).reshape(6, 6)  # the first ones are what architectures take for special tokens
    features = net(tokens)
    assert features.shape == (6, 6, 16)
    (features * torch.randn_like(features)).sum().backward()
    assert (net.shared_embedding.grad[:36].abs().sum(1) > 0).all()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(("arch", "cached"), [("gpt2", True), ("llama", True), ("openai-gpt", False)])
@torch.no_grad()
def test_with_a_cache_only_new_tokens_are_computed(arch, cached):
    net, tokens = backbone(arch, causal=1).eval(), torch.arange(12).reshape(2, 6)
    cache = net.new_cache()
    assert (cache is not None) == cached
    read = []
    net.net.register_forward_pre_hook(
        lambda _, args, options: read.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    for end in range(2, 7):
        new = tokens[:, :end] if cache is None or end == 2 else tokens[:, end - 1 : end]
        torch.testing.assert_close(net.last(new, cache), net(tokens[:, :end])[:, -1], rtol=1e-5, atol=1e-5)
    assert read[::2] == ([2, 1, 1, 1, 1] if cached else [2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "roberta"}, "roberta cannot read tokens without more"),
        ({"arch": "modernbart"}, "not a model type of transformers"),
        ({"arch": "bert", "attention_heads": 3}, "cannot build model.arch=bert"),
        ({"arch": "bert", "causal": 1}, "sees the tokens that it is to predict"),
        ({"arch": "gpt2"}, "sees only what stands before a hidden token"),
        ({"arch": "bert", "positions": 4}, "longer than the 4 positions of bert"),
        ({"arch": "bert", "pretrained": "bert-base-uncased"}, "model.pretrained=bert-base-uncased"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(arguments, message):
    with pytest.raises(UserError, match=message):
        backbone(**arguments)
