"""`export.py`: a run as a folder that others load without this project's code."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save_model
from torch import Tensor

from mrl_experiments.adaptor_export import write_sentence_transformers
from mrl_experiments.build import stored_data, trusted_config
from mrl_experiments.cost import network_macs
from mrl_experiments.errors import UserError
from mrl_experiments.export.card import write_card
from mrl_experiments.export.folder import write_folder
from mrl_experiments.export.graphs import EMBEDDING, LOGITS, Graph, graphs
from mrl_experiments.export.onnx_file import check_packages, quantize, write_onnx
from mrl_experiments.export.program import write_program
from mrl_experiments.export.text_folder import write_text
from mrl_experiments.export.timm_folder import HEADS, check_timm, write_timm
from mrl_experiments.export.truncated import truncate
from mrl_experiments.export.upload import check_token, upload
from mrl_experiments.files import sha256, write_json
from mrl_experiments.loaded.inputs import ImageInputs, ImageOrTextInputs, TextInputs, VectorInputs
from mrl_experiments.loaded.model import LoadedModel, load
from mrl_experiments.runs import ID, find_run
from mrl_experiments.search.same_rows import evenly_spaced
from mrl_experiments.trust import Trust

DESCRIPTION, TOKENIZER, WEIGHTS, QUERIES = "config.json", "tokenizer.json", "model.safetensors", "queries"


@dataclass(frozen=True)
class Job:
    """What a command asks for.

    Attributes:
        cfg: Its options.
        model: The run.
        dims: The dims, or None where they are left open.
    """

    cfg: DictConfig
    model: LoadedModel
    dims: Sequence[int] | None

    @property
    def out(self) -> Path:
        """The folder."""
        cfg = self.cfg
        return Path(cfg.out or Path(cfg.root) / "exports" / f"{self.model.run.name}-{cfg.format}")

    @property
    def dim(self) -> int:
        """The one dim, by default the largest.

        Raises:
            UserError: For several.
        """
        if self.dims is None:
            return self.model.width
        if len(self.dims) > 1:
            raise UserError(
                f"dim={list(self.dims)}: format={self.cfg.format} has one classifier",
                expected="one dim; the classifiers of all dims are written beside it",
            )
        return self.dims[0]

    @property
    def outputs(self) -> list[str]:
        """What a graph gives.

        Raises:
            UserError: For logits of a run without classifiers.
        """
        if self.cfg.output == LOGITS and self.model.heads is None:
            raise UserError(
                f"output={LOGITS}: run {self.model.run.name} has no classifiers", expected=EMBEDDING
            )
        return [self.cfg.output] if self.cfg.output else [EMBEDDING, *([LOGITS] if self.model.heads else [])]


def export(cfg: DictConfig) -> Path:
    """Write a run in a format, and upload it where asked for; what is there already is not written again.

    Returns:
        The folder.

    Raises:
        UserError: For no run or several, a run without a checkpoint, a dim that is not nested, a format that
            cannot hold it, a package that is missing, a folder of something else.
    """
    if not cfg.run:
        raise UserError("run= is not given", expected="the name of a run under <root>/runs")
    run, (write, use) = find_run(cfg.root, cfg.run), FORMATS[cfg.format]
    if cfg.push:
        check_token()
    model = load(run, trust=cfg.trust, checkpoint=cfg.checkpoint, weights=cfg.weights)
    job = Job(cfg, model, _dims(cfg, model))
    _check(job)
    out = job.out
    if write_folder(out, _meaning(job), lambda folder: write(job, folder), overwrite=cfg.overwrite):
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{out}: format={cfg.format}, {size / 1e6:.1f} MB", flush=True)
    else:
        print(f"{out}: complete already", flush=True)
    print(f"load it: {use.format(folder=out, file=_first(out))}", flush=True)
    if cfg.push:
        print(f"uploaded: {upload(out, cfg.repo or run.name, private=cfg.private)}", flush=True)
    return out


def _dims(cfg: DictConfig, model: LoadedModel) -> list[int] | None:
    if cfg.dim is None:
        return None
    named = [cfg.dim] if isinstance(cfg.dim, int) else list(cfg.dim)
    return [model.checked(dim) for dim in dict.fromkeys(named)]


def _meaning(job: Job) -> dict[str, Any]:
    """Return by what the same export is known again; `rows` may change, and the card with them."""
    cfg, run = job.cfg, job.model.run
    rows = hashlib.sha256()
    for path in sorted((run.folder / "results").glob("*.csv")) if cfg.format == "hub" else []:
        rows.update(path.read_bytes())
    return {
        "run": run.name,
        "id": run.config.get(ID),
        "checkpoint": sha256(run.checkpoint_at(cfg.checkpoint)),
        "weights": cfg.weights,
        "format": cfg.format,
        "dims": None if job.dims is None else list(job.dims),
        "output": cfg.output,
        "int8": cfg.int8,
        "license": cfg.license,
        "encoder": cfg.encoder,
        "rows": rows.hexdigest()[:16],
    }


def _first(folder: Path) -> str:
    files = sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".pt2"))
    return files[0] if files else WEIGHTS


def nested(model: LoadedModel) -> dict[str, Any]:
    """Return the keys of a config.json by which servers know nested dims."""
    return {"is_matryoshka": len(model.dims) > 1, "matryoshka_dimensions": list(model.dims)}


def _check(job: Job) -> None:
    """Raise UserError where the format cannot hold the run, before anything is done."""
    cfg, model, run = job.cfg, job.model, job.model.run
    if cfg.encoder and cfg.format == "hub" and model.adaptor is None:
        raise UserError(f"encoder={cfg.encoder}: run {run.name} is no adaptor", remedy="leave out encoder=")
    if cfg.format == "timm" and not isinstance(model.inputs, ImageInputs):
        raise UserError(f"format=timm: run {run.name} reads no images alone", remedy="format=hub")
    if cfg.format == "torch_export" and cfg.int8:
        raise UserError("int8=true with format=torch_export", expected="int8=true with format=onnx")
    if cfg.format == "safetensors" and job.dims is not None and model.heads is None:
        raise UserError(
            f"dim={job.dim}: run {run.name} has no classifiers to truncate", expected="dim=null, all weights"
        )
    if cfg.format == "onnx":
        check_packages()
    if cfg.format in ("hub", "timm"):
        if not isinstance(model.inputs, TextInputs | VectorInputs):
            check_timm(model)
        assert job.dim
    if cfg.format in ("onnx", "torch_export"):
        assert job.outputs


def _write_hub(job: Job, folder: Path) -> None:
    model, trust = job.model, job.cfg.trust
    if model.adaptor is not None:
        _write_adaptor(job, folder)
    elif isinstance(model.inputs, TextInputs | ImageOrTextInputs):
        write_text(model, folder, job.dim, nested(model))
        if isinstance(model.inputs, ImageOrTextInputs):
            (folder / "image").mkdir()
            write_timm(model, folder / "image", job.dim, nested(model))
    else:
        write_timm(model, folder, job.dim, nested(model))
    told = {"name": job.out.name, "licence": job.cfg.license, "trust": trust}
    write_card(model, folder, job.dim, **told, encoded=bool(job.cfg.encoder))


def _write_adaptor(job: Job, folder: Path) -> None:
    """Write modules of sentence-transformers; where queries have a map of their own, theirs in a folder."""
    adaptor, encoder = job.model.adaptor, Path(job.cfg.encoder).expanduser() if job.cfg.encoder else None
    assert adaptor is not None
    dim = None if job.dims is None else job.dim
    folder.rmdir()  # which is made anew
    write_sentence_transformers(adaptor, folder, encoder, dim)
    if adaptor.two_maps:
        write_sentence_transformers(adaptor, folder / QUERIES, encoder, dim, queries=True)


def _write_graphs(job: Job, folder: Path, write: Callable[[Graph, Path], None], suffix: str) -> None:
    """Write a file for each tower and dim, and what else is needed to use them."""
    found = list(graphs(job.model, job.dims, job.outputs))
    for graph in found:
        print(_told(job.model, graph), flush=True)
        write(graph, folder / f"{graph.name}{suffix}")
    _describe(job, folder, found)


def _told(model: LoadedModel, graph: Graph) -> str:
    if not graph.cut:
        return f"exporting {graph.name}"
    (images,) = graph.example.values()
    with torch.no_grad():
        whole = network_macs(lambda: model.method.embed(images[:1]))
        left = network_macs(lambda: graph.module.module.backbone(images[:1]))  # type: ignore[union-attr,operator]
    return (
        f"exporting {graph.name}: its last layers ({len(graph.cut)}) compute the first features alone, "
        f"{left / 1e6:,.2f} of {whole / 1e6:,.2f} M multiply-adds"
    )


def _describe(job: Job, folder: Path, found: Sequence[Graph]) -> None:
    model = job.model
    inputs = model.inputs.images if isinstance(model.inputs, ImageOrTextInputs) else model.inputs
    description: dict[str, Any] = {"run": model.run.name, **nested(model), "classes": model.classes}
    description["files"] = {
        graph.name: {"inputs": [*graph.example], "outputs": [*graph.outputs]} for graph in found
    }
    if isinstance(inputs, ImageInputs):
        augment = inputs.augment
        description["images"] = {
            "channels": inputs.channels, "size": inputs.size, "center": augment.center,
            "mean": list(augment.mean), "std": list(augment.std),
        }  # fmt: skip
    texts = model.inputs.texts if isinstance(model.inputs, ImageOrTextInputs) else model.inputs
    if isinstance(texts, TextInputs):
        (folder / TOKENIZER).write_text(texts.tokenizer.content, encoding="utf-8")
        description["texts"] = {"length": texts.length, "pad": texts.tokenizer.pad}
    write_json(folder / DESCRIPTION, description)


def _write_onnx(job: Job, folder: Path) -> None:
    def write(graph: Graph, path: Path) -> None:
        write_onnx(graph, path)
        if job.cfg.int8:
            quantize(graph, path, path.with_name(f"{path.stem}-int8.onnx"), calibration)

    calibration = None
    if job.cfg.int8 and isinstance(job.model.inputs, ImageInputs):
        calibration = trained_images(job.model, job.cfg.calibration, job.cfg.trust, job.cfg.cache)
    _write_graphs(job, folder, write, ".onnx")


def trained_images(
    model: LoadedModel, most: int, trust: Trust = False, cache: str | None = None
) -> list[Tensor]:
    """Return batches of images that a run was trained on, spread evenly, as validation sees them.

    Raises:
        UserError: If they are not there.
    """
    with stored_data(model.run, trusted_config(model.run, trust), cache) as data:
        samples = data.source.open("train")
        items = [samples[int(row)][0] for row in evenly_spaced(len(samples), most)]
        return [batch for _, batch in model.inputs.batches(items, 32)]


def _write_weights(job: Job, folder: Path) -> None:
    """Write all tensors of the method, or of what `truncate` makes of it, and the classifiers."""
    method = job.model.method
    save_model(method if job.dims is None else truncate(method, job.dim), str(folder / WEIGHTS))
    if job.model.heads is not None:
        job.model.heads.save(folder / HEADS)
    _describe(job, folder, [])


# How a run is written into a folder, and a line that loads it.
FORMATS: Mapping[str, tuple[Callable[[Job, Path], None], str]] = {
    "hub": (_write_hub, "see {folder}/README.md"),
    "timm": (
        lambda job, folder: write_timm(job.model, folder, job.dim, nested(job.model)),
        'timm.create_model("local-dir:{folder}", pretrained=True)',
    ),
    "onnx": (_write_onnx, 'onnxruntime.InferenceSession("{folder}/{file}")'),
    "torch_export": (
        lambda job, folder: _write_graphs(job, folder, write_program, ".pt2"),
        'torch.export.load("{folder}/{file}").module()',
    ),
    "safetensors": (_write_weights, 'safetensors.torch.load_file("{folder}/{file}")'),
}
