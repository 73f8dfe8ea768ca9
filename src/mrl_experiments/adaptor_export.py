"""Adaptors in the forms of other libraries: modules of sentence-transformers, and an index of FAISS."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.errors import UserError
from mrl_experiments.files import atomic_folder

MODULES, MODEL, SETTINGS = "modules.json", "config.json", "config_sentence_transformers.json"
PACKAGE = "sentence_transformers.models"  # where modules lie in all versions, as folders on the hub name them
NAMES = {"cosine": "cosine", "inner_product": "dot", "l2": "euclidean"}
Array = NDArray[np.float32]
Module = tuple[str, dict[str, Any], dict[str, torch.Tensor]]  # class, configuration, tensors


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
    before = [] if encoder is None else _modules_of(encoder)
    with atomic_folder(out) as folder:
        if encoder is not None:
            shutil.copytree(encoder, folder, dirs_exist_ok=True)
        write_modules(folder, before, _stages(adaptor, queries))
        nested = {"is_matryoshka": True, "matryoshka_dimensions": [*adaptor.dims], "adaptor": adaptor.digest}
        first = {} if dim is None else {"truncate_dim": dim}
        update_json(folder / SETTINGS, {"similarity_fn_name": NAMES[adaptor.similarity], **nested, **first})
        if (folder / MODEL).exists():  # of the transformer
            update_json(folder / MODEL, nested)


def write_modules(folder: Path, before: Sequence[Mapping[str, Any]], modules: Sequence[Module]) -> None:
    """Write modules of sentence-transformers, each into a folder of its own, and list them behind others."""
    listed = [*before]
    for kind, config, tensors in modules:
        place, name = len(listed), f"{len(listed)}_{kind}"
        update_json(folder / name / MODEL, config)
        if tensors:
            save_file(tensors, folder / name / "model.safetensors")
        listed.append({"idx": place, "name": str(place), "path": name, "type": f"{PACKAGE}.{kind}"})
    (folder / MODULES).write_text(json.dumps(listed, indent=2), "utf-8")


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


def update_json(path: Path, more: Mapping[str, Any]) -> None:
    """Add to a JSON object of another library, which would not know a checksum of ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**before, **more}, indent=2), "utf-8")


def _stages(adaptor: AdaptorFile, queries: bool) -> Sequence[Module]:
    arrays = adaptor.arrays
    normalize: Module = ("Normalize", {}, {})
    if "mlp_in" not in arrays:
        name = "query_matrix" if queries and adaptor.two_maps else "matrix"
        return [dense(arrays[name])] + [normalize] * (adaptor.similarity == "cosine")
    if adaptor.similarity != "cosine":
        raise UserError(
            f"an MLP for similarity={adaptor.similarity} has no form in sentence-transformers",
            expected="a linear or orthogonal adaptor, or one by cosine",
        )
    eye = np.eye(adaptor.width, dtype=np.float32)
    first = np.concatenate([arrays["mlp_in"], eye, -eye], axis=1)
    bias = np.concatenate([arrays["mlp_bias"], np.zeros(2 * adaptor.width, np.float32)])
    second = np.concatenate([arrays["mlp_out"], arrays["matrix"], -arrays["matrix"]])
    return [normalize, dense(first, bias), dense(second), normalize]


def dense(matrix: Array, bias: Array | None = None) -> Module:
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
