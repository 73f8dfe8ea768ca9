"""Text at a chosen size: the tokens are those of the head, and bad requests are refused."""

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.generate import continuation
from mrl_experiments.losses.classifier import NestedClassifier
from mrl_experiments.models.text_backbone import TextBackbone


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "attention_heads": 2, "vocabulary": 40, "length": 6}
    backbone = TextBackbone(arch="gpt2", name="tiny", causal=1, **sizes)
    torch.nn.init.normal_(backbone.shared_embedding)
    return NestedClassifier(backbone, 40, dims=[8, 16], tied=True).eval()


def drawn(method, temperature, seed, dims=(8,), thresholds=(), count=10):
    random = torch.Generator().manual_seed(seed)
    cascade = Cascade(dims, thresholds)
    tokens, sizes = continuation(method, torch.tensor([3, 5, 7]), cascade, count, temperature, random)
    assert len(sizes) == count
    return tokens.tolist(), sizes


@pytest.mark.parametrize("dim", [8, 16])
@torch.no_grad()
def test_without_temperature_each_token_is_the_likeliest_after_those_the_model_can_see(method, dim):
    tokens = [3, 5, 7]
    for _ in range(10):
        z = method.backbone(torch.tensor([tokens[-6:]]))[0, -1, :dim]
        tokens.append(int((method.backbone.shared_embedding[:, :dim] @ z).argmax()))
    assert drawn(method, 0, seed=0, dims=(dim,)) == (tokens[3:], [dim] * 10)


def test_until_its_positions_are_full_the_model_reads_each_token_once(method):
    read = []
    hook = method.backbone.net.register_forward_pre_hook(
        lambda _, args, options: read.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    drawn(method, 0, seed=0, count=6)
    hook.remove()
    assert read == [3, 1, 1, 1, 6, 6]  # of 6 positions


@torch.no_grad()
def test_each_token_comes_from_the_first_size_that_is_confident_enough(method):
    random = torch.Generator().manual_seed(0)
    tokens, sizes = [3, 5, 7], []
    for _ in range(30):
        z = method.backbone(torch.tensor([tokens[-6:]]))[0, -1]
        small, large = (method.backbone.shared_embedding[:, :dim] @ z[:dim] for dim in (8, 16))
        confident = small.softmax(0).max() > 0.7
        chances = ((small if confident else large) / 5).softmax(0)
        tokens.append(int(torch.multinomial(chances, 1, generator=random)))
        sizes.append(8 if confident else 16)
    assert {*sizes} == {8, 16}
    assert drawn(method, 5, seed=0, dims=(8, 16), thresholds=(0.7,), count=30) == (tokens[3:], sizes)


@pytest.mark.parametrize(("threshold", "size"), [(0.0, 8), (1.0, 16)])
def test_the_ends_of_the_threshold_are_single_sizes(method, threshold, size):
    drawn_early = drawn(method, 1.0, seed=3, dims=(8, 16), thresholds=(threshold,))
    assert drawn_early == drawn(method, 1.0, seed=3, dims=(size,))


def test_draws_follow_the_seed(method):
    assert drawn(method, 5.0, seed=1) == drawn(method, 5.0, seed=1) != drawn(method, 5.0, seed=2)
