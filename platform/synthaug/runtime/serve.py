"""The MLflow UI on the right store."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from synthaug.runtime.store import Store
from synthaug.runtime.tracking import SWEEP, Tracker
from synthaug.settings import UserError


def serve(home: Path, port: int) -> None:
    """Replace this process by the MLflow server, on 127.0.0.1 only."""
    store = Store(home)
    if not (store.home / "mlflow.db").exists():
        raise UserError(f"nothing has been run in {str(store.home)!r} yet: synthaug run REF, or name another --home")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"port {port} is taken; choose another with --port")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # ten busy processes for what is not used
    address = f"http://127.0.0.1:{port}/#/{place(store.home / 'mlflow.db')}"
    print(f"MLflow with the runs of {store.home}: {address}  (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        Tracker(store.home, "").uri,
        "--artifacts-destination",
        str(store.home / "artifacts"),
    ]
    # in the place of this process, so that Ctrl-C reaches the server and nothing else
    os.execv(sys.executable, command)


def place(database: Path) -> str:
    """Where the UI begins: at the points of the sweep that ran last, or else at all experiments."""
    query = (
        "select runs.run_uuid, runs.experiment_id from runs join tags on tags.run_uuid = runs.run_uuid "
        "where tags.key = 'synthaug.kind' and tags.value = 'sweep' order by runs.start_time desc limit 1"
    )
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found = connection.execute(query).fetchone()
    except sqlite3.Error:  # another server's, or another version's
        found = None
    if found is None:
        return "experiments?workflowType=machine_learning"  # without this it begins at the traces of agents
    below = quote(f"tags.`{SWEEP}` = '{found[0]}' and tags.`synthaug.kind` = 'point'")
    return f"experiments/{found[1]}/runs?workflowType=machine_learning&searchFilter={below}"
