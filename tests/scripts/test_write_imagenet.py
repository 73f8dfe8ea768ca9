"""The script that writes ImageNet, on a tree of the same shape."""

import numpy as np
import pytest
from commands import need_ffcv, run
from PIL import Image

pytestmark = pytest.mark.slow
need_ffcv()


def write(*arguments):
    return run("scripts/write_imagenet.py", *arguments)


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(0)
    for split, images in (("train", 40), ("val", 5)):
        for wnid in ("n01440764", "n01443537"):
            folder = tmp_path / "ILSVRC" / split / wnid
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 256, (400, 700, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return tmp_path / "ILSVRC"


def test_it_writes_what_the_paper_trained_on_and_does_it_once(tree, tmp_path):
    from ffcv.reader import Reader

    out = tmp_path / "betons"
    done = write("--root", tree, "--out", out, "--workers", 2)
    assert done.returncode == 0, done.stderr
    train, val = (Reader(str(out / f"{split}.beton")).metadata["f0"] for split in ("train", "val"))
    assert set(train["width"]) == set(val["width"]) == {500} and set(val["height"]) == {285}
    jpegs = np.mean(train["mode"] == 0)
    assert len(train) == 80 and 0.3 < jpegs < 0.7 and not (val["mode"] == 0).any()
    again = write("--root", tree, "--out", out)
    assert (
        "train.beton is there: 80 images" in again.stdout and "val.beton is there: 10 images" in again.stdout
    )


def test_a_corrupt_image_is_named_and_nothing_is_kept(tree, tmp_path):
    torn = tree / "train" / "n01440764" / "7.JPEG"
    torn.write_bytes(torn.read_bytes()[:1000])
    done = write("--root", tree, "--out", tmp_path / "betons")
    assert done.returncode == 1 and f"{torn} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "betons").iterdir())
