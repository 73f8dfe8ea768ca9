import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrl_experiments.errors import UserError
from mrl_experiments.nesting import (
    NestingSpec,
    default_dims,
    dims_from,
    interpolated_dims,
    prefix,
    uniform_dims,
)


def test_default_dims_are_the_papers():
    assert default_dims(2048) == (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert default_dims(768) == (12, 24, 48, 96, 192, 384, 768)


@given(st.integers(1, 5000))
def test_default_dims_halve_down_to_the_smallest_whole_number(width):
    dims = default_dims(width)
    assert dims[-1] == width
    assert all(2 * low == high for low, high in itertools.pairwise(dims))
    assert dims[0] % 2 == 1 or dims[0] < 16


def test_interpolated_dims_are_the_papers():
    assert interpolated_dims(default_dims(2048)) == (12, 24, 48, 96, 192, 384, 768, 1536)
    assert interpolated_dims(default_dims(768)) == (18, 36, 72, 144, 288, 576)
    assert interpolated_dims((3, 4)) == ()


def test_other_first_sizes_are_the_papers():
    assert dims_from(2048, 4) == (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert dims_from(2048, 6) == (6, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert dims_from(768, 12) == default_dims(768)


def test_uniform_sizes_are_the_papers():
    assert uniform_dims(2048, 8, 11) == (8, 212, 416, 620, 824, 1028, 1232, 1436, 1640, 1844, 2048)


@given(st.integers(1, 100), st.integers(2, 50), st.integers(0, 3000))
def test_uniform_sizes_keep_their_ends_and_differ_by_one_at_most_in_step(first, count, more):
    width = first + count - 1 + more
    dims = uniform_dims(width, first, count)
    steps = [high - low for low, high in itertools.pairwise(dims)]
    assert (dims[0], dims[-1], len(dims)) == (first, width, count)
    assert max(steps) - min(steps) <= 1


def test_a_rule_gives_the_sizes_of_a_backbone():
    assert NestingSpec.resolve(64, partial(dims_from, first=4)).dims == (4, 8, 16, 32, 64)
    with pytest.raises(UserError, match="8 does not fit"):
        NestingSpec.resolve(10, partial(uniform_dims, first=8, count=5))
    with pytest.raises(UserError, match="200 does not fit"):
        NestingSpec.resolve(64, lambda width: (200, width))
    with pytest.raises(UserError, match="at least 2"):
        NestingSpec.resolve(64, partial(uniform_dims, first=8, count=1))


def test_weights_by_size_leave_the_others_at_one():
    assert NestingSpec.resolve(64, None, {8: 2, 32: 0.5}).weights == (2.0, 1.0, 0.5, 1.0)
    with pytest.raises(UserError, match=r"12 is no nested dim") as caught:
        NestingSpec.resolve(64, None, {8: 2, 12: 1})
    assert "[8, 16, 32, 64]" in caught.value.expected
    with pytest.raises(UserError, match=r"loss\.weights=\[0\.0, 1\.0, 1\.0, 1\.0\] for 4 dims"):
        NestingSpec.resolve(64, None, {8: 0})


def test_prefix_is_a_view_for_tensors_and_arrays():
    array, tensor = np.arange(12.0).reshape(3, 4), torch.zeros(3, 4)
    assert np.shares_memory(prefix(array, 2), array)
    prefix(tensor, 2).fill_(1)
    assert tensor.sum() == 6


@pytest.mark.parametrize(
    ("dims", "complaint"),
    [
        ([], "no dim"),
        ([0, 8], "0 does not fit"),
        ([8, 8], "8 does not fit"),
        ([16, 8], "8 does not fit"),
        ([8, 128], "128 does not fit"),
        ([8, 16.5], "16.5 does not fit"),
        ([True, 8], "True does not fit"),
        (["a", 8], "'a' does not fit"),
    ],
)
def test_dims_that_do_not_nest_are_refused(dims, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        NestingSpec.resolve(64, dims)
    assert caught.value.remedy == "for example loss.dims=[8,16,32,64]"


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]]
)
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(UserError, match=r"loss\.weights"):
        NestingSpec.resolve(64, [8, 64], weights)


def test_defaults_weigh_all_sizes_alike():
    assert NestingSpec.resolve(32) == NestingSpec((8, 16, 32), (1.0, 1.0, 1.0))
