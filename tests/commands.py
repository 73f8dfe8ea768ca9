"""Running the root scripts as a user does: in processes of their own."""

import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["data=digits", "model.arch=test_resnet", "model.name=tiny", "logger=csv", "epochs=2"]
COARSE = [*TINY, "data.source.scale=2"]  # images of 16 px, with which a step takes a third of the time
PR_SET_CHILD_SUBREAPER = 36  # of prctl: orphans among the descendants become children of this process


def need_ffcv() -> None:
    """Skip a test or a file where FFCV is not installed, without importing it, which compiles for 5 s."""
    if find_spec("ffcv") is None:
        pytest.skip("FFCV is not installed", allow_module_level=True)


class Forked:
    """A command that the fork server began, with what tests use of subprocess.Popen."""

    def __init__(self, arguments: list[str], unread: str | None, **request: object) -> None:
        self.args, self.returncode = arguments, None
        pipes = [os.pipe(), os.pipe()]
        asked = json.dumps({"arguments": arguments, **request}, default=str).encode()
        self.pid = _begun(asked, [written for _, written in pipes])
        self._texts, self._readers = ["", ""], []
        for number, (read, written) in enumerate(pipes):
            os.close(written)
            if unread == ("stdout", "stderr")[number]:
                os.close(read)
                continue
            self._readers.append(threading.Thread(target=self._read, args=(number, read), daemon=True))
            self._readers[-1].start()

    def _read(self, number: int, stream: int) -> None:
        with open(stream, encoding="utf-8", errors="backslashreplace") as file:
            self._texts[number] = file.read()

    def poll(self) -> int | None:
        if self.returncode is None:
            number, status = os.waitpid(self.pid, os.WNOHANG)
            if number:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        for reader in self._readers:
            reader.join(max(0, deadline - time.monotonic()))
        while any(reader.is_alive() for reader in self._readers) or self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return self._texts[0], self._texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(9)


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fork_server.py"), str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # which no one reads: commands get streams of their own, and pipes, too
            stderr=subprocess.PIPE,
        )
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


def _begun(request: bytes, streams: list[int]) -> int:
    """Return the number of the process that the fork server has begun, which is a child of this one."""
    adopt = ctypes.CDLL(None, use_errno=True).prctl
    server = _server()
    adopt(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(server, [request], streams)
        number = int(server.recv(64))
        server.recv(64)
    finally:
        adopt(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return number


def start(
    script: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    own_group: bool = False,
    unread: str | None = None,
) -> Forked:
    """Start a script.

    Args:
        own_group: With its own processes in a group, as a shell does.
        unread: Which of stdout and stderr is a pipe that nobody reads.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    typed = [str(ROOT / script), *map(str, arguments)]
    return Forked(typed, unread, folder=folder, environment=environment, own_group=own_group)


def run(
    script: str, *arguments: object, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    process = start(script, *arguments, **options)
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(script: str, *arguments: object, **options: Any) -> str:
    """Run a script that must end well; return what it printed."""
    done = run(script, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout
