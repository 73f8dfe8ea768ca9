"""The model card of an exported folder: README.md with the front matter that hubs read."""

from pathlib import Path
from typing import Any

import jinja2

from mrl_experiments.build import stored_data, trusted_config
from mrl_experiments.errors import UserError
from mrl_experiments.export import quality
from mrl_experiments.export.timm_folder import standardization
from mrl_experiments.loaded.inputs import ImageInputs, ImageOrTextInputs, SequenceInputs
from mrl_experiments.loaded.model import LoadedModel
from mrl_experiments.trust import Trust

CARD, FIGURE, TEMPLATE = "README.md", "quality_by_dim.png", Path(__file__).with_name("card.md")


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
        place=_plain(name),
        dims=model.dims,
        dim=dim,
        kind=_kind(model),
        mode="L" if getattr(model.inputs, "channels", 3) == 1 else "RGB",
        classes=model.classes,
        heads=model.heads,
        standardized=standardization(model) is not None,
        adaptor=model.adaptor,
        encoded=encoded,
        licence=licence,
        table=quality.table(found) if found else "",
        figure=FIGURE if drawn else "",
        intervals=any(map(quality.has_intervals, found)),
        **_training(model, trust),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _kind(model: LoadedModel) -> str:
    """Return what a model reads, as the template calls it."""
    if model.adaptor is not None:
        return "adaptor"
    kinds = {ImageInputs: "image", ImageOrTextInputs: "both", SequenceInputs: "language"}
    return kinds.get(type(model.inputs), "text")


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
    return {
        "training": {key: _plain(str(value)) for key, value in facts.items() if value is not None},
        "data_licence": data_licence(model, trust),
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
