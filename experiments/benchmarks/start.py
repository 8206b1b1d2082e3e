"""Where the seconds of a small run go: how long it takes to start, and to end, beside what it computes.

`python experiments/benchmarks/start.py` runs the command line in processes of its own and prints, as they end,
(a) the demo when all of it is in the store (processor time; goal: 3 s), which needs `--home` of a finished demo or
makes one, and (b) a sweep of 4 trials and 200 nano images in a fresh home (goal: 35 s). `--demo` adds (c) `make demo`
in a fresh clone (goal: 140 s). Parts overlap where they run side by side: Ray starts while checks run.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = "experiments/digits.py:compare"
# two arms of two seeds; 10 sources x 10 variants for each seed
SMALL = ["seeds=2", "dataset.shots=1", "recipe.steps=40"]
ARMS = '{"plain": {}, "Real Guidance": {"method": {"kind": "RealGuidance", "strength": 0.9, "steps": 10}, "k": 10, '
ARMS += '"backbone": {"model": "nano:sd"}}}'

# In the child: functions whose times are the parts. Each says when it ended, as the process may leave in a hurry.
TIMED = """
import sys, time
log = open(sys.argv.pop(1), "a", buffering=1)
def said(name, began): print(name, began, time.time(), sep="\\t", file=log)
def timed(name, function):
    def wrapped(*given, **named):
        began = time.time()
        try:
            return function(*given, **named)
        finally:
            said(name(*given) if callable(name) else name, began)
    return wrapped
def wave(self, plan, chains, *more):
    return "generation" if chains[0][0].kind == "generate" else f"trials: {chains[0][0].kind}"
began = time.time()
from synthaug import cli
from synthaug.runtime import cluster, executors, run, tracking
said("our imports", began)
run.planned = timed("keys and what is there", run.planned)
run.prepare = timed("checks", run.prepare)
cluster._init = timed("Ray (beside the checks)", cluster._init)
for part in ("client", "experiment"):
    property = vars(tracking.Tracker)[part]
    property.func = timed(f"MLflow: {part}", property.func)
executors.SideBySide.run = timed(wave, executors.SideBySide.run)
run.log_trials = timed("logging the trials", run.log_trials)
cli._stop_ray = timed("stopping Ray", cli._stop_ray)
began = time.time()
code = cli.entry()
said("command", began)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, help="where the demo has run, or shall")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["a", "b"], help="one of the two")
    parser.add_argument("--demo", action="store_true", help="also `make demo` in a fresh clone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "b":
            again = ["run", DEMO, "--home", str(options.home or Path(folder) / "demo")]
            command(again)
            for number in range(options.repeat):
                told(f"(a) cached demo, goal 3 s of processor, run {number + 1}", again, folder)
        if options.only != "a":
            for number in range(options.repeat):
                told(
                    f"(b) 4 trials, 200 images, goal 35 s, run {number + 1}", sweep(Path(folder) / str(number)), folder
                )
        if options.demo:
            print(f"(c) make demo in a fresh clone, goal 140 s: {clone(Path(folder) / 'clone'):.0f} s")


def sweep(home: Path) -> list[str]:
    changes = [part for change in [*SMALL, f"arms={ARMS}"] for part in ("--set", change)]
    return ["run", DEMO, *changes, "--home", str(home)]


def command(arguments: list[str], *before: str) -> None:
    """The command line as people call it, or what stands before it."""
    program = list(before) or [str(Path(sys.executable).with_name("synthaug"))]
    done = subprocess.run([*program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def told(what: str, arguments: list[str], folder: str) -> None:
    """Runs it with the parts timed and prints them in the order in which they began."""
    log = Path(folder) / "parts"
    log.unlink(missing_ok=True)
    spent, began = processor(), time.time()
    command(arguments, sys.executable, "-c", TIMED, str(log))
    ended = time.time()
    print(f"{what}: {ended - began:.1f} s, processor {processor() - spent:.1f} s")
    parts = [line.split("\t") for line in log.read_text().splitlines()]
    spans = sorted((float(start), float(end), name) for name, start, end in parts)
    last = max(end for _, end, _ in spans)
    for start, end, name in [(began, spans[0][0], "interpreter"), *spans, (last, ended, "end of the process")]:
        if end - start > 0.05:
            print(f"    {start - began:6.1f} {end - began:6.1f}  {end - start:6.1f} s  {name}")


def processor() -> float:
    """Seconds of all children that have ended; Ray's own processes are not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def clone(folder: Path) -> float:
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SYNTHAUG", "VIRTUAL_ENV"))}
    began = time.monotonic()
    subprocess.run(["make", "demo"], cwd=folder, env=plain, check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
