"""scripts/gradcam.py: a trained run in, a PNG and an SVG out."""

import runpy
import sys

import numpy as np
import pytest
from commands import ROOT, TINY
from composing import composed
from PIL import Image

from mrl_experiments.training.train import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with one short run."""
    root = tmp_path_factory.mktemp("gradcam")
    quick = ["data.loader=torch", "data.workers=1", "trainer.limit_train_batches=4", "trainer.progress=false"]
    train(composed("train", *TINY, f"root={root}", *quick, "epochs=1", "loss=mrl"))
    return root


@pytest.fixture
def gradcam(root, monkeypatch, capsys):
    """The script in this process: returns exit status, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gradcam.py", *arguments, "--root", str(root)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "scripts/gradcam.py"), run_name="__main__")
        return left.value.code or 0, *capsys.readouterr()

    return run


def test_it_draws_a_row_for_each_image_and_a_column_for_each_size(root, gradcam):
    status, out, err = gradcam("mrl_tiny_digits_s0", "--dims", "12,96", "--images", "4,0,7")
    assert status == 0, err
    png, svg = (root / f"runs/mrl_tiny_digits_s0/figures/gradcam-val.{kind}" for kind in ("png", "svg"))
    assert out.split()[-2:] == [str(png), str(svg)]
    text = svg.read_text()
    assert text.count("<image") == 3 * 3  # each image alone, and under its map at each of two sizes
    assert "12 dims" in text and "96 dims" in text and "layer" in text
    with Image.open(png) as picture:
        assert np.asarray(picture.convert("HSV"))[..., 1].max() > 200  # heat is coloured
        wide, high = picture.size
    assert high > wide * 0.8  # three rows, three columns


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["other"], "matches no run"),
        (["mrl_tiny_digits_s0", "--dims", "12,13"], "has no dim 13"),
        (["mrl_tiny_digits_s0", "--split", "test"], "--split test"),
    ],
)
def test_bad_input_is_one_clear_error(root, gradcam, arguments, problem):
    status, _, err = gradcam(*arguments)
    assert status == 2 and problem in err and "Traceback" not in err
    assert not (root / "runs/mrl_tiny_digits_s0/figures/gradcam-test.png").exists()
