"""`load`, from a run's folder to an object that embeds and classifies what a user has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.build import checkpoint_of, existing, load_method, trusted_config
from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.data.text.tokenizer import Tokenizer
from mrl_experiments.directions import unit_prefixes
from mrl_experiments.errors import UserError
from mrl_experiments.loaded.inputs import (
    MASK,
    ImageInputs,
    ImageOrTextInputs,
    Inputs,
    SequenceInputs,
    TextInputs,
    VectorInputs,
)
from mrl_experiments.losses.method import Method
from mrl_experiments.models.text_backbone import TextBackbone
from mrl_experiments.nesting import prefix
from mrl_experiments.runs import Run
from mrl_experiments.trust import Trust

BATCH = 64
Array = NDArray[np.float32]


class LoadedModel:
    """A trained model with what its inputs need: mean, deviation, size, vocabulary, names of classes.

    Inputs are images (paths, PIL images, uint8 arrays or tensors), texts or vectors, whichever the run was
    trained on, one or many; of a dual encoder a str is a text. What comes back has a row for each, and none
    where a single one was given.

    Attributes:
        run: Where it comes from.
        method: The trained method, in evaluation mode.
        dim: The dim that is used where none is named.
        dims: The nested dims.
        width: D, the largest.
        classes: Their names in the order of the logits, or None where none are known.
        heads: The classifiers, or None.
    """

    def __init__(
        self,
        run: Run,
        method: Method,
        inputs: Inputs,
        dim: int,
        classes: list[str] | None,
        adaptor: AdaptorFile | None = None,
    ) -> None:
        self.run, self.method, self.inputs, self.classes, self.adaptor = run, method, inputs, classes, adaptor
        self.dims, self.width = method.spec.dims, int(method.backbone.width)  # type: ignore[arg-type]
        self.heads = method.heads()
        self.dim = self.checked(dim)

    def __repr__(self) -> str:
        known = f"{len(self.classes)} classes" if self.classes else "no classes"
        return f"LoadedModel({self.run.name}, dim={self.dim} of {list(self.dims)}, {known})"

    @property
    def by_cosine(self) -> bool:
        """Whether vectors are compared by their directions, as all are but those of some adaptors."""
        return self.adaptor is None or self.adaptor.similarity == "cosine"

    def checked(self, dim: int | None) -> int:
        """Return a dim, or this model's own for None.

        Raises:
            UserError: If it is not a nested dim.
        """
        dim = self.dim if dim is None else dim
        if dim not in self.dims:
            raise UserError(f"dim={dim}: not a dim of {self.run.name}", expected=f"one of {list(self.dims)}")
        return dim

    def preprocess(self, inputs: Any) -> Tensor:
        """Return what the model reads of the inputs: (B, C, size, size), tokens (B, T), or vectors (B, D).

        Raises:
            UserError: For inputs of another kind.
        """
        return self.inputs.prepare(self.inputs.listed(inputs)[0])

    def encode(
        self,
        inputs: Any,
        dim: int | None = None,
        *,
        normalize: bool | None = None,
        batch_size: int = BATCH,
        queries: bool = False,
    ) -> Array:
        """Return the vectors of the inputs: their first `dim` features, of length one after the cut.

        The vector of a text is that of its tower; of a causal language model that of the last token, of a
        masked one the mean over the tokens.

        Args:
            inputs: One or many.
            dim: A nested dim; None: the one that was loaded.
            normalize: Whether vectors have length one, so that their products are cosines; None: unless an
                adaptor was trained for another similarity.
            batch_size: How many are computed at once.
            queries: They are queries, for which an adaptor may have a map of its own.

        Returns:
            (N, dim) float32, or (dim,) of a single input.

        Raises:
            UserError: For inputs of another kind, or a dim that is not nested.
        """
        dim = self.checked(dim)
        items, single = self.inputs.listed(inputs)
        features = self._features(items, batch_size, queries=queries)
        normalize = self.by_cosine if normalize is None else normalize
        vectors = unit_prefixes(features, dim) if normalize else prefix(features, dim).copy()
        return vectors[0] if single else vectors

    def encode_query(self, inputs: Any, dim: int | None = None, **options: Any) -> Array:
        """Return the vectors of queries: `encode`, by the map of queries where an adaptor has two."""
        return self.encode(inputs, dim, queries=True, **options)

    def encode_document(self, inputs: Any, dim: int | None = None, **options: Any) -> Array:
        """Return the vectors of documents: `encode`."""
        return self.encode(inputs, dim, **options)

    def predict_proba(self, inputs: Any, dim: int | None = None, *, batch_size: int = BATCH) -> Array:
        """Return the probability of each class by the classifier of `dim`.

        Of a causal language model the classes are tokens and the next one is predicted, of a masked one that
        in place of the single <|mask|> in each text.

        Returns:
            (N, classes), or (classes,) of a single input.

        Raises:
            UserError: As `encode`, and if the run has no classifiers.
        """
        dim = self.checked(dim)
        if self.heads is None:
            raise UserError(
                f"run {self.run.name} has no classifiers",
                expected="a run trained to classify: loss=ff, mrl or mrl_e",
                remedy="compare the vectors of encode(...) instead",
            )
        items, single = self.inputs.listed(inputs)
        features = self._features(items, batch_size, predicting=True)
        logits = torch.from_numpy(self.heads.logits(features, dim))
        probabilities: Array = logits.softmax(dim=1).numpy()
        return probabilities[0] if single else probabilities

    def predict(self, inputs: Any, dim: int | None = None, *, batch_size: int = BATCH) -> Any:
        """Return the likeliest class of each input: its name where names are known, else its number.

        Returns:
            A list, or one name or number of a single input.

        Raises:
            UserError: As `predict_proba`.
        """
        best = self.predict_proba(inputs, dim, batch_size=batch_size).argmax(axis=-1)
        named = [self._name(int(label)) for label in np.atleast_1d(best)]
        return named if best.ndim else named[0]

    def _name(self, label: int) -> str | int:
        if isinstance(self.inputs, SequenceInputs):
            return self.inputs.tokenizer.decode([label])
        return label if self.classes is None else self.classes[label]

    @torch.inference_mode()
    def _features(
        self, items: list[Any], batch_size: int, *, predicting: bool = False, queries: bool = False
    ) -> Array:
        """Return the features (N, D) of the inputs at full width."""
        features = np.empty((len(items), self.width), np.float32)
        device = next(self.method.parameters()).device
        for rows, batch in self.inputs.batches(items, batch_size):
            if self.adaptor is not None:
                features[rows] = self.adaptor.apply(batch.numpy(), queries=queries)
            else:
                z = self.method.embed(batch.to(device))
                features[rows] = (self._of_text(z, batch, predicting) if z.ndim == 3 else z).float().cpu()
        return features

    def _of_text(self, z: Tensor, tokens: Tensor, predicting: bool) -> Tensor:
        """Return (B, D): what of a language model's features (B, T, D) stands for a text."""
        assert isinstance(self.inputs, SequenceInputs)
        if self.inputs.causal:
            return z[:, -1]
        if not predicting:
            return z.mean(dim=1)
        masked = tokens == self.inputs.tokenizer.mask
        if not bool((masked.sum(dim=1) == 1).all()):
            raise UserError("a text without the token to predict", expected=f"one {MASK} in each text")
        return z[masked.to(z.device)]


def load(
    run: Run | Path | str,
    dim: int | None = None,
    *,
    trust: Trust = False,
    checkpoint: str = "last",
    weights: str | None = None,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load a run to embed and classify with it.

    Args:
        run: Its folder, such as outputs/runs/mrl_resnet10t_digits_s0.
        dim: The nested dim that is used where none is named; None: the largest.
        trust: As in `load_method`.
        checkpoint: As in `load_method`.
        weights: As in `load_method`.
        device: Where it computes.

    Raises:
        UserError: If there is no such run, it has no checkpoint, or `dim` is not nested.

    Example:
        ::

            model = load("outputs/runs/mrl_resnet10t_digits_s0", dim=16)
            model.encode("digit.png").shape  # (16,)
    """
    run = existing(run)
    method = load_method(run, trust, checkpoint=checkpoint, weights=weights).to(device)
    config = trusted_config(run, trust)
    kept = checkpoint_of(run, run.checkpoint_at(checkpoint))
    state = kept.get(str(config.data.get("_target_")).rpartition(".")[2]) or {}
    classes = state.get("classes") or None
    heads = method.heads()
    if heads is None or classes is None or len(classes) != heads.classes:
        classes = None
    adaptor = AdaptorFile.load(run.adaptor) if run.adaptor.is_file() else None
    inputs = _inputs(run, config, kept["inputs"], state, method)
    return LoadedModel(run, method, inputs, method.spec.dims[-1] if dim is None else dim, classes, adaptor)


def _inputs(
    run: Run, config: DictConfig, sizes: Mapping[str, int], state: Mapping[str, Any], method: Method
) -> Inputs:
    """Return what prepares inputs as the data of a run did."""
    if isinstance(method.backbone, TextBackbone):
        return SequenceInputs(Tokenizer(state["tokenizer"]), state["length"], state["masked"] is None)
    if "channels" in sizes:
        augment = Augment(**config.data.get("augment", {}))
        images = ImageInputs(sizes["channels"], sizes["size"], augment)
        if "vocabulary" not in sizes:
            return images
        return ImageOrTextInputs(images, TextInputs(Tokenizer(state["tokenizer"]), state["length"]))
    if "width" in sizes:
        return VectorInputs(sizes["width"])
    raise UserError(f"run {run.name} reads {', '.join(sizes)}", expected="images, texts or vectors")
