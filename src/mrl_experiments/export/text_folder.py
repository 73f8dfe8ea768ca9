"""A folder that sentence-transformers loads: `SentenceTransformer("<folder>", truncate_dim=64)`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrl_experiments.adaptor_export import (
    MODEL,
    PACKAGE,
    SETTINGS,
    Module,
    dense,
    update_json,
    write_modules,
)
from mrl_experiments.export.timm_folder import HEADS
from mrl_experiments.loaded.inputs import ImageOrTextInputs, SequenceInputs, TextInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.models.dual_encoder import DualEncoder


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
    settings = {"max_seq_length": texts.length, "do_lower_case": False}
    update_json(folder / "sentence_bert_config.json", settings)
    pooling = {"word_embedding_dimension": int(network.config.hidden_size), "pooling_mode_cls_token": False}
    pooling |= {"pooling_mode_mean_tokens": not causal, "pooling_mode_lasttoken": causal}
    modules: list[Module] = [("Pooling", pooling, {})]
    if isinstance(backbone, DualEncoder):
        modules.append(dense(backbone.project_text.weight.detach().cpu().numpy().T))
    transformer = {"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}.Transformer"}
    write_modules(folder, [transformer], modules)
    cut = {"truncate_dim": dim} if dim < model.width else {}
    update_json(folder / SETTINGS, {"similarity_fn_name": "cosine", **config, **cut})
    update_json(folder / MODEL, config)
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
