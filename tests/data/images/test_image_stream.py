"""A stream of images in the order of a file: known classes keep their labels, new ones come after them."""

import numpy as np
import pytest

from mrl_experiments.data.images.image_stream import ImageStream
from mrl_experiments.errors import UserError

ORDER = ["n09/n09_2.JPEG", "n01/n01_1.JPEG", "n05/n05_1.JPEG", "n01/n01_2.JPEG", "n07/n07_1.JPEG"]


@pytest.fixture
def images(tmp_path):
    """A folder with the images of ORDER and one more, and known.txt, the classes of training."""
    for name in [*ORDER, "n01/n01_3.JPEG"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "known.txt").write_text("n01\nn05\nn33\n")
    return tmp_path


def stream(images, sequence):
    return ImageStream("fluid", str(images), str(images / sequence), str(images / "known.txt"))


@pytest.mark.parametrize("kind", ["npy", "txt"])
def test_order_and_labels(kind, images):
    if kind == "npy":
        np.save(images / "sequence5.npy", np.array(ORDER))
    else:
        (images / "sequence5.txt").write_text("\n".join(ORDER) + "\n")
    found = stream(images, f"sequence5.{kind}")
    assert [str(path.relative_to(images)) for path, _ in found.open("stream")] == ORDER
    assert [label for _, label in found.open("stream")] == [4, 0, 1, 0, 3]
    assert found.manifest("stream")["classes"] == ["n01", "n05", "n33", "n07", "n09"]
    assert found.num_classes == 5


def test_another_order_is_another_data_set(images):
    for name, order in (("a.txt", ORDER), ("b.txt", ORDER[::-1])):
        (images / name).write_text("\n".join(order))
    assert stream(images, "a.txt").identity() != stream(images, "b.txt").identity()


def test_missing_images_and_sequences_are_named(images):
    (images / "sequence.txt").write_text("\n".join([*ORDER, "n01/n01_9.JPEG"]))
    with pytest.raises(UserError, match=r"1 of 6 images of .* are missing, such as .*n01_9\.JPEG"):
        stream(images, "sequence.txt")
    with pytest.raises(UserError, match=r"absent\.npy"):
        stream(images, "absent.npy")
    (images / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.txt names no image"):
        stream(images, "empty.txt")


@pytest.mark.parametrize(
    "name, content", [("a.npy", b"\x93NUMPY\x01"), ("a.npy", b""), ("a.txt", b"n01\xff\xe9")]
)
def test_a_damaged_sequence_is_named(images, name, content):
    (images / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        stream(images, name)


def test_names_that_are_no_text_are_refused(images):
    names = np.array(["n"])
    names.view(np.uint32)[0] = 0xC000063  # beyond Unicode
    np.save(images / "a.npy", names)
    with pytest.raises(UserError, match=r"a\.npy cannot be read"):
        stream(images, "a.npy")
