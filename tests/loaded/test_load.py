"""A run as an object: inputs of every form give the vectors that embed.py stored, and one line where not."""

import numpy as np
import pytest
import torch
from composing import composed
from PIL import Image

import mrl_experiments
from mrl_experiments.build import stored_data, trusted_config
from mrl_experiments.embed import embed
from mrl_experiments.embeddings import load as stored
from mrl_experiments.errors import UserError
from mrl_experiments.runs import Run


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def digits(trained_runs):
    return mrl_experiments.load(trained_runs["digits"].folder, dim=24)


@pytest.fixture(scope="module")
def val(digits):
    """Return pixels (N, 32, 32, 1) uint8, and labels (N,)."""
    with stored_data(digits.run, trusted_config(digits.run)) as data:
        samples = data.source.open("val")
    return np.stack([pixels for pixels, _ in samples]), np.array([label for _, label in samples])


def test_vectors_and_classes_are_those_of_the_embeddings(digits, val):
    run, (pixels, labels) = digits.run, val
    embed(composed("embed", f"run={run.name}", f"root={run.root}", "splits=[val]", "trainer=cpu"))
    kept = stored(run.embeddings("digits", "val"))
    np.testing.assert_array_equal(kept.labels, labels)
    for dim in digits.dims:
        np.testing.assert_allclose(digits.encode(pixels, dim), unit(kept.features[:, :dim]), atol=1e-5)
    np.testing.assert_allclose(digits.encode(pixels), unit(kept.features[:, :24]), atol=1e-5)
    np.testing.assert_allclose(digits.encode(pixels, normalize=False), kept.features[:, :24], atol=1e-4)
    logits = kept.heads.logits(kept.features, 24)
    np.testing.assert_allclose(digits.predict_proba(pixels), torch.tensor(logits).softmax(1), atol=1e-4)
    assert digits.classes == [str(digit) for digit in range(10)]
    named = digits.predict(pixels)
    assert named == [str(label) for label in logits.argmax(1)] and np.mean(named == labels.astype(str)) > 0.8


def test_every_form_of_an_image_gives_the_same_vector(digits, val, tmp_path):
    (pixels, _), path = val, tmp_path / "digit.png"
    image = Image.fromarray(pixels[0, :, :, 0])
    image.save(path)
    tensor = torch.from_numpy(pixels[0]).permute(2, 0, 1)
    expected = digits.encode(pixels[:3])[0]
    ones = [path, str(path), image, image.convert("RGB"), pixels[0], pixels[0, :, :, 0], tensor, tensor[0]]
    for one in [*ones, digits.preprocess(image)[0]]:
        vector = digits.encode(one)
        assert vector.shape == (24,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        assert digits.predict(one) == digits.predict([one])[0]
    batches = [ones, pixels[:1, :, :, 0], tensor[None], [pixels[0]]]
    for batch in [*batches, digits.preprocess([path]), iter([image])]:
        vectors = digits.encode(batch)
        np.testing.assert_allclose(vectors, np.tile(expected, (len(vectors), 1)), atol=1e-5)
    np.testing.assert_array_equal(digits.encode_query(path), digits.encode_document(path))
    assert digits.encode([]).shape == (0, 24)


def test_images_are_cut_and_normalized_as_the_loader_of_the_run_does(tmp_path):
    from mrl_experiments.data.loaders.augment import Augment
    from mrl_experiments.data.loaders.torch_loader import Augmented
    from mrl_experiments.loaded.inputs import ImageInputs

    augment = Augment(center=0.875, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    inputs = ImageInputs(3, 32, augment)
    expected = Augmented([(tmp_path / "image.png", 0)], 3, augment, 32, None)[0][0].permute(2, 0, 1)
    for one in (pixels, Image.fromarray(pixels), tmp_path / "image.png"):
        assert torch.equal(inputs.prepare([one])[0], expected)
    grey = inputs.prepare([pixels[:, :, 0], Image.fromarray(pixels[:, :, 0])])
    assert grey.shape == (2, 3, 32, 32) and torch.equal(grey[0], grey[1])


def test_an_older_run_without_names_of_classes_gives_their_numbers():
    from commands import ROOT

    model = mrl_experiments.load(ROOT / "tests" / "stored_run", 8)
    image = np.zeros((32, 32), np.uint8)
    assert model.classes is None and isinstance(model.predict(image), int) and "dim=8" in repr(model)


def test_a_dual_encoder_embeds_images_and_texts_as_it_did(trained_runs):
    run = trained_runs["captions"]
    model = mrl_experiments.load(run.folder)
    embed(composed("embed", f"run={run.name}", f"root={run.root}", "trainer=cpu"))
    with stored_data(run, trusted_config(run)) as data:
        pictures = [path for path, _ in data.source.open("val")]
        used = sorted({label for _, label in data.source.open("val")})
        texts = [text for label in used for text in data.captioned.captions[label]]
    for split, inputs in (("val", pictures), ("val_text", texts)):
        features = stored(run.embeddings("image_text_folder", split)).features
        np.testing.assert_allclose(model.encode(inputs, 8), unit(features[:, :8]), atol=1e-5)
    assert model.encode(texts[0]).shape == (16,) and model.encode(["", "red"]).shape == (2, 16)
    with pytest.raises(UserError, match="no classifiers"):
        model.predict(pictures)
    with pytest.raises(UserError, match="an input that is a"):
        model.encode([texts[0], pictures[0]])


def test_a_causal_model_embeds_a_text_by_its_last_token_and_predicts_the_next(trained_runs):
    model = mrl_experiments.load(trained_runs["causal"].folder)
    texts = ["word1 word2", "word33", "word1 word2 word3 word4 word5 word6 word7 word8 word9"]
    for text, vector in zip(texts, model.encode(texts, 8), strict=True):
        (tokens,) = model.inputs.tokenizer.encode([text])
        with torch.no_grad():
            z = model.method.embed(torch.from_numpy(tokens[-8:])[None])[0, -1]
        np.testing.assert_allclose(vector, unit(z[None, :8].numpy())[0], atol=1e-5)
        label = int(model.method.logits(z)[16].argmax())
        assert model.predict(text) == model.inputs.tokenizer.decode([label])
    with pytest.raises(UserError, match="has no token"):
        model.encode(["word1", ""])


def test_a_masked_model_predicts_what_stands_in_place_of_the_mask(trained_runs):
    model = mrl_experiments.load(trained_runs["masked"].folder)
    tokenizer = model.inputs.tokenizer
    before, after = tokenizer.encode(["word1 ", " word5"])
    tokens = np.concatenate([before, [tokenizer.mask], after])[:8]
    with torch.no_grad():
        z = model.method.embed(torch.from_numpy(tokens)[None])[0]
    np.testing.assert_allclose(
        model.encode("word1 <|mask|> word5"), unit(z.mean(0)[None].numpy())[0], atol=1e-5
    )
    label = int(model.method.logits(z[list(tokens).index(tokenizer.mask)])[8].argmax())
    assert model.predict(["word1 <|mask|> word5"], 8) == [tokenizer.decode([label])]
    with pytest.raises(UserError, match="without the token to predict"):
        model.predict("word1")


def test_an_adaptor_maps_vectors(trained_runs):
    from mrl_experiments.adaptor_file import AdaptorFile

    run = trained_runs["adaptor"]
    model = mrl_experiments.load(run.folder, 8)
    x = np.random.default_rng(1).standard_normal((5, 16), dtype=np.float32)
    expected = unit(AdaptorFile.load(run.adaptor).apply(x)[:, :8])
    for given in (x, torch.from_numpy(x), x.tolist()):
        np.testing.assert_allclose(model.encode(given), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode(x[0]), expected[0], atol=1e-6)
    with pytest.raises(UserError, match=r"vectors \(N, 16\)"):
        model.encode(x[:, :3])


def test_what_cannot_be_used_is_one_line(digits, tmp_path):
    for missing in ("outputs/runs/none", str(tmp_path)):
        for make in (Run, mrl_experiments.load, mrl_experiments.load_method):
            with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
                make(missing)
    for dim in (7, 0, 1000):
        with pytest.raises(UserError, match=rf"dim={dim}: not a dim of(.|\n)*\[12, 24"):
            digits.encode(np.zeros((32, 32), np.uint8), dim)
    with pytest.raises(UserError, match="not a dim"):
        mrl_experiments.load(digits.run, dim=7)
    for odd in (3, [None], np.zeros((32, 32)), np.zeros((2, 2, 2, 2, 2), np.uint8), torch.zeros(5, 1, 8, 8)):
        with pytest.raises(UserError, match=r"an input that|prepared ones"):
            digits.encode(odd)
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(UserError, match=r"no\.png cannot be read"):
        digits.encode(tmp_path / "no.png")
