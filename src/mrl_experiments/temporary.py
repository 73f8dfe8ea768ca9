"""A folder for the temporary files of a command, which goes with it however the command ends."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "mrl-"
LONGEST = 60  # bytes of its path: sockets inside it may have at most 107
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # environment: where compiled code is kept from one run to the next


def use_own_folder() -> None:
    """Let this process and all that it starts keep temporary files in one folder, removed when it ends.

    Processes that read data, and Weights & Biases, leave theirs behind when they are killed. A shell that
    waits for the end of this process removes the folder, so that even `kill -9` leaves nothing. Processes
    that such a process starts use its folder.
    """
    usual = tempfile.gettempdir()
    if Path(usual).name.startswith(PREFIX):
        return
    with suppress(OSError):
        folder = tempfile.mkdtemp(prefix=PREFIX)
        if len(os.fsencode(folder)) > LONGEST:
            shutil.rmtree(folder)
            return
        reading, _ = os.pipe()  # its other end stays open in this process and in those that it forks
        try:
            remove = ["sh", "-c", 'read -r _; rm -rf -- "$0"', folder]
            nowhere = subprocess.DEVNULL
            subprocess.Popen(remove, stdin=reading, stdout=nowhere, stderr=nowhere, start_new_session=True)
        finally:
            os.close(reading)
        os.environ.setdefault(COMPILED, str(Path("~/.cache/torchinductor").expanduser()))
        os.environ["TMPDIR"] = tempfile.tempdir = folder
