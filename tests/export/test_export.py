"""export.py: folders that other libraries load and compute the same with; one line where that cannot be."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from composing import composed
from PIL import Image
from safetensors.torch import load_file

import mrl_experiments
from mrl_experiments.embed import embed
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import evaluate
from mrl_experiments.export import upload
from mrl_experiments.export.write import export
from mrl_experiments.heads import Heads
from mrl_experiments.runs import Run
from mrl_experiments.stored import write_config


def exported(run, *typed):
    return export(composed("export", f"run={run.name}", f"root={run.root}", *typed))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def digits(trained_runs):
    return trained_runs["digits"]


@pytest.fixture(scope="module")
def hub(digits, tmp_path_factory):
    """A folder for the hub, with rows of the run in its card."""
    embed(composed("embed", f"run={digits.name}", f"root={digits.root}", "trainer=cpu"))
    for evaluation in ("trained_head", "retrieval"):
        typed = [f"run={digits.name}", f"root={digits.root}", f"evaluation={evaluation}", "evaluation.k=[10]"]
        cfg = composed("evaluate", *(typed[:3] if evaluation == "trained_head" else typed))
        evaluate(cfg, evaluation, "prefix")
    out = tmp_path_factory.mktemp("hub") / "my-digits"
    return exported(digits, f"out={out}", "dim=24", "license=mit")


def test_timm_loads_the_folder_and_classifies_by_the_chosen_dim(digits, hub, tmp_path):
    ours = mrl_experiments.load(digits, 24)
    theirs = timm.create_model(f"local-dir:{hub}", pretrained=True).eval()
    x = torch.randn(8, 1, 32, 32)
    with torch.inference_mode():
        logits, features = theirs(x).numpy(), theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    probabilities = torch.tensor(logits).softmax(1)
    np.testing.assert_allclose(probabilities, ours.predict_proba(x), atol=1e-5)
    norm = load_file(hub / "standardization.safetensors")
    standardized = ((features - norm["mean"]) * norm["factor"]).numpy()
    np.testing.assert_allclose(unit(standardized[:, :12]), ours.encode(x, 12), atol=1e-5)
    assert theirs.pretrained_cfg["label_names"] == ours.classes
    heads = Heads.load(hub / "heads.safetensors")
    np.testing.assert_allclose(heads.logits(features.numpy(), 24), logits, atol=1e-4)
    assert heads.dims() == ours.dims
    config = json.loads((hub / "config.json").read_text())
    assert config["is_matryoshka"] and config["matryoshka_dimensions"] == [12, 24, 48, 96]
    assert config["pretrained_cfg"]["license"] is None  # that of other weights of this architecture


def test_timm_prepares_images_as_the_run_did(digits, hub, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    data = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{hub}"))
    prepared = timm.data.create_transform(**data)(Image.fromarray(pixels))
    torch.testing.assert_close(prepared, mrl_experiments.load(digits).preprocess(pixels)[0])


def test_the_card_has_front_matter_a_table_with_intervals_and_code_that_runs(
    hub, tmp_path, monkeypatch, capsys
):
    card = (hub / "README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: timm" in front and "license: mit" in front and "- matryoshka" in front
    for dim in (12, 24, 48, 96):
        assert re.search(
            rf"^\| {dim} \| {4 * dim} \| [\d.]+ \[[\d.]+, [\d.]+\] \| [\d.]+ \|$", card, re.MULTILINE
        )
    assert "CC BY 4.0" in card and "| data | digits |" in card and "mAP@10" in card
    assert (hub / "quality_by_dim.png").read_bytes().startswith(b"\x89PNG")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("image.png")
    told = {}
    (tmp_path / hub.name).symlink_to(hub)
    exec(code, told)
    assert told["features"].shape == (1, 24) and capsys.readouterr().out.strip() in "0123456789"


@pytest.mark.slow
def test_what_is_there_is_known_again_and_nothing_else_is_replaced(digits, hub, tmp_path, capsys):
    again = [f"out={hub}", "dim=24", "license=mit"]
    exported(digits, *again)
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another export: dims differ(.|\n)*overwrite=true"):
        exported(digits, f"out={hub}", "dim=12", "license=mit")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for typed in ([], ["overwrite=true"]):
        with pytest.raises(UserError, match="holds no whole export"):
            exported(digits, f"out={tmp_path / 'mine'}", *typed)
    weights, whole = hub / "model.safetensors", (hub / "model.safetensors").read_bytes()
    weights.write_bytes(whole[:1000])  # as a copy that was cut short
    with pytest.raises(UserError, match=r"since then model\.safetensors changed"):
        exported(digits, *again)
    exported(digits, *again, "overwrite=true")
    assert weights.read_bytes() == whole
    rows = next((digits.folder / "results").glob("*.csv"))
    before = rows.read_bytes()
    rows.write_bytes(before.replace(b",val,", b",test,"))
    exported(digits, *again)  # new rows: the card is written anew
    rows.write_bytes(before)
    exported(digits, *again)
    assert [*hub.parent.glob(".*.part"), *hub.parent.glob(".*.old")] == []


def test_what_a_killed_writer_left_goes_and_nothing_half_written_stays(digits, tmp_path, monkeypatch):
    left = tmp_path / ".out.part"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    monkeypatch.setattr("mrl_experiments.export.write.write_card", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exported(digits, f"out={tmp_path / 'out'}", "dim=24")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_weights_as_safetensors(digits, tmp_path):
    out = exported(digits, "format=safetensors", "dim=24", f"out={tmp_path / 'small'}")
    model = mrl_experiments.truncate(mrl_experiments.load_method(digits), 24)
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    whole = exported(digits, "format=safetensors", f"out={tmp_path / 'whole'}")
    method = mrl_experiments.load_method(digits)
    assert load_file(whole / "model.safetensors").keys() == method.state_dict().keys()
    images = json.loads((whole / "config.json").read_text())["images"]
    assert images == {"channels": 1, "size": 32, "center": 1.0, "mean": [0.5], "std": [0.5]}


TEXTS = ["red stripes", "a picture of checks in blue", "<|pad|> green", "a b c d e f g h i j k l m n o p q r"]


@pytest.mark.slow
def test_sentence_transformers_loads_a_text_tower_and_timm_the_image_tower(trained_runs, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    run = trained_runs["captions"]
    out = exported(run, f"out={tmp_path / 'pair'}")
    ours = mrl_experiments.load(run)
    for dim in (8, 16):
        theirs = library.SentenceTransformer(str(out), device="cpu", truncate_dim=dim, local_files_only=True)
        vectors = theirs.encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(vectors, ours.encode(TEXTS, dim), atol=1e-5)
    assert theirs.similarity_fn_name == "cosine" and theirs.max_seq_length == 16
    config = json.loads((out / "config.json").read_text())
    assert config["is_matryoshka"] and config["matryoshka_dimensions"] == [8, 16]
    image = timm.create_model(f"local-dir:{out / 'image'}", pretrained=True).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        np.testing.assert_allclose(unit(image(x).numpy()[:, :8]), ours.encode(x, 8), atol=1e-5)
    card = (out / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and '/image"' in card
    small = exported(run, f"out={tmp_path / 'small'}", "dim=8")
    assert library.SentenceTransformer(str(small), local_files_only=True).encode("red").shape == (8,)


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.slow
def test_sentence_transformers_loads_language_models(kind, trained_runs, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from transformers import AutoModel, AutoTokenizer

    run = trained_runs[kind]
    out = exported(run, f"out={tmp_path / kind}")
    ours, texts = mrl_experiments.load(run), ["word1 word2", "word33", "w"]
    theirs = library.SentenceTransformer(str(out), device="cpu", truncate_dim=8, local_files_only=True)
    vectors = theirs.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, ours.encode(texts, 8), atol=1e-5)
    tokens = AutoTokenizer.from_pretrained(out)(texts[0], return_tensors="pt")
    z = AutoModel.from_pretrained(out)(**tokens).last_hidden_state[0].detach().numpy()
    heads = Heads.load(out / "heads.safetensors")
    if kind == "causal":
        probabilities = torch.tensor(heads.logits(z[-1:], 8)).softmax(1)[0]
        np.testing.assert_allclose(ours.predict_proba(texts[0], 8), probabilities, atol=1e-5)


def test_an_adaptor_is_modules_to_append_or_the_end_of_a_model(trained_runs, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    run = trained_runs["adaptor"]
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    encoder = library.SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)])
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    expected = mrl_experiments.load(run, 8).encode(encoder.encode(["one", "one two"]))
    alone = library.SentenceTransformer(
        str(exported(run, f"out={tmp_path / 'alone'}")), local_files_only=True
    )
    joined = library.SentenceTransformer(modules=[*encoder, *alone], truncate_dim=8)
    typed = [f"out={tmp_path / 'whole'}", f"encoder={tmp_path / 'encoder'}", "dim=8"]
    whole = library.SentenceTransformer(str(exported(run, *typed)), local_files_only=True)
    for model in (joined, whole):
        vectors = model.encode(["one", "one two"], normalize_embeddings=True)
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert "<the encoder>" in (tmp_path / "alone" / "README.md").read_text()
    assert "<the encoder>" not in (tmp_path / "whole" / "README.md").read_text()


def test_pushing_needs_a_token_before_any_work_and_uploads_the_folder(
    digits, hub, tmp_path, monkeypatch, capsys
):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"no token(.|\n)*hf auth login"):
        exported(digits, "push=true", f"out={tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()
    uploaded = []

    class Hub:
        def __init__(self, **_):
            pass

        def create_repo(self, repository, *, private, exist_ok):
            uploaded.append((repository, private, exist_ok))
            return type("Made", (), {"repo_id": f"me/{repository}", "__str__": lambda _: "hub/me"})()

        def upload_folder(self, *, repo_id, folder_path, **_):
            uploaded.append((repo_id, folder_path))

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    exported(digits, "push=true", f"out={hub}", "dim=24", "license=mit", "repo=digits")
    assert uploaded == [("digits", True, True), ("me/digits", str(hub))]
    assert "uploaded: hub/me" in capsys.readouterr().out
    monkeypatch.setattr(Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match=r"was not uploaded to me/x: no network"):
        upload.upload(hub, "me/x", private=True)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["dim=10"], r"dim=10: not a dim of(.|\n)*\[12, 24, 48, 96\]"),
        (["dim=[12,24]"], "format=hub has one classifier"),
        (["format=torch_export", "int8=true"], "int8=true with format=onnx"),
        (["checkpoint=none"], "has no such checkpoint"),
    ],
)
def test_what_cannot_be_written_is_one_line(typed, message, digits, tmp_path):
    with pytest.raises(UserError, match=message):
        exported(digits, f"out={tmp_path / 'out'}", *typed)
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint_or_none_at_all(tmp_path):
    run = Run(tmp_path / "runs" / "x")
    run.folder.mkdir(parents=True)
    write_config(run.config_path, {g: {"name": g} for g in ("loss", "model", "data")} | {"seed": 0})
    with pytest.raises(UserError, match="no checkpoint"):
        exported(run)
    with pytest.raises(UserError, match="matches no run"):
        exported(Run(tmp_path / "runs" / "y"))


def test_a_missing_package_is_named_with_how_to_install_it(digits, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"format=onnx needs onnxruntime(.|\n)*pip install"):
        exported(digits, "format=onnx", f"out={tmp_path / 'out'}")


def test_networks_that_timm_cannot_express_are_refused_in_one_line():
    from mrl_experiments import NestedClassifier
    from mrl_experiments.data.loaders.augment import Augment
    from mrl_experiments.export.timm_folder import check_timm
    from mrl_experiments.loaded.inputs import ImageInputs
    from mrl_experiments.loaded.model import LoadedModel
    from mrl_experiments.losses.slimmable.slim import Slim
    from mrl_experiments.models.module_backbone import ModuleBackbone
    from mrl_experiments.models.timm_backbone import TimmBackbone

    def tiny(**options):
        return TimmBackbone(arch="test_resnet", name="tiny", channels=1, size=32, **options)

    slim = {"name": "slim", "dim": None, "dims": None, "weights": None, "label_smoothing": 0.0}
    own = ModuleBackbone(torch.nn.Flatten(), channels=1, size=32)
    odd = {
        "blurred": NestedClassifier(tiny(blurpool=True), 10),
        "slimmable": Slim(tiny(), 10, **slim, mode="switchable", widths=[0.5, 1.0]),
        "ModuleBackbone": NestedClassifier(own, 10, dims=[8, 1024]),
    }
    for why, method in odd.items():
        inputs = ImageInputs(1, 32, Augment())
        model = LoadedModel(Run(Path("x")), method, inputs, method.spec.dims[-1], None)
        with pytest.raises(UserError, match=f"timm cannot express run x: .*{why}") as error:
            check_timm(model)
        assert "format=onnx" in str(error.value)
