"""What the compiled loop keeps, against a stable sort of all scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")
from mrl_experiments.search.reservoirs import HIGHEST, Reservoirs


def kept(blocks, factors, k):
    count = sum(block.shape[1] for block in blocks)
    reservoirs, position = Reservoirs(len(blocks[0]), count, k), 0
    for block, factor in zip(blocks, factors, strict=True):
        half = len(block) // 2  # as threads do, each with some of the queries
        for row, part in ((0, block[:half]), (half, block[half:])):
            times = None if factor is None else torch.from_numpy(factor)
            reservoirs.add(torch.from_numpy(part), times, position, row)
        position += block.shape[1]
    return reservoirs.result()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 300),
    st.lists(st.integers(1, 530), min_size=1, max_size=6),
    st.sampled_from([1, 3, 40, 10**6]),
    st.sampled_from(["any", "rising", "falling"]),
)
def test_it_keeps_the_smallest_and_of_equals_the_earlier(seed, k, widths, distinct, order):
    random = np.random.default_rng(seed)
    scores = random.integers(-distinct, distinct + 1, (5, sum(widths))).astype(np.float32)
    if order != "any":
        scores = np.sort(scores if order == "rising" else -scores, axis=1) * (1 if order == "rising" else -1)
    k = min(k, scores.shape[1])
    factors = [2.0 ** random.integers(-2, 3, width).astype(np.float32) for width in widths]
    factors[0] = None
    blocks = np.split(np.ascontiguousarray(scores), np.cumsum(widths)[:-1], axis=1)
    blocks = [np.ascontiguousarray(block) for block in blocks]
    values, positions = kept(blocks, factors, k)
    whole = np.concatenate(
        [block * (1 if factor is None else factor) for block, factor in zip(blocks, factors, strict=True)],
        axis=1,
    )
    expected = np.argsort(whole, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(values, np.take_along_axis(whole, expected, axis=1))
    # Equals come in any order, but are the earliest ones.
    np.testing.assert_array_equal(np.sort(positions, axis=1), np.sort(expected, axis=1))


def test_what_is_not_a_number_is_never_kept():
    scores = np.array([[np.nan, 2, np.inf, 1, np.nan]], np.float32)
    values, positions = kept([scores], [None], 3)
    assert values.tolist() == [[1, 2, HIGHEST]]
    assert positions.tolist() == [[3, 1, -1]]
