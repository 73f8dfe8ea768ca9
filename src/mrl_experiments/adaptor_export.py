"""Adaptors in the forms of other libraries: modules of sentence-transformers, and an index of FAISS."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors

MODULES, MODEL, SETTINGS = "modules.json", "config.json", "config_sentence_transformers.json"
PACKAGE = "sentence_transformers.models"  # where modules lie in all versions, as folders on the hub name them
NAMES = {"cosine": "cosine", "inner_product": "dot", "l2": "euclidean"}
Array = NDArray[np.float32]


def write_sentence_transformers(
    adaptor: AdaptorFile,
    out: Path,
    encoder: Path | None = None,
    dim: int | None = None,
    *,
    queries: bool = False,
) -> None:
    """Write an adaptor as modules that sentence-transformers loads, after those of an encoder if it is given.

    A linear adaptor is one `Dense` without bias. An MLP is two, with what `Dense` has: the first computes its
    hidden neurons and the positive and the negative part of x, the second adds them up. `Normalize` stands
    before an MLP, whose input is a direction, and, by cosine, at the end. The configuration names the trained
    dims, which servers such as vLLM read as those that may be asked for.

    Args:
        adaptor: The map.
        out: A new folder.
        encoder: A folder that sentence-transformers has saved; None: the folder holds the adaptor alone.
        dim: How many features the model gives if nothing else is asked for (`truncate_dim`); None: all.
        queries: With the map of queries, where they have one of their own.

    Raises:
        UserError: If `out` is there, or the encoder is no such folder.
    """
    if out.exists():
        raise UserError(f"{out} is there already", expected="the name of a new folder")
    modules = [] if encoder is None else _modules_of(encoder)
    with _new_folder(out) as folder:
        if encoder is not None:
            shutil.copytree(encoder, folder, dirs_exist_ok=True)
        for kind, config, tensors in _stages(adaptor, queries):
            place, name = len(modules), f"{len(modules)}_{kind}"
            (folder / name).mkdir()
            _update(folder / name / MODEL, config)
            if tensors:
                save_file(tensors, folder / name / "model.safetensors")
            modules.append({"idx": place, "name": str(place), "path": name, "type": f"{PACKAGE}.{kind}"})
        (folder / MODULES).write_text(json.dumps(modules, indent=2), "utf-8")
        dims = [*adaptor.dims]
        nested = {"is_matryoshka": True, "matryoshka_dimensions": dims, "adaptor": adaptor.digest}
        first = {} if dim is None else {"truncate_dim": dim}
        _update(folder / SETTINGS, {"similarity_fn_name": NAMES[adaptor.similarity], **nested, **first})
        if (folder / MODEL).exists():  # of the transformer
            _update(folder / MODEL, nested)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block ends well."""
    with explain_os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = Path(temporary) / out.name
            folder.mkdir()
            yield folder
            folder.rename(out)


def _modules_of(encoder: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads((encoder / MODULES).read_text("utf-8"))
        return [{**module, "idx": place} for place, module in enumerate(modules)]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"encoder={encoder} holds no {MODULES} that can be read",
            expected="a folder of sentence-transformers",
            remedy="write one: SentenceTransformer(...).save_pretrained('folder')",
        ) from error


def _update(path: Path, more: Mapping[str, Any]) -> None:
    """Add to a JSON object of another library, which would not know a checksum of ours."""
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**before, **more}, indent=2), "utf-8")


def _stages(
    adaptor: AdaptorFile, queries: bool
) -> Sequence[tuple[str, dict[str, Any], dict[str, torch.Tensor]]]:
    """Return class, configuration and tensors of each module."""
    arrays = adaptor.arrays
    normalize: tuple[str, dict[str, Any], dict[str, torch.Tensor]] = ("Normalize", {}, {})
    if "mlp_in" not in arrays:
        name = "query_matrix" if queries and adaptor.two_maps else "matrix"
        return [_dense(arrays[name])] + [normalize] * (adaptor.similarity == "cosine")
    if adaptor.similarity != "cosine":
        raise UserError(
            f"an MLP for similarity={adaptor.similarity} has no form in sentence-transformers",
            expected="a linear or orthogonal adaptor, or one by cosine",
        )
    eye = np.eye(adaptor.width, dtype=np.float32)
    first = np.concatenate([arrays["mlp_in"], eye, -eye], axis=1)
    bias = np.concatenate([arrays["mlp_bias"], np.zeros(2 * adaptor.width, np.float32)])
    second = np.concatenate([arrays["mlp_out"], arrays["matrix"], -arrays["matrix"]])
    return [normalize, _dense(first, bias), _dense(second), normalize]


def _dense(matrix: Array, bias: Array | None = None) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Return the layer x @ matrix, or of a bias relu(x @ matrix + bias)."""
    activation = "linear.Identity" if bias is None else "activation.ReLU"
    config = {
        "in_features": len(matrix),
        "out_features": matrix.shape[1],
        "bias": bias is not None,
        "activation_function": f"torch.nn.modules.{activation}",
    }
    tensors = {"linear.weight": torch.from_numpy(np.ascontiguousarray(matrix.T))}
    return "Dense", config, tensors | ({} if bias is None else {"linear.bias": torch.from_numpy(bias)})


def faiss_index(adaptor: AdaptorFile, dim: int | None = None) -> Any:
    """Return an empty exact FAISS index that maps what is added to it and searched in it.

    Args:
        adaptor: A linear one.
        dim: The first features that are kept; None: all.

    Returns:
        A `faiss.IndexPreTransform` of `IndexFlatIP`, or of `IndexFlatL2` by L2.

    Raises:
        UserError: If the adaptor is an MLP, or queries have a map of their own.
    """
    import faiss

    if "mlp_in" in adaptor.arrays:
        raise UserError(
            "this adaptor is an MLP, which FAISS has no transformation for",
            expected="an orthogonal or linear one",
            remedy="write the mapped vectors to a .npy file and add them to an index: out=small.npy",
        )
    if adaptor.two_maps:
        raise UserError(
            "queries of this adaptor have a map of their own, and an index of FAISS has one for all",
            expected="an adaptor of model.two_maps=false",
            remedy="write the mapped vectors of both, side=documents and side=queries",
        )
    dim = dim or adaptor.width
    transform = faiss.LinearTransform(adaptor.width, dim, False)
    columns = np.ascontiguousarray(adaptor.arrays["matrix"][:, :dim].T)
    faiss.copy_array_to_vector(columns.ravel(), transform.A)
    transform.is_trained = True
    index = faiss.IndexPreTransform(
        faiss.IndexFlatL2(dim) if adaptor.similarity == "l2" else faiss.IndexFlatIP(dim)
    )
    if adaptor.similarity == "cosine":
        index.prepend_transform(faiss.NormalizationTransform(dim))
    index.prepend_transform(transform)
    return index
