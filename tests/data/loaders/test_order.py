import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_experiments.data.loaders import order
from mrl_experiments.data.loaders.order import TrainingOrder, evaluation_batches
from mrl_experiments.errors import UserError


def as_rank(monkeypatch, rank, processes):
    monkeypatch.setattr(order, "world", lambda: (rank, processes))


def test_ranks_share_the_batches_of_one_process(monkeypatch):
    alone = TrainingOrder(count=103, batch_size=12, seed=1, epoch=4).remaining()
    ranks = []
    for rank in range(3):
        as_rank(monkeypatch, rank, 3)
        ranks.append(TrainingOrder(count=103, batch_size=4, seed=1, epoch=4).remaining())
    assert len(alone) == 8
    for batch, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert sorted(batch) == sorted(np.concatenate(parts))
        assert len(set(np.concatenate(parts))) == 12


def test_every_epoch_is_another_permutation_and_returns():
    first, second = (np.concatenate(TrainingOrder(64, 8, 0, epoch).remaining()) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(64))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.concatenate(TrainingOrder(64, 8, 0, 0).remaining()))


def test_a_position_inside_an_epoch_is_restored():
    interrupted = TrainingOrder(64, 8, 0, epoch=2, done=3)
    resumed = TrainingOrder(64, 8, 0)
    resumed.load_state_dict(interrupted.state_dict())
    resumed.set_epoch(2)
    np.testing.assert_array_equal(resumed.remaining(), TrainingOrder(64, 8, 0, 2).remaining()[3:])
    resumed.set_epoch(3)
    assert len(resumed.remaining()) == 8


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="exceeds the training set"):
        TrainingOrder(count=10, batch_size=11, seed=0)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 7))
def test_evaluation_counts_every_sample_once_in_equally_many_batches(count, batch_size, processes):
    with pytest.MonkeyPatch.context() as patch:
        counted, lengths = [], set()
        for rank in range(processes):
            as_rank(patch, rank, processes)
            batches = evaluation_batches(count, batch_size)
            lengths.add(tuple(map(len, batches)))
            counted += [i for batch in batches for i in batch if i % processes == rank]
    assert sorted(counted) == list(range(count))
    assert len(lengths) == 1
