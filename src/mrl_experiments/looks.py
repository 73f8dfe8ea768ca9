"""What the samples of an evaluation look like: small pictures and texts, taken from the data of their run."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image

from mrl_experiments.build import restore_data, stored_data, trusted_config
from mrl_experiments.data.of_run import as_trained, described, expected_meta
from mrl_experiments.embeddings import Embeddings
from mrl_experiments.errors import UserError
from mrl_experiments.examples import Examples, Sample, plain_text
from mrl_experiments.external.vector_file import read_texts
from mrl_experiments.notices import print_once
from mrl_experiments.runs import Run

SIDE = 48  # pixels of a picture


@dataclass(frozen=True)
class Origin:
    """Where embeddings come from.

    Attributes:
        run: Their run.
        data: The data options that the command names, or None.
        files: By split, the file or folder that they were imported from.
    """

    run: Run
    data: DictConfig | None
    files: Mapping[str, Any]


def with_looks(
    examples: Examples, origin: Origin, queries: Embeddings, database: Embeddings | None
) -> Examples:
    """Return examples with pictures or texts of their samples; where there are none, a line says why."""
    looks: dict[Sample, Sample] = {}
    for part, of_queries in ((queries, True), (database, False)):
        wanted = [sample for sample in examples.samples if sample.of_queries is of_queries]
        if part is None or part.folder is None or not wanted:
            continue
        try:
            shown = shown_rows(origin, part, [sample.row for sample in wanted])
        except UserError as error:
            where = f"{part.meta['dataset']} {part.folder.name}"
            print_once(f"{where}: examples have neither pictures nor texts: {error.problem}")
        else:
            looks |= dict(zip(wanted, map(_with_look, wanted, shown), strict=True))
    return replace(examples, samples=[looks.get(sample, sample) for sample in examples.samples])


def shown_rows(origin: Origin, part: Embeddings, rows: Sequence[int]) -> list[Any]:
    """Return an image (H, W, C) uint8 or a text of each row of embeddings that lie on disk.

    Raises:
        UserError: Unless the data are there, and are those that were embedded.
    """
    assert part.folder is not None
    split = str(part.meta.get("split", part.folder.name))
    if origin.files:
        return read_texts(origin.files[split], rows)
    config = trusted_config(origin.run)
    home, dataset = str(config.data.name), part.meta["dataset"]
    named = None
    if dataset != home:
        if origin.data is None or str(origin.data.name) != dataset:
            raise UserError(f"data={dataset} is not named")
        named = as_trained(origin.data, config)
    with stored_data(origin.run, config, None, named) as data:
        restore_data(origin.run, data)
        expected = expected_meta(part.folder, described(data, config.data if named is None else named), data)
        if odd := [key for key, value in expected.items() if part.meta.get(key) != value]:
            raise UserError(f"its {odd[0]} are others than those that were embedded")
        found: list[Any] = data.show(split, rows)
    return found


def _with_look(sample: Sample, shown: Any) -> Sample:
    if isinstance(shown, str):
        return replace(sample, text=plain_text(shown))
    return replace(sample, picture=thumbnail(shown))


def thumbnail(image: NDArray[Any]) -> str:
    """Return an image (H, W, C) uint8 as the data URL of a small picture.

    It has at most SIDE pixels a side, and is a PNG or, where that is smaller, a JPEG.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image[..., :3])
    picture.thumbnail((SIDE, SIDE))
    forms = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80, "optimize": True})):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        forms.append((file.tell(), f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"))
    return min(forms)[1]
