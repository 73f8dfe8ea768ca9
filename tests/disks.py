"""Small and read-only disks, where this account may mount them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tiny_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount an empty disk of a few megabytes at `folder`."""
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"):
        yield folder


@contextmanager
def read_only(content: Path, folder: Path) -> Iterator[Path]:
    """Show what lies under `content` at `folder`, where nothing can be written."""
    with _mounted(folder, "--bind", str(content)):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield folder


@contextmanager
def _mounted(folder: Path, *what: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(["mount", *what, folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
