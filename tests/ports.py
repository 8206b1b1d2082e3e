"""Servers that a test starts: a free port, and when somebody listens there."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

LONGEST_S = 180  # the machine may be busy


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[str], log: Path) -> None:
    """Until the server listens; if it ends before, what it has said."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nobody listens at {port} after {LONGEST_S} s: {log.read_text()}")
