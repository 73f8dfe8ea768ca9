import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mrl_experiments.directions import dtype_for, inverse_norms, unit_prefixes

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, (3, 5), elements=ANY), st.integers(1, 5))
def test_any_finite_prefix_has_a_direction(vectors, dim):
    wide = vectors[:, :dim].astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    expected = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    np.testing.assert_allclose(unit_prefixes(vectors, dim), expected, atol=1e-6)
    np.testing.assert_allclose(inverse_norms(vectors, dim) * norms[:, 0], norms[:, 0] > 0, rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "dims", "wide"),
    [
        ([1, 0, 0], (1, 2, 3), False),
        ([0, 0, 1], (1, 2, 3), False),  # a prefix of zeros, as rectified features have
        ([1e14, 1, 0], (1, 3), False),
        ([1e19, 1, 0], (3,), True),
        ([1, 1e30, 0], (1, 3), True),
        ([1, 1e30, 0], (1,), False),  # what follows the last prefix does not matter
        ([1e-23, 1, 0], (1, 3), True),
        ([1e-23, 1, 0], (3,), False),
        ([1e-45, 0, 0], (3,), True),
    ],
)
def test_float32_serves_where_squares_are_in_its_range(row, dims, wide):
    vectors = np.array([[1, 1, 1], row], np.float32)
    assert (
        dtype_for(dims, vectors)
        is dtype_for(dims, vectors[:1], vectors)
        is (np.float64 if wide else np.float32)
    )
