"""Locks between processes: one writer at a time; those who wait print who holds the lock."""

import errno
import fcntl
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from mrl_experiments.errors import UserError
from mrl_experiments.files import explain_os_errors, os_error


def acquire(lock: Path, purpose: str, *, wait: bool = True) -> ExitStack:
    """Return a lock, held until it is closed, its block ends or the process dies.

    Args:
        lock: The file that is locked, made where it is missing.
        purpose: What is done meanwhile, such as "writes kanji1k train", which those who wait print.
        wait: Whether to wait while another process holds it.

    Raises:
        BlockingIOError: If another process holds it and `wait` is false, with what the holder wrote.
        UserError: If the lock cannot be written, or is a link or no file: what it leads to would be cut.
    """
    file = _open(lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(file)
        if not wait:
            file.close()
            raise BlockingIOError(errno.EWOULDBLOCK, holder, str(lock)) from None
        print(f"waiting for {holder} ({lock})", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        file.close()
        raise UserError(
            f"{lock} cannot be locked: {error.strerror}",
            expected="a file system with locks",
            remedy="choose a folder on another disk",
        ) from error
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, which {purpose}")
        file.flush()
    except OSError as error:  # such as on a full disk
        with suppress(OSError):
            file.close()
        raise os_error(error, lock) from error
    held = ExitStack()
    held.callback(file.close)
    # Processes that were forked meanwhile, such as those that read data, have the same file: while one of
    # them lives, closing it alone would not release the lock.
    held.callback(fcntl.flock, file, fcntl.LOCK_UN)
    return held


def _open(lock: Path) -> IO[str]:
    with explain_os_errors(lock if os.path.lexists(lock) else lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            raise UserError(f"{lock} is no file", expected="a file of this program's own", remedy="remove it")
        return os.fdopen(os.open(lock, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666), "a+")


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(500).strip() or "another process"
