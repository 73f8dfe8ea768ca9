"""`serve.py`: a run behind HTTP until it is told to stop."""

import os
import socket
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig

from mrl_experiments.errors import UserError
from mrl_experiments.packages import needed
from mrl_experiments.sweeps import Stopped

PACKAGES = ("fastapi", "pydantic", "uvicorn", "prometheus_client")
LEAVE = 10  # seconds that requests have to be answered after SIGTERM


def serve(cfg: DictConfig) -> None:
    """Serve a run until SIGTERM or Ctrl-C, after which requests that are there are answered.

    Raises:
        UserError: For a package that is missing, a port that is taken, a key that is not there, and as
            `open_service`.
    """
    for package in PACKAGES:
        needed(package, "serve.py", "serve")
    import torch
    import uvicorn

    from mrl_experiments.serve.app import build_app
    from mrl_experiments.serve.guard import Bounds, impatient
    from mrl_experiments.serve.service import open_service

    key = _key(cfg.api_key)
    listening = _bound(cfg.host, cfg.port)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    service = open_service(cfg)
    bounds = Bounds(cfg.request_bytes, cfg.queue_bytes, cfg.request_seconds)
    settings = uvicorn.Config(
        build_app(service, bounds, key),
        http=impatient(bounds.seconds),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=cfg.connections,
        timeout_graceful_shutdown=LEAVE,
    )

    class Server(uvicorn.Server):
        """One that says when it can be asked."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(f"serving {service.model.run.name} on {_address(listening)}", flush=True)

    with suppress(Stopped):  # which uvicorn repeats once it has left
        try:
            Server(settings).run([listening])
        except OSError as error:
            raise _taken(cfg.host, cfg.port, error) from error
    print("stopped", flush=True)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(
            f"api_key={variable}: the environment has no such variable, or an empty one",
            expected="the name of a variable that holds the key",
            remedy=f"export {variable}=...",
        )
    return key


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, before a model is loaded for nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise _taken(host, port, error) from error
    return listening


def _taken(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"host={host} port={port}: {error.strerror or error}",
        expected="an address of this machine, and a port that no program listens on",
        remedy="name another one: port=8001; port=0 takes any that is free",
    )


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
