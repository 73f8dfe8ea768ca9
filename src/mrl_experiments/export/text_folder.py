"""A folder that sentence-transformers loads: `SentenceTransformer("<folder>", truncate_dim=64)`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mrl_experiments.errors import UserError
from mrl_experiments.export.timm_folder import HEADS
from mrl_experiments.loaded.inputs import ImageOrTextInputs, SequenceInputs, TextInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.models.dual_encoder import DualEncoder

PACKAGE = "sentence_transformers.models"  # where modules lie in all versions, as folders on the hub name them


def write_text(model: LoadedModel, folder: Path, dim: int, config: Mapping[str, Any]) -> None:
    """Write a text tower, or a language model whose vector of a text is that of `encode`.

    The modules are the transformer, the pooling of its tokens and, of a tower, its projection. Vectors are
    not of length one, since sentence-transformers cuts them last: `encode(..., normalize_embeddings=True)`.

    Args:
        model: The run.
        folder: Is filled.
        dim: What the model gives where nothing else is asked for.
        config: Further keys of config.json.
    """
    backbone, inputs = model.method.backbone, model.inputs
    texts = inputs.texts if isinstance(inputs, ImageOrTextInputs) else inputs
    assert isinstance(texts, TextInputs)
    tower = backbone.text if isinstance(backbone, DualEncoder) else backbone
    network: Any = tower.net
    causal = isinstance(texts, SequenceInputs) and texts.causal
    network.save_pretrained(str(folder))
    _write_tokenizer(texts, folder)
    modules = ["Transformer", "Pooling"]
    _write(folder / "sentence_bert_config.json", {"max_seq_length": texts.length, "do_lower_case": False})
    hidden = int(network.config.hidden_size)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_cls_token": False}
    pooling |= {"pooling_mode_mean_tokens": not causal, "pooling_mode_lasttoken": causal}
    _write(folder / "1_Pooling" / "config.json", pooling)
    if isinstance(backbone, DualEncoder):
        modules.append("Dense")
        weight = backbone.project_text.weight.detach().cpu().contiguous()
        dense = {"in_features": hidden, "out_features": len(weight), "bias": False}
        _write(
            folder / "2_Dense" / "config.json",
            dense | {"activation_function": "torch.nn.modules.linear.Identity"},
        )
        save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    listed = [
        {
            "idx": place,
            "name": str(place),
            "path": f"{place}_{kind}" if place else "",
            "type": f"{PACKAGE}.{kind}",
        }
        for place, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2), encoding="utf-8")
    cut = {"truncate_dim": dim} if dim < model.width else {}
    _write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine", **config, **cut})
    own = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write(folder / "config.json", {**own, **config})
    if model.heads is not None:
        model.heads.save(folder / HEADS)


def _write_tokenizer(texts: TextInputs, folder: Path) -> None:
    """Write the vocabulary as transformers reads it; a text that spells a special token stays a text."""
    from transformers import PreTrainedTokenizerFast

    source = folder / "tokenizer.json"
    source.write_text(texts.tokenizer.content, encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source),
        pad_token="<|pad|>",
        mask_token="<|mask|>",
        eos_token="<|end|>",
        model_max_length=texts.length,
        padding_side="right",
        truncation_side="left" if isinstance(texts, SequenceInputs) and texts.causal else "right",
        split_special_tokens=not isinstance(texts, SequenceInputs) or texts.causal,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(str(folder))


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object of another library, which would not know a checksum of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def check_text(model: LoadedModel) -> None:
    """Raise UserError unless a run reads texts."""
    if not isinstance(model.inputs, TextInputs | ImageOrTextInputs):
        raise UserError(f"run {model.run.name} reads no texts", expected="a text tower or a language model")
