"""Adaptors: what their kinds keep, and the file that holds one."""

import numpy as np
import pytest
import torch
from torch import nn

from mrl_experiments.adaptor_file import AdaptorFile
from mrl_experiments.errors import UserError
from mrl_experiments.models.adaptor import KINDS, Adaptor

WIDTH = 24
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((50, WIDTH)).astype(np.float32)


def rotation(width=WIDTH):
    return np.linalg.qr(RNG.standard_normal((width, width)))[0]


def trained(kind, steps=30):
    torch.manual_seed(0)
    adaptor = Adaptor(WIDTH, kind=kind)
    adaptor.start_from(rotation())
    x, wanted = torch.from_numpy(VECTORS), torch.randn(50, WIDTH)
    optimizer = torch.optim.AdamW(adaptor.parameters(), lr=0.01)
    for _ in range(steps):
        loss = (adaptor(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return adaptor.eval()


def file_of(adaptor):
    return AdaptorFile(adaptor.arrays(), (6, 12, WIDTH), "trained")


@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_the_closed_form(kind):
    adaptor, matrix = Adaptor(WIDTH, kind=kind).eval(), rotation()
    adaptor.start_from(matrix)
    np.testing.assert_allclose(adaptor(torch.from_numpy(VECTORS)).detach(), VECTORS @ matrix, atol=1e-5)
    assert {*adaptor.arrays()} == {"matrix"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_maps_as_the_module_does(kind, tmp_path):
    adaptor = trained(kind)
    file_of(adaptor).save(tmp_path / "a.safetensors")
    found = AdaptorFile.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(found.apply(VECTORS), adaptor(torch.from_numpy(VECTORS)), atol=1e-4)
    assert (found.dims, found.map, found.digest) == ([6, 12, WIDTH], "trained", file_of(adaptor).digest)
    assert found.digest != file_of(trained(kind, steps=29)).digest


def test_an_orthogonal_map_keeps_cosines_after_training():
    adaptor = trained("orthogonal")
    assert np.abs(adaptor.arrays()["matrix"] - adaptor.start.numpy()).max() > 0.05  # it has learned
    z = file_of(adaptor).apply(VECTORS)
    before, after = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (VECTORS, z))
    assert np.abs(before @ before.T - after @ after.T).max() <= 1e-6


def test_an_orthogonal_map_stays_one_after_any_step_and_keeps_the_spans_of_prefixes():
    adaptor = Adaptor(WIDTH).train()
    stepped = RNG.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    with torch.no_grad():
        adaptor.linear.weight.copy_(torch.from_numpy(10 * stepped))
        z = adaptor(torch.from_numpy(stepped[:3]))  # in the span of the first three rows
    assert np.abs(z[:, 3:].numpy()).max() < 1e-4
    weight = adaptor.linear.weight.detach()
    np.testing.assert_allclose(weight @ weight.T, np.eye(WIDTH), atol=1e-5)


def test_pairs_are_mapped_by_any_matrix_and_other_vectors_by_an_orthogonal_one():
    assert [Adaptor(4).kind, Adaptor(4, pairs=1).kind] == ["orthogonal", "linear"]
    assert Adaptor(4, pairs=1, kind="orthogonal").kind == "orthogonal"


def test_an_mlp_keeps_the_scale_of_a_vector():
    found = file_of(trained("mlp"))
    assert "mlp_in" in found.arrays
    np.testing.assert_allclose(found.apply(3 * VECTORS), 3 * found.apply(VECTORS), atol=1e-4)
    assert not found.apply(np.zeros((1, WIDTH), np.float32)).any()


def test_use_makes_it_a_linear_map_alone():
    adaptor = trained("mlp")
    adaptor.use(np.eye(WIDTH))
    np.testing.assert_allclose(adaptor(torch.from_numpy(VECTORS)).detach(), VECTORS, atol=1e-6)
    assert isinstance(adaptor.mlp, nn.Sequential)


def test_a_damaged_file_or_another_width_is_one_message(tmp_path):
    path = tmp_path / "a.safetensors"
    file_of(trained("linear", steps=1)).save(path)
    with pytest.raises(UserError, match="vectors of 5 dims"):
        AdaptorFile.load(path).apply(VECTORS[:, :5])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="its digest is another"):
        AdaptorFile.load(path)
    with pytest.raises(UserError, match=r"model\.kind=cubic"):
        Adaptor(4, kind="cubic")
