import csv
from importlib import resources

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers

from mrl_experiments import cost

DATABASE = {"imagenet1k": 1_281_167, "imagenet4k": 4_202_000}


def printed():
    """Every MFLOPs value of Tables 8 to 14: (data set, size, setting, value)."""
    path = resources.files("mrl_experiments.paper") / "published.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "MFLOPs"]
    return [row for row in rows if "table08" <= row["table"] <= "table14"]


def stages(row):
    options = dict(part.split("=", 1) for part in row["setting"].split())
    if "stages" in options:
        return [tuple(map(int, stage.split(":"))) for stage in options["stages"].split(">")]
    scan = (int(row["dim"]), int(options.get("shortlist", 100)))
    # Tables 11 and 12 print one value for each shortlist size: that of the smallest re-rank.
    return [scan, (2 * scan[0], 10)] if "rerank" in options else [scan]


def test_every_printed_cost_of_retrieval_is_reproduced():
    rows = printed()
    assert {row["table"] for row in rows} == {f"table{number:02}" for number in range(8, 15)}
    for row in rows:
        ours = cost.search_macs(DATABASE[row["dataset"]], stages(row)) / 1e6
        decimals = len(row["value"].partition(".")[2])
        assert abs(ours - float(row["value"])) <= 0.5000001 * 10**-decimals, row


def test_heads_and_indexes():
    assert cost.head_macs(2048, 1000) == 2_048_000
    assert cost.index_bytes(1_281_167, 16) == 1_281_167 * 64


def vit_b16_macs(layers):
    """ViT-B/16 at 224 pixels by hand: 197 tokens of width 768; without the classifier."""
    tokens, width = 14 * 14 + 1, 768
    patches = 14 * 14 * (16 * 16 * 3) * width
    projections = tokens * width * (3 * width + width)  # queries, keys and values; output
    attention = 2 * tokens * tokens * width
    mlp = 2 * tokens * width * (4 * width)
    return patches + layers * (projections + attention + mlp)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_attention_counts_as_its_two_products_whatever_computes_it(fused, kind):
    assert vit_b16_macs(12) / 1e9 == pytest.approx(17.56, abs=0.01)
    timm.layers.set_fused_attn(fused)
    try:
        vit = timm.create_model("vit_base_patch16_224", num_classes=0, depth=1).to(kind).eval()
    finally:
        timm.layers.set_fused_attn(True)
    images = torch.zeros(1, 3, 224, 224, dtype=kind)
    with torch.inference_mode():
        assert cost.network_macs(lambda: vit(images)) == vit_b16_macs(1)


@pytest.mark.parametrize("autocast", [False, True])
def test_single_layers(autocast):
    q, shared = torch.zeros(1, 3, 197, 64), torch.zeros(1, 1, 197, 64)
    grouped = torch.nn.Conv2d(8, 8, 3, groups=4, padding=1)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    compiled = torch.compile(lambda x: x @ x)
    by_hand = {
        lambda: F.scaled_dot_product_attention(q, q, q): 14_902_656,
        lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True): 14_902_656,
        lambda: F.scaled_dot_product_attention(q, shared, shared, enable_gqa=True): 14_902_656,
        lambda: grouped(torch.zeros(2, 8, 10, 10)): 2 * 100 * 8 * 9 * 2,
        lambda: layer(torch.zeros(1, 5, 16)): 5 * 16 * (4 * 16 + 2 * 32) + 2 * 5 * 5 * 16,
        lambda: compiled(torch.zeros(6, 6)): 6**3,
    }
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert [cost.network_macs(run) for run in by_hand] == list(by_hand.values())


@pytest.mark.parametrize("kind", ["BertConfig", "GPT2Config", "ModernBertConfig"])
def test_language_models(kind):
    width, layers, inner, tokens = 64, 2, 128, 24
    names = {"GPT2Config": {"n_embd": width, "n_layer": layers, "n_head": 4, "n_inner": inner}}
    usual = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4}
    options = names.get(kind, {**usual, "intermediate_size": inner})
    config = getattr(transformers, kind)(vocab_size=100, **options, pad_token_id=0, cls_token_id=1)
    model = transformers.AutoModel.from_config(config, attn_implementation="sdpa").eval()
    gate = 3 if kind == "ModernBertConfig" else 2
    layer = tokens * width * (4 * width + gate * inner) + 2 * tokens * tokens * width
    pooled = width * width if kind == "BertConfig" else 0
    with torch.inference_mode():
        counted = cost.network_macs(lambda: model(torch.zeros(1, tokens, dtype=torch.long)))
    assert counted == layers * layer + pooled


def test_a_resnet():
    """ResNet-18 at 224 pixels by hand: the stem, four stages of two blocks, three shortcuts."""
    stem = 112 * 112 * 64 * 3 * 49
    stage1 = 4 * 56 * 56 * 64 * 64 * 9
    later = sum(
        side**2
        * width
        * (width // 2 * 9 + 3 * width * 9 + width // 2)  # 3x3 on half the channels, three more, 1x1
        for side, width in ((28, 128), (14, 256), (7, 512))
    )
    resnet = timm.create_model("resnet18", num_classes=0).eval()
    with torch.inference_mode():
        assert cost.network_macs(lambda: resnet(torch.zeros(1, 3, 224, 224))) == stem + stage1 + later
