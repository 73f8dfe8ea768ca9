"""Reading checkpoints: tensors and plain values only, with their checksums compared."""

import functools
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mrl_experiments.errors import UserError, said
from mrl_experiments.files import reading, require_regular

WRITTEN = "a checkpoint that train.py wrote"
REMEDY = "restore it from a copy, or delete it and repeat the train.py command, which starts anew"


def read_checkpoint(path: Path, *, mapped: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint on the CPU; `mapped`: its tensors are memory maps.

    Nothing but tensors and plain values is read, so a stranger's file runs no code. The checksums that
    torch.save wrote of every part are compared, once per process.

    Raises:
        UserError: If the file is missing, damaged, or holds anything else.
    """
    require_regular(path)
    with reading(path, WRITTEN, REMEDY):
        status = path.stat()
        _check_parts(path, status.st_size, status.st_mtime_ns)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} holds more than tensors and plain values: {said(error)}",
                expected=WRITTEN,
                remedy="do not use it: such files can run code",
            ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no checkpoint: it holds a {type(content).__name__}", remedy=REMEDY)
    return content


@functools.cache
def _check_parts(path: Path, size: int, changed: int) -> None:
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
