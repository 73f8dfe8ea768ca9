"""Start commands as forks of a process that has imported what they import, which takes seconds each time.

python tests/fork_server.py <number of a socket>: a request names arguments, environment and folder, and
brings two streams. Its answer is the number of a process, which becomes a child of the one that asked.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
from importlib import import_module

LARGEST = 1 << 17  # bytes of a request
MODULES = (
    "mrl_experiments.cli.train",
    "mrl_experiments.training.train",
    "mrl_experiments.data.images.digits",
    "mrl_experiments.data.images.image_data",
    "mrl_experiments.data.loaders.torch_loader",
    "mrl_experiments.data.vectors.vector_data",
    "mrl_experiments.embed",
    "mrl_experiments.evaluate",
    "mrl_experiments.evaluations.knn",
    "mrl_experiments.report.write",
    "sklearn.datasets",
    "sympy",
)


def requested(asking: socket.socket) -> dict:
    """Return what was asked for, in a process for it alone."""
    while True:
        message, streams, *_ = socket.recv_fds(asking, LARGEST, 2)
        if not message:
            sys.exit()
        if (between := os.fork()) == 0:
            if number := os.fork():
                asking.send(str(number).encode())
                os._exit(0)
            asking.close()
            for stream, target in zip(streams, (1, 2), strict=True):
                os.dup2(stream, target)
                os.close(stream)
            return json.loads(message)
        for stream in streams:
            os.close(stream)
        os.waitpid(between, 0)
        asking.send(b"left")  # the process has another parent from now on


def main() -> None:
    """Import, wait for requests, and be the command in each fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from mrl_experiments.deferred import defer_metrics

    defer_metrics()
    for module in MODULES:
        import_module(module)
    gc.freeze()
    request = requested(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["own_group"]:
        os.setpgid(0, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdout.reconfigure(encoding=encoding)
        sys.stderr.reconfigure(encoding=encoding)
    sys.argv = request["arguments"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    be_the_command()


def be_the_command() -> None:
    """Run the script and leave as Python does, but for freeing all modules, which takes a second."""
    status: object = None
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as left:
        status = left.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.write(2, f"Exception ignored in: {stream.name}: {error}".encode())
            status = 120
    os._exit(status or 0)


if __name__ == "__main__":
    main()
