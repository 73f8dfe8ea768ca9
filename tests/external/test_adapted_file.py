"""Files of vectors that an adaptor has mapped."""

import numpy as np
import pytest
from composing import composed
from safetensors.numpy import load_file, save_file

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.construct import construct
from mrl_experiments.embeddings import Embeddings, shared_width
from mrl_experiments.errors import UserError
from mrl_experiments.external.adapted_file import adaptor_of, refuse_mixed, write_adapted
from mrl_experiments.external.import_run import import_run
from mrl_experiments.external.vector_file import read_matrix

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((30, 8)).astype(np.float32)
TEXTS = np.array([f"text {row}" for row in range(30)])


def adaptor(seed=0):
    matrix = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 8)))[0]
    return AdaptorFile({"matrix": matrix.astype(np.float32)}, (4, 8), "trained")


def source(form, folder):
    path = folder / f"base{form}"
    if form == ".npy":
        np.save(path, VECTORS)
    elif form == ".npz":
        np.savez(path, vectors=VECTORS, texts=TEXTS)
    elif form == ".safetensors":
        save_file({"embeddings": VECTORS}, path)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import feather, parquet

        table = pyarrow.table({"text": TEXTS, "embedding": [*VECTORS]})
        (parquet.write_table if form == ".parquet" else feather.write_feather)(table, str(path))
    return path


def texts_of(path):
    if path.suffix == ".npz":
        return np.load(path)["texts"].tolist()
    from mrl_experiments.external.vector_file import read_texts

    return read_texts(path, range(30))


@pytest.mark.parametrize("form", [".npy", ".npz", ".safetensors", ".parquet", ".arrow"])
def test_the_form_that_came_in_goes_out_with_the_digest(form, tmp_path):
    path, out = source(form, tmp_path), tmp_path / f"small{form}"
    assert write_adapted(adaptor(), path, out, dim=5) == 30
    np.testing.assert_allclose(read_matrix(out), (VECTORS @ adaptor().arrays["matrix"])[:, :5], atol=1e-6)
    assert adaptor_of(out) == adaptor().digest and adaptor_of(path) is None
    if form in (".npz", ".parquet", ".arrow"):
        assert texts_of(out) == TEXTS.tolist()
    with pytest.raises(UserError, match="mapped already"):
        write_adapted(adaptor(), out, tmp_path / f"again{form}")


def test_vectors_of_different_adaptors_are_never_mixed(tmp_path):
    path, new = source(".npy", tmp_path), tmp_path / "new.npy"
    np.save(new, VECTORS[::-1] + 1)
    for name, part, seed in (("a", path, 0), ("b", new, 1), ("c", new, 0)):
        write_adapted(adaptor(seed), part, tmp_path / f"{name}.npy")
    refuse_mixed([tmp_path / "a.npy", tmp_path / "c.npy"])
    for other in ("b.npy", "new.npy"):
        with pytest.raises(UserError, match="different adaptors"):
            refuse_mixed([tmp_path / "a.npy", tmp_path / other])
        options = [f"embeddings={tmp_path / 'a.npy'}", f"database={tmp_path / other}", f"root={tmp_path}"]
        with pytest.raises(UserError, match="different adaptors"):
            import_run(composed("evaluate", *options))
        with pytest.raises(UserError, match="different adaptors"):
            files = [f"data.base={tmp_path / 'a.npy'}", f"data.val={tmp_path / other}"]
            construct(composed("train", "data=vectors", *files).data)
    parts = [Embeddings(VECTORS, np.arange(30), None, {"adaptor": digest}) for digest in ("x", "y")]
    with pytest.raises(UserError, match="different adaptors"):
        shared_width(parts)


def test_what_does_not_fit_is_one_message(tmp_path):
    path = source(".npy", tmp_path)
    with pytest.raises(UserError, match=r"out=.*\.txt"):
        write_adapted(adaptor(), path, tmp_path / "x.txt")
    with pytest.raises(UserError, match="dim=9"):
        write_adapted(adaptor(), path, tmp_path / "x.npy", dim=9)
    np.save(tmp_path / "narrow.npy", VECTORS[:, :3])
    with pytest.raises(UserError, match="vectors of 3 dims"):
        write_adapted(adaptor(), tmp_path / "narrow.npy", tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_the_functions_of_the_page_map_as_the_adaptor(tmp_path):
    import re

    from commands import ROOT

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "vectors.md").read_text(), flags=re.DOTALL)
    names = {"np": np}
    exec("\n".join(blocks[1:]), names)
    adaptor().save(tmp_path / "a.safetensors")
    z = names["adapt"](VECTORS, tmp_path / "a.safetensors")
    np.testing.assert_allclose(z, adaptor().apply(VECTORS), atol=1e-6)
    mlp = {"matrix": np.eye(8), "mlp_in": RNG.standard_normal((8, 4)), "mlp_bias": RNG.standard_normal(4)}
    mlp["mlp_out"] = RNG.standard_normal((4, 8))
    deep = AdaptorFile({key: value.astype(np.float32) for key, value in mlp.items()}, (4, 8), "trained")
    deep.save(tmp_path / "deep.safetensors")
    np.testing.assert_allclose(
        names["adapt"](VECTORS, tmp_path / "deep.safetensors"), deep.apply(VECTORS), atol=1e-5
    )
    index = names["index_of"](tmp_path / "a.safetensors", dim=4)
    index.add(VECTORS)
    cut = z[:, :4] / np.linalg.norm(z[:, :4], axis=1, keepdims=True)
    np.testing.assert_array_equal(index.search(VECTORS, 3)[1][:, 0], (cut @ cut.T).argmax(axis=1))
    assert load_file(tmp_path / "a.safetensors")["matrix"].shape == (8, 8)
