"""What is said of small training sets."""

import numpy as np
import pytest

from mrl_experiments.data.advice import advice, smaller_batch
from mrl_experiments.data.loaders.order import TrainingOrder
from mrl_experiments.errors import UserError


def said(counts, batch_size=16, **options):
    labels = np.repeat(np.arange(len(counts)), counts)
    return list(advice("emoji", labels, ["cat", "dog", "owl"][: len(counts)], batch_size, **options))


def test_of_an_ordinary_training_set_nothing_is_said():
    assert said([100, 100, 90]) == []
    assert said([9000, 9000], 256) == []


def test_few_steps_an_epoch_are_told_with_a_batch_size_that_makes_more():
    (line,) = said([100, 100, 100], 256)
    assert line == (
        "emoji: 300 images are 1 step an epoch at data.batch_size=256, and 44 images are left out of each;"
        " data.batch_size=16 makes 18"
    )
    (line,) = said([200, 200, 200], 64, processes=4)
    assert "are 2 steps an epoch" in line and line.endswith("data.batch_size=8 makes 18")


def test_few_images_of_a_class_and_uneven_classes_are_told():
    few, uneven = said([300, 3, 40])
    assert few.startswith("emoji: 1 of 3 classes have fewer than 10 images, such as dog with 3")
    assert uneven.startswith("emoji: cat has 300 images, dog has 3 images; data.balance=1")
    assert [line for line in said([300, 0, 200], balance=1.0) if "balance" in line] == []
    assert "such as dog with 0" in said([300, 0, 200])[0] and len(said([300, 0, 200])) == 1


@pytest.mark.parametrize(("count", "processes"), [(2, 1), (19, 1), (300, 1), (300, 4), (1437, 8)])
def test_the_proposed_batch_fits(count, processes):
    batch = smaller_batch(count, processes)
    assert batch >= 2 and (batch * processes <= count or batch == 2)


def test_a_batch_that_exceeds_the_training_set_is_refused_with_one_that_fits():
    with pytest.raises(UserError, match=r"remedy: +for example data\.batch_size=16"):
        TrainingOrder(200, 256, 0)
