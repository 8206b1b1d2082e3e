from __future__ import annotations

import errno
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import preloaded
import synthaug
from making import made_in, place_of
from shapes import NANO, Fragile, Noise, tiny
from synthaug.data.sample import Sample
from synthaug.experiment import Experiment, replace
from synthaug.methods.real_guidance import RealGuidance
from synthaug.runtime import disk
from synthaug.runtime.executors import Workers
from synthaug.runtime.make import Here, Listener, Made, Plan
from synthaug.runtime.store import Store
from synthaug.settings import UserError
from synthaug.stages import images
from synthaug.stages.images import Generated


def made(home: Path, experiment: Experiment, workers: int = 0) -> Path:
    store, _ = made_in(home, experiment, "generate", workers=workers)
    return place_of(store, experiment, "generate")


def stage_of(store: Store, experiment: Experiment) -> Generated:
    generated = store.line(experiment).generated
    assert generated is not None
    return generated


def samples_of(store: Store, experiment: Experiment) -> list[Sample]:
    found: list[Sample] = store.load(stage_of(store, experiment)).samples(experiment.k)
    return found


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SHARD", 8)


def experiment(**fields: object) -> Experiment:
    return tiny(**({"method": Noise(), "k": 3} | fields))


def test_a_shard_is_one_variant_of_consecutive_sources(home: Path, many_shards: None) -> None:
    store = Store(home).prepare()
    stage = stage_of(store, experiment())
    sources, units = stage.sources(store.given(stage)), stage.units(store.given(stage))
    assert len(sources) == 20 and images.blocks_of(20) == 3 and units == stage.shards([1, 2, 3], 20)
    assert [v for n in units for v in stage.variants(n, 20)] == [1, 2, 3] * 3, "block by block, variant by variant"
    made(home, experiment())
    samples = samples_of(store, experiment())
    assert sorted((s.source, s.variant) for s in samples) == sorted((e.id, v) for e in sources for v in (1, 2, 3))
    labels = {entry.id: entry.label for entry in sources}
    assert all(s.label == ((labels[s.source], 1.0),) and s.method == stage.key for s in samples)
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
    with pytest.raises(UserError, match="damaged or missing"):
        samples_of(Store(home), experiment())
    made(home, experiment())
    assert parts(folder) == whole


def test_an_actor_that_is_killed_is_replaced_and_leaves_the_same_images(tmp_path: Path, cluster: None) -> None:
    fragile = experiment(method=Fragile(marker=str(tmp_path / "marker")), k=3)
    folder = made(tmp_path / "killed", fragile, workers=1)
    assert (tmp_path / "marker").exists()
    again = samples_of(Store(tmp_path / "killed"), fragile)
    made(tmp_path / "whole", experiment())
    whole = samples_of(Store(tmp_path / "whole"), experiment())
    assert [s.image for s in again] == [s.image for s in whole] and len(parts(folder)) == 3


def test_two_drivers_of_one_cluster_make_nothing_twice(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("synthaug.runtime.store.say", said.append)

    def drive(number: int) -> Made:
        return made_in(tmp_path, experiment(), "generate", workers=1)[1]

    with ThreadPoolExecutor() as threads:
        each = list(threads.map(drive, range(2)))
    assert sorted(list(made.seconds) for made in each) == [[], [stage_of(Store(tmp_path), experiment()).key]]
    assert any("another process is making it, waiting" in line for line in said)


CHILD = """
import sys, time
from making import made_in
import synthaug
from shapes import Noise, tiny
from synthaug.runtime import make, store
from synthaug.stages import images
images.SHARD = 2
whole = make.make_unit
def slow(*arguments):
    receipt = whole(*arguments)
    print(receipt.part, flush=True)
    time.sleep(float(sys.argv[2]))
    return receipt
make.make_unit = slow
store.say = lambda text: print(text, flush=True)
made_in(sys.argv[1], tiny(method=Noise(), k=3), "generate")
print("finished", flush=True)
"""


def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = preloaded.start(CHILD, tmp_path / "killed", 60)
    assert process.stdout.readline().startswith("part-")
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(images, "SHARD", 2)
    store = Store(tmp_path / "killed")
    left = store.missing(stage_of(store, experiment()))
    assert 0 < len(left) < 30, "some were made, some were left to do"
    assert parts(made(tmp_path / "killed", experiment())) == parts(made(tmp_path / "whole", experiment()))


def test_two_at_once_both_finish_and_make_nothing_twice(tmp_path: Path) -> None:
    one = preloaded.start(CHILD, tmp_path, 0.05)
    first = one.stdout.readline()
    two = preloaded.start(CHILD, tmp_path, 0.05)
    assert one.wait() == two.wait() == 0
    said = [first + one.stdout.read(), two.stdout.read()]
    assert all(text.endswith("finished\n") for text in said)
    assert "another process is making it, waiting" in said[1]
    assert (said[0] + said[1]).count("part-") == 30


def test_who_waited_for_another_has_made_nothing(home: Path) -> None:
    """Of whatever shape the stage is, and wherever it would have been made."""
    store, subject = Store(home).prepare(), experiment(k=1)
    plan = Plan(store).add(subject)
    made_in(home, subject)
    for stage in plan.stages():
        assert not Here().run(plan, [[stage]], Listener()).seconds
        assert not Workers(2).run(plan, [[stage]], Listener()).seconds


def test_a_full_disk_ends_cleanly_and_keeps_what_is_finished(
    home: Path, many_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(home).prepare()
    real, written = os.replace, []

    def full(source: object, target: object) -> None:
        written.append(target)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(disk.os, "replace", full)
    with pytest.raises(UserError, match="the disk is full .* run the same command again"):
        made(home, experiment())
    monkeypatch.setattr(disk.os, "replace", real)
    store = Store(home)
    stage = stage_of(store, experiment())
    assert len(store.missing(stage, verify=True)) == 9 - 3, "three shards have a part and a receipt"
    assert not list(store.at(stage).local().glob(".*")), "no half-written file is left"
    made(home, experiment())
    assert not store.missing(stage, verify=True)


def test_bad_requests_are_refused_at_once_with_the_numbers(home: Path, cluster: None) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"500 workers need 500 x 1 \+ 1 CPUs, this Ray has room for"):
        synthaug.run(experiment(), home=home, workers=500)
    assert time.monotonic() - started < 20


def test_strength_and_steps_share_their_noise(home: Path) -> None:
    store = Store(home).prepare()
    other = replace(experiment(), {"method.amount": 5})
    assert stage_of(store, experiment()).key != stage_of(store, other).key

    def seeds(experiment: Experiment) -> list[int]:
        made(home, experiment)
        return [s.seed for s in samples_of(store, experiment)]

    assert seeds(experiment()) == seeds(other)


def test_a_prompt_that_would_be_cut_is_refused_before_the_first_image(home: Path) -> None:
    long = replace(tiny(method=RealGuidance(), backbone=NANO), {"dataset.prompt": "a photo of a {}" + " very" * 80})
    with pytest.raises(UserError, match=r"the prompt 'a photo of a . very .* the text encoder reads 77"):
        made(home, long)
    assert not list(home.glob("store/generate/*/part-*"))
