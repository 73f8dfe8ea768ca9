"""What tests of the service share: pictures as data URLs, its options, and serve.py as a process."""

import base64
import io
import socket
import time

from commands import start
from composing import composed
from PIL import Image

HOST = "127.0.0.1"


def data_url(pixels, form="png"):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, form)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def options(run, *typed):
    return composed("serve", f"run={run.name}", f"root={run.root}", "threads=1", *typed)


class Process:
    """serve.py in a process of its own."""

    def __init__(self, run, *typed, env=None):
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        typed = [f"run={run.name}", f"root={run.root}", f"port={self.port}", "threads=1", *typed]
        self.url = f"http://{HOST}:{self.port}"
        self.process = start("serve.py", *typed, env=env)
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            try:
                with socket.create_connection((HOST, self.port), 1):
                    return
            except OSError:
                time.sleep(0.05)

    def end(self, number=15):
        """Send a signal; return the exit status, and what was printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err
