"""What varies batches after the loader, and what weighs classes."""

import numpy as np
import pytest
import torch
from commands import COARSE
from composing import composed

from mrl_experiments.data.loaders.order import TrainingOrder, balanced
from mrl_experiments.errors import UserError
from mrl_experiments.options.check import check
from mrl_experiments.runs import run_of
from mrl_experiments.training.batch_augment import BatchAugment
from mrl_experiments.training.train import _build, train

CLASSES = 5


def batch(count=8, first=0, channels=3):
    """Return images whose content follows from their number."""
    index = torch.arange(first, first + count)
    images = [torch.rand(channels, 16, 16, generator=torch.Generator().manual_seed(int(n))) for n in index]
    return torch.stack(images) * 2 - 1, index % CLASSES, index


def made(**options):
    return BatchAugment(**options, num_classes=CLASSES, seed=3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options", [{"randaugment": 9}, {"erasing": 0.7}, {"randaugment": 9, "erasing": 0.5}]
)
def test_an_image_is_varied_alike_in_every_batch_and_again_in_the_next_epoch(options, channels):
    augment, before = made(**options), torch.get_rng_state()
    x, y, index = batch(channels=channels)
    varied, labels = augment(x, y, index, 0)
    assert varied.shape == x.shape and torch.equal(labels, y) and not torch.equal(varied, x)
    half, _ = augment(*batch(4, first=4, channels=channels), 0)
    assert torch.equal(half, varied[4:])
    assert not torch.equal(augment(x, y, index, 1)[0], varied)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, batch(channels=channels)[0])


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_labels_become_the_shares_of_the_images(options):
    x, y, index = batch()
    mixed, shares = made(**options)(x, y, index, 0)
    assert shares.shape == (8, CLASSES) and torch.allclose(shares.sum(1), torch.ones(8))
    own, partner = shares.gather(1, y[:, None])[:, 0], x.roll(1, 0)
    if "cutmix" not in options:
        share = own[0]
        assert torch.allclose(mixed, share * x + (1 - share) * partner, atol=1e-6)
    if "mixup" not in options:
        pasted = (mixed == partner).all(1).float().mean((1, 2))
        assert torch.allclose(pasted, 1 - own, atol=0.01)
    assert all(map(torch.equal, made(**options)(x, y, index, 0), (mixed, shares)))


def configured(root, *overrides):
    small = ["data.loader=torch", "data.workers=0", "data.batch_size=256", "trainer.progress=false"]
    cfg = composed("train", *COARSE, *small, f"root={root}", "epochs=1", *overrides)
    check(cfg, "train")
    return cfg


def test_what_is_configured_is_trained_with(tmp_path):
    cfg = configured(
        tmp_path, "batch_augment=strong", "trainer.limit_train_batches=2", "data.balance=1", "loss=mrl_e",
        "loss.class_weights=[1,1,1,1,1,1,1,1,1,2]",
    )  # fmt: skip
    train(cfg)
    assert run_of(cfg).finished.exists()


def test_what_does_not_fit_is_refused(tmp_path):
    def build(*overrides):
        cfg = configured(tmp_path, *overrides)
        return _build(cfg, run_of(cfg))

    with pytest.raises(UserError, match="mixed labels"):
        build("loss=slim", "batch_augment=mixup")
    with pytest.raises(UserError, match="class_weights has 2 values"):
        build("loss.class_weights=[1,2]")
    with pytest.raises(UserError, match="these data are none"):
        made(mixup=1.0)(torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2), torch.arange(2), 0)
    assert build()[1].augment is None


def test_balanced_sampling_draws_classes_alike_for_any_number_of_processes_and_after_a_resume(monkeypatch):
    labels = np.repeat([0, 1, 2], [800, 150, 50])
    assert np.bincount(labels, balanced(labels, 1)) == pytest.approx([1 / 3] * 3)
    assert np.bincount(labels, balanced(labels, 0.5)) == pytest.approx(
        np.sqrt([800, 150, 50]) / 47.6, rel=0.01
    )
    one = TrainingOrder(1000, 20, 0, shares=balanced(labels, 1))
    drawn = np.concatenate(one.remaining())
    assert np.bincount(labels[drawn]).min() > 280
    resumed = TrainingOrder(1000, 20, 0, done=3, shares=balanced(labels, 1))
    assert np.array_equal(np.concatenate(resumed.remaining()), drawn[60:])
    ranks = []
    for rank in (0, 1):
        monkeypatch.setattr("mrl_experiments.data.loaders.order.world", lambda rank=rank: (rank, 2))
        ranks.append(TrainingOrder(1000, 10, 0, shares=balanced(labels, 1)).remaining())
    both = [np.stack(pair, 1).ravel() for pair in zip(*ranks, strict=True)]
    assert np.array_equal(np.concatenate(both), drawn)
