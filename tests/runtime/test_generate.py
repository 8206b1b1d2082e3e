from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shapes import NANO, Fragile, Noise, tiny
from synthaug.experiment import Experiment, replace
from synthaug.methods.real_guidance import RealGuidance
from synthaug.runtime import generate
from synthaug.runtime.generate import make_images, open_job, read_images
from synthaug.runtime.store import Artefact, Store
from synthaug.settings import UserError


def quiet(text: str) -> None: ...


def made(home: Path, experiment: Experiment, workers: int = 0) -> Path:
    (artefact,) = make_images(Store(home).prepare(), [experiment], workers, quiet).values()
    return artefact.path


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SHARD", 8)


def experiment(**fields: object) -> Experiment:
    return tiny(**({"method": Noise(), "k": 3} | fields))


def test_a_shard_is_one_variant_of_consecutive_sources(home: Path, many_shards: None) -> None:
    store = Store(home).prepare()
    job = open_job(store, experiment())
    assert len(job.sources) == 20 and job.blocks == 3
    assert [v for n in job.shards([1, 2, 3]) for v in job.variants(n)] == [1, 2, 3] * 3, (
        "block by block, variant by variant"
    )
    made(home, experiment())
    samples = read_images(store, job, 3)
    assert sorted((s.source, s.variant) for s in samples) == sorted((e.id, v) for e in job.sources for v in (1, 2, 3))
    labels = {entry.id: entry.label for entry in job.sources}
    assert all(s.label == ((labels[s.source], 1.0),) and s.method == job.node.key for s in samples)
    assert len({s.seed for s in samples}) == 60
    assert all(s.prompt == f"a photo of a {s.target}" for s in samples)


def test_more_variants_only_add_shards(home: Path, many_shards: None) -> None:
    folder = made(home, experiment(k=3))
    before = parts(folder)
    ages = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert made(home, experiment(k=5)) == folder
    after = parts(folder)
    assert len(before) == 9 and len(after) == 15 and before.items() < after.items()
    assert all(path.stat().st_mtime_ns == age for path, age in ages.items()), "none was made again"
    assert json.loads((folder / "manifest.json").read_text())["variants"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("harm", ["truncated", "changed", "gone", "lying receipt", "no receipt", "torn receipt"])
def test_a_damaged_shard_is_found_and_made_anew(harm: str, home: Path, many_shards: None) -> None:
    folder = made(home, experiment())
    whole = parts(folder)
    name, receipt = sorted(whole)[4], folder / "part-00004.json"
    if harm == "truncated":
        (folder / name).write_bytes(whole[name][:-10])
    elif harm == "changed":
        (folder / name).write_bytes(bytes([whole[name][0] ^ 1]) + whole[name][1:])
    elif harm == "gone":
        (folder / name).unlink()
    elif harm == "lying receipt":
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"part": sorted(whole)[5], "sha256": "0" * 64}))
    elif harm == "no receipt":
        receipt.unlink()
    elif harm == "torn receipt":
        receipt.write_text(receipt.read_text()[:30])
    store = Store(home)
    with pytest.raises(UserError, match="damaged or missing"):
        read_images(store, open_job(store, experiment()), 3)
    made(home, experiment())
    assert parts(folder) == whole


def test_generation_is_the_same_with_no_one_and_two_actors(tmp_path: Path, cluster: None) -> None:
    """With an eighth method that only this folder of tests knows."""
    wanted = parts(made(tmp_path / "none", experiment(k=4)))
    assert len(wanted) == 4
    assert parts(made(tmp_path / "one", experiment(k=4), workers=1)) == wanted
    assert parts(made(tmp_path / "two", experiment(k=4), workers=2)) == wanted


def test_an_actor_that_is_killed_is_replaced_and_leaves_the_same_images(tmp_path: Path, cluster: None) -> None:
    fragile = experiment(method=Fragile(marker=str(tmp_path / "marker")), k=3)
    folder = made(tmp_path / "killed", fragile, workers=1)
    assert (tmp_path / "marker").exists()
    store = Store(tmp_path / "killed")
    again = read_images(store, open_job(store, fragile), 3)
    made(tmp_path / "whole", experiment())
    store = Store(tmp_path / "whole")
    whole = read_images(store, open_job(store, experiment()), 3)
    assert [s.image for s in again] == [s.image for s in whole] and len(parts(folder)) == 3


def test_two_drivers_of_one_cluster_make_nothing_twice(tmp_path: Path, cluster: None) -> None:
    said: list[str] = []

    def drive(number: int) -> Artefact:
        (artefact,) = make_images(Store(tmp_path).prepare(), [experiment()], 1, said.append).values()
        return artefact

    with ThreadPoolExecutor() as threads:
        artefacts = list(threads.map(drive, range(2)))
    assert sorted(artefact.cached for artefact in artefacts) == [False, True]
    assert any("another process is making it, waiting" in line for line in said)


CHILD = """
import sys, time
from shapes import NANO, Fragile, Noise, tiny
from synthaug.methods.real_guidance import RealGuidance
from synthaug.runtime import generate
from synthaug.runtime.generate import make_images
from synthaug.runtime.store import Store
generate.SHARD = 2
whole = generate.generate_shard
def slow(*arguments):
    receipt = whole(*arguments)
    print(receipt["part"], flush=True)
    time.sleep(float(sys.argv[2]))
    return receipt
generate.generate_shard = slow
make_images(Store(sys.argv[1]).prepare(), [tiny(method=Noise(), k=3)], 0, lambda text: print(text, flush=True))
print("finished", flush=True)
"""


def child(home: Path, pause: float) -> subprocess.Popen[str]:
    where = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(home), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": where})


def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = child(tmp_path / "killed", pause=60)
    assert process.stdout is not None and process.stdout.readline().startswith("part-")
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(generate, "SHARD", 2)
    store = Store(tmp_path / "killed")
    left = open_job(store, experiment()).missing(store)
    assert 0 < len(left) < 30, "some were made, some were left to do"
    assert parts(made(tmp_path / "killed", experiment())) == parts(made(tmp_path / "whole", experiment()))


def test_two_at_once_both_finish_and_make_nothing_twice(tmp_path: Path) -> None:
    one = child(tmp_path, pause=0.05)
    assert one.stdout is not None
    first = one.stdout.readline()
    two = child(tmp_path, pause=0.05)
    said = [first + one.communicate(timeout=100)[0], two.communicate(timeout=100)[0]]
    assert one.returncode == two.returncode == 0
    assert all(text.endswith("finished\n") for text in said)
    assert "another process is making it, waiting" in said[1]
    assert (said[0] + said[1]).count("part-") == 30


def test_a_full_disk_ends_cleanly_and_keeps_what_is_finished(
    home: Path, many_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from synthaug.runtime import store as store_module

    real, written = os.replace, []

    def full(source: object, target: object) -> None:
        written.append(target)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(store_module.os, "replace", full)
    with pytest.raises(UserError, match="the disk is full .* run the same command again"):
        made(home, experiment())
    monkeypatch.setattr(store_module.os, "replace", real)
    store = Store(home)
    job = open_job(store, experiment())
    assert len(job.missing(store, read=True)) == 9 - 3, "three shards have a part and a receipt"
    assert not list(store.folder(job.node).glob(".*")), "no half-written file is left"
    made(home, experiment())
    assert not job.missing(store, read=True)


def test_bad_requests_are_refused_at_once_with_the_numbers(home: Path, cluster: None) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"500 workers need 500 x 1 \+ 1 CPUs, this Ray has room for"):
        made(home, experiment(), workers=500)
    assert time.monotonic() - started < 20


def test_strength_and_steps_share_their_noise(home: Path) -> None:
    store = Store(home).prepare()
    job, other = open_job(store, experiment()), open_job(store, replace(experiment(), {"method.amount": 5}))
    assert job.node.key != other.node.key

    def seeds(experiment: Experiment) -> list[int]:
        made(home, experiment)
        return [s.seed for s in read_images(store, open_job(store, experiment), 2)]

    assert seeds(experiment()) == seeds(replace(experiment(), {"method.amount": 5}))


def test_a_prompt_that_would_be_cut_is_refused_before_the_first_image(home: Path) -> None:
    long = replace(tiny(method=RealGuidance(), backbone=NANO), {"dataset.prompt": "a photo of a {}" + " very" * 80})
    with pytest.raises(UserError, match=r"the prompt 'a photo of a . very .* the text encoder reads 77"):
        made(home, long)
    assert not list(home.glob("store/generate/*/part-*"))
