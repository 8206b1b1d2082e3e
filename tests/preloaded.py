"""Children of a process that has imported everything: a test that kills one need not wait for torch and diffusers.

`start(code, *argv)` is `python -c code *argv` to the code that it runs, but begins in 20 ms. The server behind it has
imported, computed nothing and started no thread; it forks for each request and ends with the process of the tests.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

MODULES = [
    "torch",
    "torchvision.transforms.v2",
    "scipy.stats",
    "sklearn.datasets",
    "pyarrow.parquet",
    "peft",
    "diffusers.loaders.peft",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix",
    "diffusers.pipelines.ddpm.pipeline_ddpm",
    "transformers.models.clip.modeling_clip",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "synthaug.cli",
    "synthaug.experiment",
]


class Child:
    """What a test asks of a `subprocess.Popen`; only its parent, the server, can wait for it."""

    def __init__(self, pid: int, stdout: int) -> None:
        self.pid, self.stdout = pid, os.fdopen(stdout)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 100.0) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("child", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # until then its number is nobody else's
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    code: str, *argv: object, env: dict[str, str] | None = None, cwd: Path | None = None, stderr: Path | None = None
) -> Child:
    """Run code in a child that finds modules where the test does; stdout is a pipe to read, stderr a file if asked."""
    where = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    given = {"code": code, "argv": [str(each) for each in argv], "cwd": str(cwd or Path.cwd())}
    out, into = os.pipe()
    errors = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if stderr else os.dup(2)
    try:
        return Child(ask(given | {"env": dict(os.environ) | where | (env or {})}, into, errors), out)
    finally:
        os.close(into)
        os.close(errors)


@cache
def server() -> socket.socket:
    ours, its = socket.socketpair()
    subprocess.Popen([sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()], cwd=Path.cwd())
    its.close()
    return ours


def ask(request: dict[str, Any], *handles: int) -> Any:
    data = json.dumps(request).encode() + b"\n"
    if handles:
        data = data[socket.send_fds(server(), [data], handles) :]
    server().sendall(data)
    with server().makefile("rb") as answer:
        return json.loads(answer.readline())


# --- the server -----------------------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> dict[str, Any]:
    """Answers requests; comes back only in a child, with what it shall run."""
    for name in MODULES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would lose the other threads"
    gc.freeze()  # else each child's first collection copies all that is loaded
    while True:
        request, handles = receive(connection)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            connection.close()
            for handle, number in zip(handles, (1, 2), strict=True):
                os.dup2(handle, number)
                os.close(handle)
            return request
        for handle in handles:
            os.close(handle)
        connection.sendall(json.dumps(answer).encode() + b"\n")


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, handles = b"", []
    while not data.endswith(b"\n"):
        more, found, *_ = socket.recv_fds(connection, 1 << 16, 2)
        if not more:
            sys.exit()  # the tests have ended
        data, handles = data + more, handles + found
    return json.loads(data), handles


def become(request: dict[str, Any]) -> None:
    """From here on all is as if Python had just been started."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["-c", *request["argv"]]
    sys.path[:] = list(dict.fromkeys(["", *request["env"]["PYTHONPATH"].split(os.pathsep), *sys.path]))
    main = sys.modules["__main__"] = ModuleType("__main__")
    exec(compile(request["code"], "<child>", "exec"), vars(main))


def end_with(work: Callable[[], None]) -> NoReturn:
    """As Python ends, but for the 2 s in which it takes apart all that is loaded."""
    code: Any = 0
    try:
        work()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    end_with(lambda: become(request))
