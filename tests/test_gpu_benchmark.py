"""The script for one GPU, run small on the CPU: every part gives rows, and none takes the others with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preloaded import start

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"
IMPORT = (
    f"import os, subprocess, sys, time; sys.path.insert(0, {str(FOLDER)!r}); import gpu; from pathlib import Path\n"
)
PARTS = ("generation", "compiled", "again", "where", "gif", "finetune", "classifier", "diffaug")  # and the sweep


def rows(code: str, *argv: object) -> list[list[str]]:
    """The table that a child prints."""
    child = start(IMPORT + code, *argv)
    lines = child.stdout.read().splitlines()
    assert child.wait() == 0
    assert all(line.startswith("|") and line.endswith("|") for line in lines), lines
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    return rows("gpu.main(sys.argv[1:])", *PARTS, "--tiny", "--minutes", 60, "--keep", tmp_path_factory.mktemp("keep"))


def test_every_part_gives_rows_that_say_of_which_device_they_are(table: list[list[str]]) -> None:
    assert table[0] == ["part", "what", "found", "device"]
    assert list(dict.fromkeys(row[0] for row in table[2:])) == ["machine", *PARTS]
    for part, what, found, device in table[2:]:
        assert device == "CPU" and what and re.search(r"\d", found), part
        assert not re.search("failed|stopped|skipped", found), found


def test_the_milliseconds_of_an_image_add_up(table: list[list[str]]) -> None:
    found = [row[2] for row in table if row[0] == "where" and "ms an image" in row[1]]
    assert len(found) == 4
    for shares in found:
        total, *parts = (float(part.rsplit(" ", 1)[1]) for part in shares.split(", "))
        assert len(parts) == 7 and sum(parts) == pytest.approx(total, abs=0.4)  # each is rounded to a tenth


SLOW = """
def slow(job):
    job.say("begun", str(subprocess.Popen(["sleep", "600"]).pid))
    time.sleep(600)
def bad(job):
    print("what a library says")
    raise ValueError("one | two\\nthree")
gpu.PARTS = {"slow": (slow, 2), "bad": (bad, 100), "good": (lambda job: job.say("1", "2"), 100)}
for part, left in (("slow", 100), ("bad", 100), ("good", 100), ("good", 0)):
    gpu.run(gpu.Job(part, gpu.FULL, Path(sys.argv[1])), left, False)
"""


def test_a_part_that_is_slow_or_fails_leaves_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    begun, *others = rows(SLOW, tmp_path)
    assert others == [
        ["slow", "", "stopped after 2 s; above is what it had found", ""],
        ["bad", "", "failed: ValueError: one / two three", "CPU"],
        ["good", "1", "2", "CPU"],
        ["good", "", "skipped: the time is over", ""],
    ]
    assert "what a library says" in (tmp_path / "log").read_text()
    state = Path(f"/proc/{begun[2]}/stat")
    assert begun[:2] == ["slow", "begun"]
    assert not state.exists() or state.read_text().split()[2] == "Z", "what it had started runs on"


def test_where_cuda_does_not_work_in_a_fork_a_part_begins_anew(tmp_path: Path) -> None:
    code = "assert gpu.run(gpu.Job('machine', gpu.TINY, Path(sys.argv[1])), 100, True)"
    ((part, _, found, device),) = rows(code, tmp_path, "--tiny")
    assert (part, device) == ("machine", "CPU") and "TFLOP/s" in found
