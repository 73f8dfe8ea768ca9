import os

import pytest
import torch

from mrl_experiments.checkpoint import read_checkpoint
from mrl_experiments.errors import UserError


def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"w": torch.arange(1000.0), "step": 3}, path)
    whole = path.read_bytes()
    assert read_checkpoint(path)["step"] == 3
    for number, place in enumerate(range(0, len(whole), 199)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << number % 8
        path.write_bytes(damaged)
        os.utime(path, ns=(number, number))
        try:
            content = read_checkpoint(path)
        except UserError as error:
            assert "last.ckpt" in str(error)
        else:  # a place that holds nothing
            assert torch.equal(content["w"], torch.arange(1000.0)) and content["step"] == 3


class Attack:
    def __reduce__(self):
        return (os.system, ("touch /tmp/never",))


@pytest.mark.parametrize(
    "content, said",
    [(Attack(), "more than tensors"), (b"", "damaged"), (b"PK\3\4" * 99, "damaged"), ([], "no")],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, said):
    path = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=said):
        read_checkpoint(path)


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="is a pipe"):
        read_checkpoint(tmp_path / "last.ckpt")
