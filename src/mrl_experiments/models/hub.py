"""Weights from Hugging Face's hub: without a network at once an answer, from the cache or in one line."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from mrl_experiments.errors import UserError

PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")  # by which names are resolved elsewhere


def reachable() -> bool:
    """Return whether the hub's address can be found, or a proxy is to find it."""
    if any(os.environ.get(name) for name in PROXIES):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


@contextmanager
def hub(option: str) -> Iterator[None]:
    """Let weights come from the hub, or from its cache where no network is.

    The hub's library itself asks again for a minute and more, and logs each time twice.

    Args:
        option: What asks for the weights, such as "model.pretrained=true", for the message.

    Raises:
        UserError: If they are in no cache and the hub cannot be reached.
    """
    logger, before = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = logger.level
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = before or not reachable()
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(
            f"{option}: these weights are not on this machine, and {constants.ENDPOINT} cannot be reached",
            expected="a network, once, or a file of weights",
            remedy="connect, or copy the file here from elsewhere: model.pretrained=<file>",
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)
