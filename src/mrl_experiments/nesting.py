"""Which prefixes of a representation are nested, and the only place that slices them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mrl_experiments.errors import UserError

SMALLEST_DEFAULT = 8


Array = TypeVar("Array")  # a tensor, a numpy array or a memory map


def prefix(z: Array, dim: int) -> Array:
    """Return the first `dim` coordinates of `z`, (..., D) -> (..., dim), as a view.

    Works for tensors, numpy arrays and memory maps alike.
    """
    return cast(Array, cast(Any, z)[..., :dim])


def default_dims(width: int, smallest: int = SMALLEST_DEFAULT) -> tuple[int, ...]:
    """Halve `width` while the result is a whole number of at least `smallest`, ascending.

    Gives the paper's lists: {8, ..., 2048} for ResNet50 and {12, ..., 768} for ViT-B and BERT.
    """
    dims = [width]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= smallest:
        dims.append(dims[-1] // 2)
    return tuple(reversed(dims))


def interpolated_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes halfway between neighbours (12, 24, ...): never trained, still usable (Table 5)."""
    return tuple((low + high) // 2 for low, high in itertools.pairwise(dims) if (low + high) // 2 > low)


@dataclass(frozen=True)
class NestingSpec:
    """The nested sizes M of a representation and the weight c_m of each (Eq. 1).

    Parameters
    ----------
    dims: strictly increasing sizes, each between 1 and the backbone's width.
    weights: c_m, one positive number a size; all 1 in the paper.
    """

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def resolve(
        cls, width: int, dims: Sequence[int] | None = None, weights: Sequence[float] | None = None
    ) -> "NestingSpec":
        """Build the spec for a backbone of `width` features; `None` means the defaults.

        Raises UserError when dims or weights do not describe a nesting of this width.
        """
        sizes = default_dims(width) if dims is None else tuple(dims)
        _check_dims(sizes, width)
        scale = (1.0,) * len(sizes) if weights is None else tuple(float(w) for w in weights)
        _check_weights(scale, sizes)
        return cls(sizes, scale)

    def __len__(self) -> int:
        return len(self.dims)


def _check_dims(dims: tuple[int, ...], width: int) -> None:
    expected = f"strictly increasing whole numbers between 1 and the backbone's width {width}"
    remedy = f"for example loss.dims={list(default_dims(width))}".replace(" ", "")
    shown = f"loss.dims={list(dims)}"

    def fail(why: str) -> None:
        raise UserError(f"{shown}: {why}", expected=expected, remedy=remedy)

    if not dims:
        fail("there is no size")
    for dim in dims:
        if not isinstance(dim, int) or isinstance(dim, bool):
            fail(f"{dim!r} is not a whole number")
        if dim < 1:
            fail(f"{dim} is smaller than 1")
    for low, high in itertools.pairwise(dims):
        if high == low:
            fail(f"{high} is repeated")
        if high < low:
            fail(f"{high} comes after {low}")
    if dims[-1] > width:
        fail(f"{dims[-1]} is larger than the backbone's width {width}")


def _check_weights(weights: tuple[float, ...], dims: tuple[int, ...]) -> None:
    expected = f"{len(dims)} positive numbers, one for each of loss.dims={list(dims)}"
    if len(weights) != len(dims):
        raise UserError(f"loss.weights has {len(weights)} values for {len(dims)} sizes", expected=expected)
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise UserError(f"loss.weights={list(weights)}: {weight} is not positive", expected=expected)
