"""The model card of an exported folder: README.md with the front matter that hubs read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.build import stored_data, trusted_config
from mrl_experiments.errors import UserError
from mrl_experiments.export import quality
from mrl_experiments.export.timm_folder import standardization
from mrl_experiments.loaded.inputs import ImageInputs, ImageOrTextInputs, SequenceInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.trust import Trust

INTERVALS = "In brackets: 95 % intervals over samples (Wilson's, of shares) or queries, where they are known."
CARD, FIGURE, TEMPLATE = "README.md", "quality_by_dim.png", Path(__file__).with_name("card.md")

TIMM = """import timm, torch{imports}
from PIL import Image

model = timm.create_model("local-dir:{place}", pretrained=True).eval()  # on a hub: hf-hub:<repository>
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
pixels = transform(Image.open("image.png").convert("{mode}"))[None]
with torch.inference_mode():
    {line}"""
CLASSES = """print(model.pretrained_cfg["label_names"][model(pixels).argmax()])  # by {dim} dims
    features = model.forward_head(model.forward_features(pixels), pre_logits=True)[:, :{dim}]"""
STANDARDIZED = """
    norm = safetensors.torch.load_file("{place}/standardization.safetensors")
    features = (features - norm["mean"][:{dim}]) * norm["factor"][:{dim}]"""
NO_CLASSES = "features = model(pixels)[:, :{dim}]"
TEXT = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{place}", truncate_dim={dim})
vectors = model.encode(["a text"], normalize_embeddings=True)"""


ADAPTOR = """from sentence_transformers import SentenceTransformer

encoder, adaptor = SentenceTransformer("<the encoder>"), SentenceTransformer("{place}")
model = SentenceTransformer(modules=[*encoder, *adaptor], truncate_dim={dim})
vectors = model.encode(["a text"], normalize_embeddings=True)"""


def write_card(
    model: LoadedModel,
    folder: Path,
    dim: int,
    *,
    name: str,
    licence: str | None,
    trust: Trust = False,
    encoded: bool = False,
) -> None:
    """Write the card and, where result rows say how good the run is, the figure.

    Args:
        model: The run.
        folder: That of the export, while it is written.
        dim: Of the classifier.
        name: What the folder is called in the end.
        licence: Of the weights, as hubs call it, or None.
        trust: As in `load`.
        encoded: Whether an adaptor stands behind its encoder.
    """
    found = quality.columns(model.run) or quality.validated(model.run, model.dims)
    shares = [column for column in found if quality.are_shares(column)]
    drawn = bool(shares) and quality.draw(shares, folder / FIGURE, model.run.name)
    template = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    text = template.render(
        name=_plain(model.run.name),
        dims=model.dims,
        licence=licence,
        table=quality.table(found) if found else "",
        figure=FIGURE if drawn else "",
        intervals=INTERVALS if any(map(quality.has_intervals, found)) else "",
        **_use(model, dim, _plain(name), encoded),
        **_training(model, trust),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _use(model: LoadedModel, dim: int, place: str, encoded: bool) -> dict[str, Any]:
    """Return what depends on the kind of model: library, task, what it is, how it is loaded."""
    if isinstance(model.inputs, ImageInputs):
        standardized = standardization(model) is not None
        line = (CLASSES if model.classes else NO_CLASSES) + (STANDARDIZED if standardized else "")
        line = line.format(dim=dim, place=place)
        mode = "RGB" if model.inputs.channels == 3 else "L"
        return {
            "library": "timm",
            "pipeline": "image-classification" if model.heads else "image-feature-extraction",
            "tags": ["timm"],
            "what": "An image model with nested features.",
            "usage": TIMM.format(
                place=place, mode=mode, line=line, imports=", safetensors.torch" if standardized else ""
            ),
            "notes": _timm_notes(model, dim),
        }
    if model.adaptor is not None:
        return {
            "library": "sentence-transformers",
            "pipeline": "sentence-similarity",
            "tags": ["sentence-transformers", "adaptor"],
            "what": "A map of another model's vectors, after which their prefixes serve.",
            "usage": (TEXT if encoded else ADAPTOR).format(place=place, dim=dim),
            "notes": _adaptor_notes(model.adaptor),
        }
    both = isinstance(model.inputs, ImageOrTextInputs)
    kind = "A language model" if isinstance(model.inputs, SequenceInputs) else "A text encoder"
    return {
        "library": "sentence-transformers",
        "pipeline": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction"],
        "what": "A pair of encoders of images and texts in one space."
        if both
        else f"{kind} with nested features.",
        "usage": TEXT.format(place=place, dim=dim),
        "notes": _text_notes(both),
    }


def _adaptor_notes(adaptor: AdaptorFile) -> Sequence[str]:
    notes = [f"Adaptor {adaptor.digest}: vectors are comparable where those of their adaptors are equal."]
    if adaptor.two_maps:
        notes.append("The folder maps documents; `queries/` maps queries.")
    return notes


def _timm_notes(model: LoadedModel, dim: int) -> Sequence[str]:
    standardized = standardization(model) is not None
    tied = model.heads is not None and model.heads.tied and not standardized
    notes = ["`config.json` holds `matryoshka_dimensions`, mean, deviation and size of the images."]
    if model.heads:
        notes.append(
            f"timm's classifier reads the first {dim} features; `heads.safetensors` has that of each dim "
            "(`weight.<dim>`, `bias.<dim>`" + ("; tied: dim m reads the first m columns)." if tied else ").")
        )
    if standardized:
        notes.append(
            "The classifiers read timm's features as they are; vectors are to be standardized by "
            "`standardization.safetensors`, as above."
        )
    return notes


def _text_notes(both: bool) -> Sequence[str]:
    notes = ["Vectors are cut before they get length one: `normalize_embeddings=True`."]
    if both:
        notes.append(
            'The image encoder is `timm.create_model("local-dir:<folder>/image", pretrained=True)`; '
            "called with images, it gives their vectors."
        )
    return notes


def _training(model: LoadedModel, trust: Trust) -> dict[str, Any]:
    config = model.run.config
    facts = {
        "method": config.loss.name,
        "model": config.model.name,
        "nested dims": ", ".join(map(str, model.dims)),
        "data": config.data.name,
        "classes": len(model.classes) if model.classes else None,
        "epochs": config.get("epochs"),
        "seed": config.get("seed"),
        "pretrained from": _source(config.model.get("pretrained")),
    }
    licence = data_licence(model, trust)
    told = (
        f"The training data are under: {licence}." if licence else "No licence of the training data is known."
    )
    return {
        "training": {key: _plain(str(value)) for key, value in facts.items() if value is not None},
        "data_licence": told,
    }


def _source(pretrained: Any) -> str | None:
    """Return what weights training began with, without the place of a file."""
    return None if not pretrained else "weights of timm" if pretrained is True else Path(str(pretrained)).name


def data_licence(model: LoadedModel, trust: Trust) -> str | None:
    """Return the licence that the run's data state of themselves, or None, also where they are not there."""
    try:
        with stored_data(model.run, trusted_config(model.run, trust)) as data:
            licence = data.source.manifest(data.splits[0]).get("licence")
    except (UserError, OSError, AttributeError, TypeError):
        return None
    return _plain(str(licence)) if licence else None


def _plain(text: str) -> str:
    """Return a stored text on one line, without what Markdown would take for a table or code."""
    return "".join(sign if sign.isprintable() and sign not in "|`<>" else " " for sign in text)
