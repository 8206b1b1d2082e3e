"""Starting Ray on a machine that is busy, and what the doctor says of a well one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import synthaug
from shapes import Noise, tiny
from synthaug.cli import main
from synthaug.experiment import Sweep
from synthaug.runtime import cluster
from synthaug.settings import UserError

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.mark.parametrize(("failures", "starts"), [(0, True), (2, True), (3, False)])
def test_a_slow_start_is_tried_again(failures: int, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def init(**settings: object) -> None:
        tried.append(1)
        if len(tried) <= failures:
            raise Exception(SLOW)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if starts:
        cluster._begin({})
        assert len(tried) == failures + 1
    else:
        with pytest.raises(UserError, match="this machine is too busy"):
            cluster._begin({})


@pytest.mark.parametrize("error", [Exception("no\n  room"), RuntimeError("no room"), OSError("no room")])
def test_whatever_ray_says_at_its_start_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(cluster.NoRay, match=r"^Ray did not start \(no room\); its logs lie in /"):
        cluster._begin({})


def test_a_sweep_goes_on_without_a_ray_that_does_not_start(
    machine: Machine, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same results as one that asks for no Ray."""
    machine.error = Exception("no room")
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    sweep = Sweep(
        base=tiny(steps=2), arms={"plain": {}, "noise": {"method": Noise(), "k": 1}}, baseline="plain", seeds=1
    )
    found = synthaug.run(sweep, home=home)
    assert (
        "Ray did not start (no room)" in (err := capsys.readouterr().err) and "one after another in this process" in err
    )
    alone = synthaug.run(sweep, home=home.with_name("alone"), workers=0)
    tops = [[trial["metrics"]["test/top1"] for trial in answer["trials"]] for answer in (found, alone)]
    assert tops[0] == tops[1] and len(tops[0]) == 2
    with pytest.raises(UserError, match="^Ray did not start"):
        synthaug.run(tiny(steps=3), home=home, workers=2)


def test_an_address_where_nobody_answers(machine: Machine) -> None:
    for address, said in (("127.0.0.1:9", "refused"), ("ray://127.0.0.1:9", "refused"), ("127.0.0.1:99999", "")):
        with pytest.raises(UserError, match=f"^no Ray answers at '{address}': .*{said}"):
            cluster.start(address=address)


def test_an_address_of_something_else(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 0.2)
    monkeypatch.setattr(machine, "init", lambda **settings: time.sleep(2))
    monkeypatch.setattr(ray, "init", machine.init)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="is it a Ray's own port"):
            cluster.start(address=f"127.0.0.1:{other.getsockname()[1]}")


def test_what_goes_wrong_beside_other_work_is_told_to_who_needs_ray(machine: Machine) -> None:
    """Ray starts in a thread; none that waits for it may wait for ever."""
    machine.error = Exception("something else")
    assert cluster.begin() and not cluster.begin()
    for _ in range(2):
        with pytest.raises(cluster.NoRay, match="something else"):
            cluster.start()
    assert not cluster.has_started()


class Machine:
    """A Ray that has what it was asked for, on one node or several."""

    error: Exception | None = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cpus, self.nodes, self.gpus = 0, 1, 0
        monkeypatch.setattr(cluster, "_starting", None)
        monkeypatch.setattr(ray, "is_initialized", lambda: self.cpus > 0)
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(self.cpus)} | self.devices)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * self.nodes)

    def init(self, **settings: object) -> None:
        if self.error is not None:
            raise self.error
        self.cpus = self.nodes * int(str(settings["num_cpus"]))

    @property
    def devices(self) -> dict[str, float]:
        return {"GPU": float(self.gpus)} if self.gpus else {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(monkeypatch)
    if cluster._starting is not None:
        cluster._starting.stop.set()  # its thread lives as long as Ray does


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8, 64])
def test_a_sweep_fits_a_machine_of_any_size(cores: int, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CORES", cores)
    cluster.start()
    assert cluster.width() == cores
    cluster.start(actors=cores)


def test_there_is_a_process_for_each_gpu_and_no_more(machine: Machine) -> None:
    machine.gpus = 2
    cluster.start(actors=2)
    assert cluster.width() == 2
    with pytest.raises(UserError, match="^3 workers need a GPU each, this Ray has room for 2$"):
        cluster.start(actors=3)


def test_several_nodes_are_used_whole(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CORES", 8)
    machine.nodes = 3
    cluster.start()
    assert cluster.width() == 3 * 9 - 1
    cluster.start(actors=26)


def test_where_a_node_was_lost_fewer_go_on(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was refused nothing when it began, and has made its images."""
    machine.gpus = 4
    cluster.start(actors=4)
    assert cluster.fitting(4) == 4 and capsys.readouterr().err == ""
    machine.gpus = 3
    assert cluster.fitting(4) == 3 and cluster.fitting(2) == 2
    assert capsys.readouterr().err == "this Ray has room for 3 of 4 workers now; going on with 3\n"
    machine.gpus = 0
    monkeypatch.setattr(cluster, "room", lambda cpus_each: 0)
    with pytest.raises(UserError, match="^4 workers need .*, this Ray has room for 0$"):
        cluster.fitting(4)


def test_what_ray_says_while_it_ends_is_not_among_the_results(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.begin() and cluster._starting is not None
    thread = cluster._starting.thread
    monkeypatch.setattr(ray, "shutdown", lambda: print("(raylet) Task MapWorker.submit failed: Socket closed"))
    cluster.stop_own()
    print("results")
    assert capsys.readouterr().out == "results\n" and cluster._starting is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_ray_that_was_there_before_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.cpus = 3
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("it is not ours"))
    assert not cluster.begin() and cluster.has_started()
    cluster.stop_own()


def test_the_doctor_finds_nothing_wrong(home: Path, cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--home", str(home)]) == 0
    said = capsys.readouterr().out
    assert "nano:clip, nano:ddpm, nano:lcm, nano:pix2pix, nano:sd" in said and "ran a task" in said
