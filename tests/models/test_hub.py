"""Weights from the hub, without a network."""

import socket
import time

import pytest
from huggingface_hub import constants

from mrl_experiments.errors import UserError
from mrl_experiments.models import hub
from mrl_experiments.models.timm_backbone import TimmBackbone


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def unknown(*_):
        raise socket.gaierror(-2, "Name or service not known")

    for name in hub.PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_without_a_network_missing_weights_are_one_message_at_once(no_network, capfd):
    start = time.monotonic()
    with pytest.raises(UserError, match=r"^model\.pretrained=true: these weights are not on this") as refused:
        TimmBackbone(arch="resnet10t", name="x", channels=1, size=32, pretrained=True)
    assert "model.pretrained=<file>" in refused.value.remedy
    assert time.monotonic() - start < 20  # the hub's own attempts take more than a minute
    assert "etry" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE  # for others in this process


def test_a_proxy_finds_the_hub(no_network, monkeypatch):
    assert not hub.reachable()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert hub.reachable()
