"""Tracking on a server: MLflow over http, its database in PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import synthaug
from ports import free_port, wait_for
from shapes import Noise, tiny
from synthaug import cli
from synthaug.experiment import Sweep

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
pytestmark = pytest.mark.skipif(
    not (BINARIES / "initdb").exists(), reason="no PostgreSQL here: apt-get install postgresql"
)
SWEEP = Sweep(base=tiny(), arms={"plain": {}, "noise": {"method": Noise(), "k": 1}}, baseline="plain", seeds=2)


def as_user(*command: str) -> None:
    """As an ordinary user: PostgreSQL does not run as root."""
    ordinary = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    subprocess.run([*ordinary, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Its address; it listens at a file and at no port."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a short path, which sockets want, that others may enter
    if os.getuid() == 0:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    as_user(str(BINARIES / "initdb"), "-D", f"{folder}/db", "-U", "mlflow", "--auth=trust", "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    as_user(str(BINARIES / "pg_ctl"), "-D", f"{folder}/db", "-o", options, "-l", f"{folder}/log", "-w", "start")
    yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
    as_user(str(BINARIES / "pg_ctl"), "-D", f"{folder}/db", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(tmp_path_factory.mktemp("artifacts"))]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = tmp_path_factory.mktemp("log") / "server"
    with log.open("w") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out, text=True)
    try:
        wait_for(port, running, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait()


def test_a_sweep_is_tracked_there_once(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    answer = synthaug.run(SWEEP, home=home, workers=0, name="file:sweep")
    client = MlflowClient(server)
    (experiment,) = client.search_experiments(filter_string="name = 'file:sweep'")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 2 + 4 and {run.info.status for run in runs} == {"FINISHED"}
    mean = sum(t["metrics"]["test/top1"] for t in answer["trials"] if t["arm"] == "noise") / 2
    noise = next(run for run in runs if run.info.run_id == answer["points"][1]["run_id"])
    assert noise.data.metrics["test/top1"] == pytest.approx(mean)
    shown = [file.path for file in client.list_artifacts(noise.info.run_id, "images")]
    assert any("gallery" in path for path in shown), "through the server's own artifact store"
    assert f"mlflow.sharedViewState.{answer['run_id']}" in experiment.tags
    again = synthaug.run(SWEEP, home=home, workers=0, name="file:sweep")
    assert [t["run_id"] for t in again["trials"]] == [t["run_id"] for t in answer["trials"]]
    assert len(client.search_runs([experiment.experiment_id])) == len(runs)
    assert not (home / "mlflow.db").exists()
    capsys.readouterr()
    assert cli.main(["ui", "--home", str(home)]) == 2
    assert f"runs are tracked by the server at {server}" in capsys.readouterr().err
