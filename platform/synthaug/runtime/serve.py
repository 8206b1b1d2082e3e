"""The MLflow UI on the right store."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from synthaug.runtime.database import NAME, trouble_of
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import Tracker
from synthaug.runtime.views import place
from synthaug.settings import UserError


def serve(home: Path, port: int) -> None:
    """Replace this process by the MLflow server, on 127.0.0.1 only."""
    store = Store(home)
    uri = Tracker(store.home, "").uri
    if uri.startswith("http"):
        raise UserError(f"runs are tracked by the server at {uri} (MLFLOW_TRACKING_URI): open that in a browser")
    if not (database := store.home / NAME).exists():
        raise UserError(f"nothing has been run in {str(store.home)!r} yet: synthaug run REF, or name another --home")
    if trouble := trouble_of(database):
        said = "`synthaug run` of anything sets it aside and writes its runs again from the store"
        raise UserError(f"{database} is damaged ({trouble}); {said}")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken; choose another with --port")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # ten busy processes for what is not used
    address = f"http://127.0.0.1:{port}/#/{place(database)}"
    print(f"MLflow with the runs of {store.home}: {address}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(store.home / "artifacts")]
    # in the place of this process, so that Ctrl-C reaches the server and nothing else
    os.execv(sys.executable, command)
