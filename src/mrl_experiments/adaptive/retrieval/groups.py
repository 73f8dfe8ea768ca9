"""Codes of a byte a feature in groups of 16, whose products with a query are summed side by side.

Four features of 16 codes lie together, 64 bytes: one instruction of AVX-512 VNNI adds their products to 16
sums. For other processors LLVM compiles the same sums from plain products.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import config, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from mrl_experiments.adaptive.retrieval.kernels import FAST, LINE

GROUP, QUAD = 16, 4  # codes; features of theirs that lie together
SET: Any = config  # whose names are made at run time
OWN_CPU = not (SET.CPU_NAME or SET.CPU_FEATURES)  # numba compiles for the processor it runs on
VNNI = OWN_CPU and bool(binding.get_host_cpu_features().get("avx512vnni"))


@dataclass(frozen=True)
class Grouped:
    """Lists of vectors (n, dim) in a byte a feature: codes * step + low, without what rounding changes.

    Attributes:
        codes: (G, ceil(dim / 4), 16, 4) as bytes; a list begins with a group, zeros fill the last.
        low: (dim,).
        step: (dim,).
        starts: (L + 1,) the groups with which lists begin.
        sizes: (L,) how many codes each holds.
    """

    codes: NDArray[np.uint8]
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def room(cls, sizes: NDArray[np.int64], low: Any, step: Any) -> "Grouped":
        """Return lists of these sizes (L,), still of zeros."""
        starts = np.concatenate([[0], np.cumsum(-(-sizes // GROUP))]).astype(np.int64)
        wide = -(-len(low) // QUAD) * LINE
        room = np.zeros(int(starts[-1]) * wide + LINE, np.uint8)
        first = -room.ctypes.data % LINE  # groups begin with a line of memory
        codes = room[first : len(room) - LINE + first]
        low, step = (np.ascontiguousarray(part, np.float32) for part in (low, step))
        return cls(codes, low, step, starts, sizes.astype(np.int64))

    def put(self, number: int, codes: NDArray[np.uint8]) -> None:
        """Fill a list with codes (n, dim)."""
        first, last = self.starts[number : number + 2]
        quads = -(-codes.shape[1] // QUAD)
        full = np.zeros((last - first) * GROUP * quads * QUAD, np.uint8).reshape(-1, quads * QUAD)
        full[: len(codes), : codes.shape[1]] = codes
        turned = full.reshape(-1, GROUP, quads, QUAD).transpose(0, 2, 1, 3)
        self.codes[first * quads * LINE : last * quads * LINE] = turned.ravel()


def _added(builder: Any, sums: Any, codes: Any, weights: Any, vnni: bool) -> Any:
    """Return sums <16 x i32> with the products of codes <16 x i32>, four bytes each, and as many weights."""
    wide = sums.type
    if vnni:  # by its own name, which stays the same; those of LLVM's intrinsics change
        call = ir.InlineAsm(ir.FunctionType(wide, [wide] * 3), "vpdpbusd $3, $2, $0", "=v,0,v,v")
        return builder.call(call, [sums, codes, weights])
    parts, products = ir.VectorType(ir.IntType(8), LINE), ir.VectorType(ir.IntType(32), LINE)
    codes = builder.zext(builder.bitcast(codes, parts), products)
    product = builder.mul(codes, builder.sext(builder.bitcast(weights, parts), products))
    for part in range(QUAD):
        chosen = ir.Constant(wide, list(range(part, LINE, QUAD)))
        sums = builder.add(sums, builder.shuffle_vector(product, ir.Constant(products, ir.Undefined), chosen))
    return sums


def summing(vnni: bool) -> Any:
    """Return what computes a group's similarities, of addresses of codes and weights, to an address."""

    @intrinsic
    def similarities(_, codes, weights, quads, start, unit, found):  # type: ignore[no-untyped-def]
        def code(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            codes, weights, quads, start, unit, found = arguments
            number, count = ir.IntType(32), ir.IntType(64)
            wide, real = ir.VectorType(number, GROUP), ir.VectorType(ir.FloatType(), GROUP)

            def spread(value, kind):  # type: ignore[no-untyped-def]
                none = ir.Constant(kind, ir.Undefined)
                one = builder.insert_element(none, value, number(0))
                return builder.shuffle_vector(one, none, ir.Constant(wide, [0] * GROUP))

            codes = builder.inttoptr(codes, wide.as_pointer())
            weights = builder.inttoptr(weights, number.as_pointer())
            before, loop = builder.block, builder.append_basic_block("loop")
            after = builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            at, sums = builder.phi(count), builder.phi(wide)
            four = spread(builder.load(builder.gep(weights, [at]), align=QUAD), wide)
            more = _added(builder, sums, builder.load(builder.gep(codes, [at]), align=LINE), four, vnni)
            following = builder.add(at, count(1))
            at.add_incoming(count(0), before)
            at.add_incoming(following, loop)
            sums.add_incoming(ir.Constant(wide, [0] * GROUP), before)
            sums.add_incoming(more, loop)
            builder.cbranch(builder.icmp_signed("<", following, quads), loop, after)
            builder.position_at_end(after)
            result = builder.fmul(builder.sitofp(more, real), spread(unit, real))
            result = builder.fadd(result, spread(start, real))
            builder.store(result, builder.inttoptr(found, real.as_pointer()), align=QUAD)
            return context.get_dummy_value()

        given = [types.intp] * 3 + [types.float32] * 2 + [types.intp]
        return types.void(*given), code

    return similarities


if VNNI:
    binding.initialize_native_asmparser()
_similarities = summing(VNNI)


@numba.njit(**FAST)
def group_sums(codes, first, size, weights, unit, start, found):  # type: ignore[no-untyped-def]
    """Put start + unit * (codes @ weights) of a list of codes into found, which has room for whole groups.

    Args:
        codes: As of `Grouped`.
        first: The group with which the list begins.
        size: How many codes it holds.
        weights: (ceil(dim / 4) * 4,) int8.
        unit: Of the weights.
        start: What is added.
        found: (n,) float32, at least `size` rounded up to a multiple of 16.
    """
    wide = len(weights) * GROUP
    here, there, address = codes.ctypes.data + first * wide, found.ctypes.data, weights.ctypes.data
    for number in range(-(-size // GROUP)):
        _similarities(here + number * wide, address, len(weights) // QUAD, start, unit, there + number * LINE)
