"""The nested dims of a representation with their weights, and the one function that slices prefixes."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mrl_experiments.errors import UserError

SMALLEST_DEFAULT = 8


Array = TypeVar("Array")  # a tensor, a numpy array or a memory map
Dims = Sequence[int] | Callable[[int], Sequence[int]]  # dims, or what makes them from the backbone's width
Weights = Sequence[float] | Mapping[int, float]  # one per dim, or by dim


def prefix(z: Array, dim: int) -> Array:
    """Return the first `dim` coordinates of `z`, (..., D) -> (..., dim), as a view.

    Works for tensors, numpy arrays and memory maps alike. At full width it is `z` itself, so that autograd
    writes no gradient twice.
    """
    return z if cast(Any, z).shape[-1] == dim else cast(Array, cast(Any, z)[..., :dim])


def default_dims(width: int, smallest: int = SMALLEST_DEFAULT) -> tuple[int, ...]:
    """Halve `width` while the result is a whole number of at least `smallest`, ascending.

    Gives the paper's lists: {8, ..., 2048} for ResNet50 and {12, ..., 768} for ViT-B and BERT.

    Example:
        >>> default_dims(768)
        (12, 24, 48, 96, 192, 384, 768)
    """
    dims = [width]
    while dims[-1] % 2 == 0 and dims[-1] // 2 >= smallest:
        dims.append(dims[-1] // 2)
    return tuple(reversed(dims))


def dims_from(width: int, first: int) -> tuple[int, ...]:
    """Put `first` before the default dims above it: {4, 8, 16, ...}, {6, 8, 16, ...} (Table 28)."""
    return (first, *(dim for dim in default_dims(width) if dim > first))


def uniform_dims(width: int, first: int, count: int) -> tuple[int, ...]:
    """Space `count` dims evenly from `first` to `width`: {8, 212, 416, ..., 2048} (Table 29)."""
    if count < 2:
        raise UserError(f"{count} evenly spaced dims", expected="at least 2: the first and the width")
    return tuple(round(first + i * (width - first) / (count - 1)) for i in range(count))


def interpolated_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the dims halfway between neighbours: never trained, still usable (Table 5).

    Example:
        >>> interpolated_dims((8, 16, 32))
        (12, 24)
    """
    return tuple((low + high) // 2 for low, high in itertools.pairwise(dims) if (low + high) // 2 > low)


@dataclass(frozen=True)
class NestingSpec:
    """The nested dims M of a representation and the weight c_m of each (Eq. 1).

    Attributes:
        dims: Strictly increasing, each between 1 and the backbone's width.
        weights: c_m, one positive number per dim; all 1 in the paper.
    """

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def resolve(cls, width: int, dims: Dims | None = None, weights: Weights | None = None) -> "NestingSpec":
        """Build the spec for a backbone of `width` features; `None` means the defaults.

        Args:
            width: The backbone's number of features.
            dims: A list, or a function of the width that gives one.
            weights: One per dim, or {dim: weight} with 1 for the dims it does not name.

        Raises:
            UserError: If dims or weights do not describe a nesting of this width.

        Example:
            >>> NestingSpec.resolve(16, weights={8: 0.5})
            NestingSpec(dims=(8, 16), weights=(0.5, 1.0))
        """
        nested = resolved_dims(width, dims)
        _check_dims(nested, width)
        scale = _by_dim(weights, nested) if isinstance(weights, Mapping) else weights
        resolved = (1.0,) * len(nested) if scale is None else tuple(float(weight) for weight in scale)
        _check_weights(resolved, nested)
        return cls(nested, resolved)

    def __len__(self) -> int:
        return len(self.dims)


def one_or_many(
    width: int, dim: int | None, dims: Dims | None, *, nested: bool, option: str, separate: str
) -> Dims | None:
    """Return the dims of a nested loss, or the single one of a separate model where `nested` is false.

    Args:
        option: What the user chose as loss=.
        separate: The option that trains one dim.

    Raises:
        UserError: For `dim` of a nested loss, `dims` of a separate model, and a `dim` out of range.
    """
    if nested and dim is not None:
        raise UserError(
            f"loss.dim={dim} has no meaning for loss={option}, which trains all dims at once",
            expected="loss.dim=null",
            remedy=f"loss={option} loss.dims=[{dim}] for one nested dim, or loss={separate} loss.dim={dim}",
        )
    if nested:
        return dims
    if dims is not None:
        several = resolved_dims(width, dims)
        raise UserError(
            f"loss.dims={list(several)} has no meaning for loss={option}, which trains one dim",
            expected="loss.dims=null",
            remedy=f"loss={option} loss.dim={max(several, default=8)}, or a nested loss for many dims",
        )
    if dim is not None and not (isinstance(dim, int) and 1 <= dim <= width):
        raise UserError(
            f"loss.dim={dim}", expected=f"a whole number from 1 to the backbone's width {width}, or null"
        )
    return (width if dim is None else dim,)


def resolved_dims(width: int, dims: Dims | None) -> tuple[int, ...]:
    """Return the dims that `dims` means for a backbone of `width` features, unchecked."""
    if dims is None:
        return default_dims(width)
    return tuple(dims(width) if callable(dims) else dims)


def _by_dim(weights: Mapping[int, float], dims: tuple[int, ...]) -> list[float]:
    unknown = [dim for dim in weights if dim not in dims]
    if unknown:
        raise UserError(
            f"loss.weights={dict(weights)}: {unknown[0]} is no nested dim",
            expected=f"weights of some of {list(dims)}; the others weigh 1",
        )
    return [weights.get(dim, 1.0) for dim in dims]


def _check_dims(dims: tuple[int, ...], width: int) -> None:
    pairs = itertools.pairwise((0, *dims))
    odd = next((dim for before, dim in pairs if not (type(dim) is int and before < dim <= width)), None)
    if odd is not None or not dims:
        raise UserError(
            f"loss.dims={list(dims)}: {f'{odd!r} does not fit' if dims else 'there is no dim'}",
            expected=f"strictly increasing whole numbers between 1 and the backbone's width {width}",
            remedy=f"for example loss.dims=[{','.join(map(str, default_dims(width)))}]",
        )


def _check_weights(weights: tuple[float, ...], dims: tuple[int, ...]) -> None:
    if len(weights) != len(dims) or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(
            f"loss.weights={list(weights)} for {len(dims)} dims",
            expected=f"{len(dims)} positive numbers, one for each of loss.dims={list(dims)}",
        )
