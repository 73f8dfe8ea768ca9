"""ONNX files and programs of torch.export give what the run does, at every dim, for batches of any size."""

import json

import numpy as np
import pytest
import torch
from composing import composed
from sklearn.datasets import load_digits

import mrl_experiments
from mrl_experiments.errors import UserError
from mrl_experiments.export.write import export
from mrl_experiments.loaded.inputs import ImageInputs, SequenceInputs

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")

from mrl_experiments.export.onnx_file import session

MANY = 10_000


def exported(run, tmp_path, *typed):
    return export(
        composed("export", f"run={run.name}", f"root={run.root}", f"out={tmp_path / 'out'}", *typed)
    )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow
def test_an_adaptor_as_onnx_takes_any_dim_and_rounds_others_up(trained_runs, tmp_path):
    run = trained_runs["adaptor"]
    out = exported(run, tmp_path, "format=onnx", "int8=true")
    x = np.random.default_rng(0).standard_normal((MANY, 16), dtype=np.float32)
    ours, file = mrl_experiments.load(run), session(out / "model.onnx")
    for dim, used in ((8, 8), (16, 16), (1, 8), (9, 16), (1000, 16)):
        (vectors,) = file.run(["embeddings"], {"vectors": x, "dim": np.array(dim)})
        np.testing.assert_allclose(vectors, ours.encode(x, used), atol=1e-5)
    (small,) = session(out / "model-int8.onnx").run(None, {"vectors": x, "dim": np.array(16)})
    assert np.mean((small * ours.encode(x)).sum(1)) > 0.99
    told = json.loads((out / "config.json").read_text())
    assert told["files"] == {"model": {"inputs": ["vectors", "dim"], "outputs": ["embeddings"]}}
    with pytest.raises(UserError, match="has no classifiers"):
        exported(run, tmp_path / "other", "format=onnx", "output=logits")


def test_an_adaptor_of_two_maps_is_two_files_and_encodes_queries_by_their_own(trained_runs, tmp_path):
    from mrl_experiments.adaptor_file import AdaptorFile
    from mrl_experiments.export.graphs import graphs

    model = mrl_experiments.load(trained_runs["adaptor"])
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in ("matrix", "query_matrix")}
    model.adaptor = AdaptorFile(arrays, model.dims, "trained", "inner_product")
    x = rng.standard_normal((4, 16), dtype=np.float32)
    np.testing.assert_allclose(model.encode_query(x, 8), (x @ arrays["query_matrix"])[:, :8], atol=1e-5)
    np.testing.assert_allclose(model.encode_document(x, 8), (x @ arrays["matrix"])[:, :8], atol=1e-5)
    for graph in graphs(model, [8], ["embeddings"]):
        expected = model.encode(x, 8, queries=graph.name == "query-8")
        np.testing.assert_allclose(graph.module(vectors=torch.from_numpy(x))[0].detach(), expected, atol=1e-5)


@pytest.mark.slow
def test_a_program_of_one_dim_has_the_layers_without_the_others_channels(trained_runs, tmp_path, capsys):
    run = trained_runs["digits"]
    out = exported(run, tmp_path, "format=torch_export", "dim=24")
    assert "its last layers (5) compute the first features alone" in capsys.readouterr().out
    ours, program = mrl_experiments.load(run, 24), torch.export.load(out / "model-24.pt2").module()
    for count in (1, 5):
        x = torch.randn(count, 1, 32, 32)
        vectors, logits = program(images=x)
        np.testing.assert_allclose(vectors.detach(), ours.encode(x), atol=1e-5)
        np.testing.assert_allclose(logits.softmax(1).detach(), ours.predict_proba(x), atol=1e-5)


@pytest.fixture(scope="module")
def images():
    """Digits with noise, (10000, 1, 32, 32), as the run's loader normalizes them."""
    pixels = load_digits().images.repeat(4, axis=1).repeat(4, axis=2) / 8 - 1
    rng = np.random.default_rng(0)
    some = pixels[rng.integers(len(pixels), size=MANY)] + rng.normal(0, 0.3, (MANY, 32, 32))
    return some[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(3, 280, (MANY, 8))


@pytest.fixture(scope="module")
def embedded():
    """What torch makes of all inputs, once for each kind of run."""
    return {}


def reference(model, z, dim):
    """Return vectors and logits of torch."""
    logits = None if model.heads is None else model.heads.logits(z, dim)
    return unit(z[..., :dim]), logits


@pytest.mark.parametrize(
    ("shared", "attends"), [("values", True), ("weight", False), ("scaled", False)], ids=str
)
def test_a_softmax_is_attention_only_where_something_computed_is_multiplied_by_it(shared, attends, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from mrl_experiments.export.onnx_file import _attends

    nodes = [
        helper.make_node("Relu", ["x"], ["values"]),
        helper.make_node("Constant", [], ["scaled"], value_float=2.0),
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("MatMul", ["p", shared], ["y"]),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4])] for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *ends, [weight])), str(tmp_path / "g.onnx"))
    assert _attends(tmp_path / "g.onnx") == attends


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "digits_convnext", "digits_vit", "causal", "masked"])
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_logits_are_the_same_for_ten_thousand_inputs(kind, form, trained_runs, embedded, tmp_path, request):
    run = trained_runs[kind]
    model = mrl_experiments.load(run)
    inputs = request.getfixturevalue("images" if isinstance(model.inputs, ImageInputs) else "tokens")
    if kind not in embedded:
        with torch.inference_mode():
            parts = [model.method.embed(part) for part in torch.from_numpy(inputs).split(500)]
        embedded[kind] = torch.cat(parts).numpy()
    many = inputs if form == "onnx" else inputs[:1000]
    name = "images" if isinstance(model.inputs, ImageInputs) else "tokens"
    any_dim = exported(run, tmp_path / "any", f"format={form}")
    one = exported(run, tmp_path / "one", f"format={form}", f"dim={model.dims[0]}", "output=logits")
    for dim in (model.dims[0], model.dims[-1]):
        vectors, logits = reference(model, embedded[kind][: len(many)], dim)
        found = [run_file(any_dim, "model", name, many, dim)]
        found += [(None, *run_file(one, f"model-{dim}", name, many))] if dim == model.dims[0] else []
        for theirs, theirs_logits in found:
            assert np.abs(theirs_logits - logits).max() <= 1e-4 * np.abs(logits).max()
            np.testing.assert_array_equal(theirs_logits.argmax(-1), logits.argmax(-1))
            if theirs is not None:
                np.testing.assert_allclose(theirs, vectors, atol=1e-4)


def run_file(folder, stem, name, inputs, dim=None):
    """Return what a file gives, 500 inputs at a time and the rest."""
    parts = [inputs[start : start + 700] for start in range(0, len(inputs), 700)]
    extra = {} if dim is None else {"dim": np.array(dim)}
    if (folder / f"{stem}.onnx").exists():
        file = session(folder / f"{stem}.onnx")
        outputs = [file.run(None, {name: part, **extra}) for part in parts]
    else:
        program = torch.export.load(folder / f"{stem}.pt2").module()
        with torch.no_grad():
            given = [{name: part, **extra} for part in parts]
            outputs = [
                [
                    one.numpy()
                    for one in program(**{key: torch.from_numpy(np.asarray(v)) for key, v in some.items()})
                ]
                for some in given
            ]
    return [np.concatenate(one) for one in zip(*outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_both_towers_give_their_vectors(form, trained_runs, tmp_path):
    run = trained_runs["captions"]
    model = mrl_experiments.load(run)
    out = exported(run, tmp_path, f"format={form}")
    x = np.random.default_rng(0).standard_normal((900, 3, 32, 32), dtype=np.float32)
    (vectors,) = run_file(out, "image", "images", x, 8)
    np.testing.assert_allclose(vectors, model.encode(torch.from_numpy(x), 8), atol=1e-5)
    texts = [f"{('red', 'blue', 'green')[k % 3]} {('checks', 'stripes')[k % 2]}" for k in range(900)]
    (vectors,) = run_file(out, "text", "tokens", model.preprocess(texts).numpy(), 8)
    np.testing.assert_allclose(vectors, model.encode(texts, 8), atol=1e-5)
    assert (out / "tokenizer.json").exists() and not isinstance(model.inputs, SequenceInputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "digits_convnext", "digits_vit"])
def test_eight_bits_lose_at_most_a_point(kind, trained_runs, tmp_path):
    run = trained_runs[kind]
    model = mrl_experiments.load(run)
    out = exported(run, tmp_path, "format=onnx", "int8=true", f"dim=[{model.dims[0]},{model.dims[-1]}]")
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    inputs = model.preprocess(pixels[..., None]).numpy()
    for dim in (model.dims[0], model.dims[-1]):
        accuracy, answers = {}, []
        for stem in (f"model-{dim}", f"model-{dim}-int8"):
            _, logits = run_file(out, stem, "images", inputs)
            accuracy[stem] = np.mean(logits.argmax(1) == digits.target)
            answers.append(logits.argmax(1))
        assert np.mean(answers[0] == answers[1]) > 0.97
        whole, small = accuracy.values()
        assert small >= whole - 0.01, accuracy
        sizes = [(out / f"{stem}.onnx").stat().st_size for stem in accuracy]
        assert sizes[1] < 0.6 * sizes[0]
