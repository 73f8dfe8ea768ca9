"""Adaptors as modules of sentence-transformers and as an index of FAISS give the vectors of their file."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from composing import composed

from mrl_experiments.adaptor_export import faiss_index, write_sentence_transformers
from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.embed import embed
from mrl_experiments.errors import UserError
from mrl_experiments.files import hidden_folder
from mrl_experiments.locks import acquire
from mrl_experiments.names import SIMILARITIES
from mrl_experiments.runs import Run
from mrl_experiments.stored import write_config

RNG = np.random.default_rng(0)
WIDTH, TEXTS = 12, ["one two", "three", "two three one", "four one"]


def adaptor(kind="linear"):
    arrays = {"matrix": RNG.standard_normal((WIDTH, WIDTH))}
    if kind == "mlp":
        arrays |= {"mlp_in": RNG.standard_normal((WIDTH, 7)), "mlp_bias": RNG.standard_normal(7)}
        arrays["mlp_out"] = RNG.standard_normal((7, WIDTH))
    return AdaptorFile({name: x.astype(np.float32) for name, x in arrays.items()}, (4, WIDTH), "trained")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small model of sentence-transformers, and its folder: mean vectors of the words of a text."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: row for row, word in enumerate(["one", "two", "three", "four", "?"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)
    model = library.SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu"
    )
    folder = tmp_path_factory.mktemp("encoder") / "model"
    model.save_pretrained(str(folder), create_model_card=False)
    return model, folder


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_sentence_transformers_gives_the_vectors_of_the_file_at_every_dim(kind, encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    model, folder = encoder
    found, out = adaptor(kind), tmp_path / "adapted"
    write_sentence_transformers(found, out, folder)
    plain = model.encode(TEXTS)
    expected = found.apply(plain)
    for dim in (4, None):
        adapted = SentenceTransformer(str(out), device="cpu", truncate_dim=dim, local_files_only=True)
        vectors = adapted.encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(vectors, unit(expected[:, :dim]), atol=1e-5)
    assert adapted.similarity_fn_name == "cosine"
    settings = json.loads((out / "config_sentence_transformers.json").read_text())
    assert settings["is_matryoshka"] and settings["matryoshka_dimensions"] == [4, WIDTH]


def test_the_adaptor_alone_is_a_folder_of_modules_to_append(encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    model, found = encoder[0], adaptor()
    write_sentence_transformers(found, tmp_path / "alone", dim=4)
    alone = SentenceTransformer(str(tmp_path / "alone"), device="cpu", local_files_only=True)
    assert alone.truncate_dim == 4
    joined = SentenceTransformer(modules=[*model, *alone], device="cpu")
    np.testing.assert_allclose(joined.encode(TEXTS), unit(found.apply(model.encode(TEXTS))), atol=1e-5)


def test_a_transformer_says_its_dims_where_servers_read_them(tmp_path):
    source = tmp_path / "transformer"
    source.mkdir()
    (source / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "x"}]))
    (source / "config.json").write_text('{"hidden_size": 12}')
    write_sentence_transformers(adaptor(), tmp_path / "out", source)
    found = json.loads((tmp_path / "out/config.json").read_text())
    assert found["matryoshka_dimensions"] == [4, WIDTH] and found["hidden_size"] == WIDTH


def test_embed_writes_the_model(encoder, tmp_path):
    from sentence_transformers import SentenceTransformer

    run = Run(tmp_path / "runs" / "x")
    run.folder.mkdir(parents=True)
    write_config(run.config_path, {g: {"name": g} for g in ("loss", "model", "data")} | {"seed": 0})
    (found := adaptor()).save(run.adaptor)
    options = [f"root={tmp_path}", f"out={tmp_path / 'model'}", f"encoder={encoder[1]}", "dim=4"]
    with ThreadPoolExecutor() as pool:
        with acquire(hidden_folder(tmp_path / "model", "lock"), "writes it, too"):  # another command
            done = pool.submit(embed, composed("embed", "run=x", *options))
            with pytest.raises(TimeoutError):
                done.result(timeout=0.5)
        done.result()
    adapted = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    vectors = adapted.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, unit(found.apply(encoder[0].encode(TEXTS))[:, :4]), atol=1e-5)


def test_what_does_not_fit_is_one_message_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match=r"modules\.json"):
        write_sentence_transformers(adaptor(), tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there already"):
        write_sentence_transformers(adaptor(), tmp_path / "there")
    with pytest.raises(UserError, match="MLP"):
        faiss_index(adaptor("mlp"))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_faiss_maps_inside_the_index(similarity):
    found, x = replace(adaptor(), similarity=similarity), RNG.standard_normal((50, WIDTH)).astype(np.float32)
    index = faiss_index(found, 4)
    index.add(x)
    cut = found.apply(x)[:, :4]
    products = cut[:5] @ cut.T
    if similarity == "cosine":
        products = unit(cut[:5]) @ unit(cut).T
    elif similarity == "l2":
        products = -np.square(cut[:5, None] - cut).sum(axis=2)
    scores, rows = index.search(x[:5], 3)
    np.testing.assert_array_equal(rows, np.argsort(-products, axis=1)[:, :3])
    best = -np.sort(-products, axis=1)[:, :3]
    np.testing.assert_allclose(scores, -best if similarity == "l2" else best, atol=1e-3)
