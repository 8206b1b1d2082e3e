"""Starting Ray, or finding it, and refusing at once what it could never run."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from threading import Event, Thread
from types import TracebackType
from typing import Any

from synthaug.progress import say
from synthaug.settings import UserError

# those that this process may use: a container may have been given fewer than the machine has
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
NAMESPACE = "synthaug"
LOGS = "/tmp/ray/session_latest/logs"
ANSWER_S = 30.0  # a Ray that is asked for by its address answers sooner, or never
ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # who asks for no GPU keeps CUDA_VISIBLE_DEVICES
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else a warning about Ray Data's own actors, each time
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # there is one line of ours
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else every worker resolves the environment again
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "3600",  # after 60 s it gives up, and tries again
}
_starting: _Starting | None = None


class NoRay(UserError):
    """A Ray of our own does not start on this machine."""


def begin(*, address: str | None = None, dashboard: bool = False) -> bool:
    """Let Ray start beside what else is to be done, here or at an address, unless it runs already; whether it does."""
    global _starting
    import ray

    if _starting is not None or ray.is_initialized():
        return False
    _starting = _Starting(address, dashboard)
    return True


def has_started() -> bool:
    """Whether Ray can be used at once."""
    import ray

    return ray.is_initialized() and (_starting is None or _starting.done.is_set())


def start(*, actors: int = 0, cpus_each: float = 1.0, address: str | None = None, dashboard: bool = False) -> None:
    """Ray, once it is there; refuses more actors than it has room for."""
    begin(address=address, dashboard=dashboard)
    if _starting is not None:
        _starting.wait()
    # Ray would wait for ever for room that never comes, without a word
    if actors > (most := room(cpus_each)):
        each = "a GPU each" if has_gpu() else f"{actors} x {cpus_each:g} + 1 CPUs"
        raise UserError(f"{actors} workers need {each}, this Ray has room for {most}")


def fitting(workers: int, cpus_each: float = 1.0, dashboard: bool = False) -> int:
    """Those of some workers, which there was room for when they were asked for, that there is room for now: a node may
    have been lost meanwhile, and fewer make the same."""
    start(dashboard=dashboard)
    most = room(cpus_each)
    if not most:
        start(actors=workers, cpus_each=cpus_each)
    if most < workers:
        say(f"this Ray has room for {most} of {workers} workers now; going on with {most}")
    return min(workers, most)


class _Starting:
    """A thread that starts Ray and lives as long as it does: a Ray whose thread has ended goes with it."""

    def __init__(self, address: str | None, dashboard: bool) -> None:
        self.address, self.dashboard = address, dashboard
        self.done, self.stop = Event(), Event()
        self.error: BaseException | None = None
        self.thread = Thread(target=self._run, name="ray", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        global _starting
        if not self.done.wait(ANSWER_S if self.address else None):
            _starting = None
            raise UserError(f"no Ray answers at {self.address!r} within {ANSWER_S:.0f} s; is it a Ray's own port?")
        if self.error is not None:
            _starting = None  # the next may be another address
            self.stop.set()
            raise self.error

    def _run(self) -> None:
        with self:
            _init(self.address, self.dashboard)
        self.stop.wait()

    def __enter__(self) -> _Starting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        """Whatever went wrong, a bare Exception of Ray's too, is raised by those who wait."""
        self.error = error
        self.done.set()
        return True


def _init(address: str | None, dashboard: bool) -> None:
    """What Ray is told, and why, before it starts."""
    # before Ray starts, whose processes inherit them; what somebody has set himself stays
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _connect(address, common)
    else:
        # CPUs are tokens: one more than there are, and four at least, so that Ray's own helpers do not starve ours
        _begin(common | {"num_cpus": max(4, CORES + 1), "include_dashboard": dashboard})


def _begin(settings: dict[str, Any]) -> None:
    """A Ray of our own; on a busy machine it may not be there within the half minute that it gives itself."""
    import ray

    for _ in range(3):
        with _Patience() as patience, _mute():
            ray.init(address="local", **settings)  # never one that RAY_ADDRESS names
        if not patience.said:
            return
        ray.shutdown()
        if not patience.late:
            raise NoRay(f"Ray did not start ({patience.said:.120}); its logs lie in {LOGS}")
    raise NoRay("Ray did not start in 90 s: this machine is too busy")


class _Patience:
    """Keeps what Ray says when it does not start, for which it has no class, only bare Exceptions and RuntimeErrors of
    many lines; `late`: that it was too slow."""

    late, said = False, ""

    def __enter__(self) -> _Patience:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        self.said = " ".join(str(error).split()) or type(error).__name__
        self.late = "timed out during startup" in self.said
        return True


@contextmanager
def _mute() -> Iterator[None]:
    """Ray's own process speaks to stderr from C++ while it starts; what goes wrong comes as an exception. What we say
    meanwhile goes where it always went."""
    kept, ours = os.dup(2), sys.stderr
    with open(os.devnull, "w") as nothing:
        sys.stderr.flush()
        sys.stderr = open(os.dup(kept), "w", buffering=1)  # noqa: SIM115
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr.close()
        sys.stderr = ours


def _connect(address: str, common: dict[str, Any]) -> None:
    import ray

    if found := re.fullmatch(r"(?:ray://)?(?P<host>[^:/]+):(?P<port>\d+)", address):
        try:
            # asked first: Ray itself would try for a quarter of an hour
            socket.create_connection((found["host"], int(found["port"])), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"no Ray answers at {address!r}: {error}") from None
    try:
        ray.init(address=address, **common)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray answers at {address!r}: {str(error).splitlines()[0]}") from None


def stop_own() -> None:
    """End the Ray that this process started or joined; one that was there before stays."""
    global _starting
    if _starting is not None:
        import ray

        # a check may have failed meanwhile: what is still starting cannot be stopped, and would be left behind
        if _starting.address is None:
            _starting.done.wait()
        # an actor that ends with it is reported on stdout, where our results may have been printed already
        with redirect_stdout(StringIO()):
            ray.shutdown()
        _starting.stop.set()
        _starting = None


def is_small() -> bool:
    """Whether this process could compute as well as any that Ray would start: one machine, and no GPU on it."""
    import torch

    return _starting is not None and _starting.address is None and not torch.cuda.is_available()


def answers() -> tuple[bool, int]:
    """Whether Ray runs a task, and with how many CPU tokens."""
    start()
    import ray

    answer = ray.get(ray.remote(lambda: 42).remote(), timeout=60)  # else it would wait for what a firewall stops
    return answer == 42, int(ray.cluster_resources().get("CPU", 0))


def has_gpu() -> bool:
    import ray

    return bool(ray.cluster_resources().get("GPU", 0) > 0)


def quiet_data_context() -> None:
    """Ray Data's own bars off, no giving up on slow shards, models that failed to load once are tried again."""
    import ray

    logging.getLogger("ray.data._internal").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = 6 * 3600  # a shard of a slow model is long; `start` checks the room
    context.max_consecutive_actor_init_deaths = 2  # by default the first that dies while it loads ends the job


def width() -> int:
    """Processes that compute side by side: one for each GPU, else one for each real core."""
    import ray

    # on one machine without GPUs there are more CPU tokens than cores (see `_init`), and cores compute
    return room() if has_gpu() or sum(node["Alive"] for node in ray.nodes()) > 1 else min(CORES, room())


def room(cpus_each: float = 1.0) -> int:
    """How many processes that compute there is room for: one for each GPU, else all CPUs but one, which is Ray's."""
    import ray

    there = ray.cluster_resources()
    return int(there["GPU"]) if has_gpu() else max(0, int(there.get("CPU", 0) / cpus_each) - 1)
