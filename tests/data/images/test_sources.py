"""What every source promises, and what each refuses."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mrl_experiments.data.images.beton_files import BetonFiles
from mrl_experiments.data.images.digits import Digits
from mrl_experiments.data.images.image_folder import ImageFolder
from mrl_experiments.data.images.read_image import read_image
from mrl_experiments.data.images.torchvision_sets import DEBIAN_FASHION, TorchvisionSet
from mrl_experiments.data.loaders.augment import Augment
from mrl_experiments.data.loaders.torch_loader import Augmented
from mrl_experiments.errors import UserError
from mrl_experiments.files import fingerprint, write_json


def folder_source(root, share=0.25, seed=0):
    return ImageFolder("photographs", str(root), val_share=share, seed=seed)


def undivided(photographs, tmp_path):
    return shutil.copytree(photographs / "train", tmp_path / "undivided")


def labels(source, split):
    return np.bincount([label for _, label in source.open(split)]).tolist()


def keeps_its_promises(source):
    for split in source.splits:
        samples = source.open(split)
        assert sorted({label for _, label in samples}) == list(range(source.num_classes))
        image = read_image(samples[0][0], source.channels)
        assert image.dtype == np.uint8 and image.shape[2] == source.channels
        assert source.size is None or image.shape[:2] == (source.size, source.size)
        assert np.array_equal(image, read_image(source.open(split)[0][0], source.channels))
        assert len(source.manifest(split)["classes"]) == source.num_classes
    assert source.identity() == source.identity()


def test_digits_have_the_size_that_is_asked_for():
    for size in (8, 64, 100):
        keeps_its_promises(Digits(size=size))
    scaled, sized = Digits(scale=8), Digits(size=64)
    assert np.array_equal(scaled.open("val")[7][0], sized.open("val")[7][0])
    assert scaled.identity() != sized.identity() != Digits(size=65).identity()
    assert Digits().identity().keys() == {"scale", "val_share", "seed", "scikit-learn"}  # of earlier caches


def test_digits():
    source = Digits()
    keeps_its_promises(source)
    train, val = (np.array(labels(source, split)) for split in ("train", "val"))
    assert (train + val).tolist() == np.bincount(load_digits().target).tolist()
    assert np.abs(val - (train + val) / 5).max() < 1  # a fifth of each class
    assert Digits(seed=1).identity() != source.identity()
    first, other = (Digits(seed=seed).open("val")[0][0] for seed in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.skipif(not DEBIAN_FASHION.exists(), reason="the package dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debians_package(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    source = TorchvisionSet("fashion_mnist", str(tmp_path))
    keeps_its_promises(source)
    assert labels(source, "train") == [6000] * 10 and labels(source, "val") == [1000] * 10


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_without_a_network_the_set_that_is_missing_is_named(name, classes, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    source = TorchvisionSet(name, str(tmp_path))
    assert (source.num_classes, source.channels, source.size) == (classes, 3, 32)
    with pytest.raises(UserError, match=f"data={name} is not whole"):
        source.open("train")


def test_a_folder_with_train_and_val(photographs):
    source = folder_source(photographs)
    keeps_its_promises(source)
    assert labels(source, "train") == labels(source, "val") == [8, 8, 8]
    assert all(path.parent.parent.name == "val" for path, _ in source.open("val"))


def test_a_folder_without_is_split_by_class_and_seed(photographs, tmp_path):
    root = undivided(photographs, tmp_path)
    source = folder_source(root)
    keeps_its_promises(source)
    assert labels(source, "train") == [6, 6, 6] and labels(source, "val") == [2, 2, 2]
    parts = [{path for path, _ in source.open(split)} for split in source.splits]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 24
    assert folder_source(root).open("val") == source.open("val")
    assert folder_source(root, seed=1).open("val") != source.open("val")


def test_a_folder_whose_files_change_is_another_data_set(photographs, tmp_path):
    root = undivided(photographs, tmp_path)
    before = folder_source(root).identity()
    Image.new("RGB", (30, 30)).save(root / "a" / "0.jpg")
    assert folder_source(root).identity() != before


def test_a_share_of_digits_that_lacks_classes_is_refused():
    with pytest.raises(UserError, match=r"data\.source\.val_share=0\.001"):
        Digits(val_share=0.001).open("val")


def test_values_of_other_channels_than_the_images_are_refused():
    augment = Augment(mean=[0.5, 0.5], std=[0.5], shift=0, crop=None, flip=False, center=1.0)
    with pytest.raises(UserError, match="2 values of mean"):
        Augmented([], 1, augment, 32, None)


def test_folders_that_are_no_data_set_are_refused(photographs, tmp_path):
    def refused(root, why):
        with pytest.raises(UserError, match=why):
            folder_source(root)

    refused(tmp_path / "missing", r"data\.root=.*missing is not a folder")
    with pytest.raises(UserError, match=r"data\.root= is not given"):
        ImageFolder("imagenet", None, 0.1, 0)
    root = undivided(photographs, tmp_path)
    (root / "empty").mkdir()
    refused(root, "empty holds no image")
    (root / "empty").rmdir()
    (root / ".thumbnails").mkdir()
    assert folder_source(root).num_classes == 3
    for name in "ab":
        shutil.rmtree(root / name)
    refused(root, "1 class folders")
    both = shutil.copytree(photographs, tmp_path / "both")
    shutil.rmtree(both / "train" / "b")
    refused(both, r"val has 1 classes that .*train lacks: b")


def test_a_split_too_small_for_its_classes_is_refused(photographs, tmp_path):
    with pytest.raises(UserError, match="cannot be split"):
        folder_source(undivided(photographs, tmp_path), share=0.05)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_files_of_any_colour_mode_are_read(mode, tmp_path):
    suffix = "jpg" if mode == "CMYK" else "png"
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (7, 5), (255, 0, 0)).convert(mode).save(path)
    assert read_image(path, 3).shape == (5, 7, 3) and read_image(path, 1).shape == (5, 7, 1)


def test_a_truncated_jpeg_is_named(photographs, tmp_path):
    content = (photographs / "train" / "a" / "0.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.jpg cannot be read as an image"):
        read_image(tmp_path / "cut.jpg", 3)


def test_ready_betons_need_both_splits_and_ffcv():
    with pytest.raises(UserError, match=r"lacks \['val'\]"):
        BetonFiles("imagenet", None, {"train": "train.beton"})
    source = BetonFiles("imagenet", None, {"train": "train.beton", "val": "val.beton"})
    assert source.splits == ("train", "val")
    with pytest.raises(UserError, match=r"use data\.loader=ffcv"):
        source.open("train")


def test_a_damaged_package_of_fashion_mnist_is_named(tmp_path, monkeypatch):
    (tmp_path / "packed").mkdir()
    whole = gzip.compress(bytes(1000))
    monkeypatch.setattr("mrl_experiments.data.images.torchvision_sets.DEBIAN_FASHION", tmp_path / "packed")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for content in (b"no gzip", whole[:-5], whole[:12] + b"\xff" + whole[13:]):
        (tmp_path / "packed/train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"fashion_mnist|train-images"):
            TorchvisionSet("fashion_mnist", str(tmp_path / "root")).open("train")


@pytest.fixture
def unpacked_fashion(tmp_path):
    """Twelve images and labels of noise for each split, where torchvision looks for Fashion-MNIST."""
    raw = tmp_path / "downloads" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, 12 * 28 * 28, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, 12, 28, 28) + pixels.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, 12) + bytes(range(10)) + b"\0\1"
        )
    return tmp_path, raw


def test_an_unpacked_set_is_read_without_a_lock(unpacked_fashion):
    folder, _ = unpacked_fashion
    source = TorchvisionSet("fashion_mnist", str(folder))
    assert len(source.open("train")) == 12
    assert not (folder / "downloads" / ".fashion_mnist.lock").exists()


def test_an_unpacked_file_that_changed_is_fetched_again(unpacked_fashion, monkeypatch, capsys):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("mrl_experiments.data.images.torchvision_sets.DEBIAN_FASHION", Path("/nowhere"))
    folder, raw = unpacked_fashion
    note = folder / "downloads" / ".fashion_mnist.json"
    write_json(note, {path.name: fingerprint(path) for path in raw.iterdir()})
    source = TorchvisionSet("fashion_mnist", str(folder))
    assert len(source.open("val")) == 12
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:8] + bytes(12))
    with pytest.raises(UserError, match="is not whole"):  # here it cannot be
        source.open("val")
    assert "has changed since it was unpacked" in capsys.readouterr().out and not labels.exists()
