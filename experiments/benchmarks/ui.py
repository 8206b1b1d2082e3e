"""Whether MLflow on sqlite stays quick with a large sweep: `python -m experiments.benchmarks.ui [RUNS]`, or 5,000.

Runs are written as a sweep of real settings writes them, with numbers that were made up; then the sweep's own questions
and the UI in Chromium are timed, with a tenth of the runs and with all.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments import digits
from synthaug.experiment import Sweep, Trial, replace
from synthaug.runtime.records import record_key
from synthaug.runtime.rows import row_name
from synthaug.runtime.search import Rounds
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import KEY, PARENT, SWEEP, Run, Tracker, params_of
from synthaug.runtime.views import share
from synthaug.search.space import Choice, Domain
from synthaug.settings import hash_of

PORT, SEEDS = 5123, 4
NAMES = ("val/top1", "val/loss", "test/top1", "test/loss", "test/ece", "test/top5", "train/set", "gen/images")
COSTS = ("cost/device_s", "cost/train_s", "cost/generate_s", "cost/evaluate_s", "cost/denoiser_calls")


def write(tracker: Tracker, parent: Run, trials: dict[str, list[Trial]], first: int) -> None:
    """Points with their seeds, and a curve of ten reports for each seed."""
    for number, (name, mine) in enumerate(trials.items()):
        dice = np.random.default_rng(first + number)
        params = params_of(mine[0].experiment)
        tags = {KEY: hash_of([parent.id, name]), SWEEP: parent.id}
        point = tracker.create(name, tags | {"synthaug.kind": "point"})
        for trial in mine:
            mine_too = {KEY: hash_of([point.id, trial.seed]), PARENT: point.id, "synthaug.kind": "trial"}
            run = tracker.create(f"{name} {trial.seed}", tags | mine_too)
            curve = [(step, {"val/top1": float(dice.uniform()), "val/loss": 1.0}) for step in range(10)]
            run.log(params, [*curve, (0, dict(zip((*NAMES, *COSTS), dice.uniform(size=13).tolist(), strict=True)))])
            run.end()
        values = dict(zip((*NAMES, *COSTS), dice.uniform(size=13).tolist(), strict=True))
        point.log(params, [(0, values | {"val/top1/low": 0.1, "val/top1/high": 0.9, "seeds": float(SEEDS)})])
        point.end()


def look(home: Path) -> tuple[float, float]:
    """Seconds to the first rows of the table, and to the parallel coordinates, in a browser that knows the page."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "synthaug.cli", "ui", "--home", str(home), "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    address = "http://" + next(line for line in server.stdout if "http://" in line).partition("http://")[2].split()[0]
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            context, taken = browser.new_context(viewport={"width": 1600, "height": 1000}), []
            for place, sign in (
                (address, "[role=row] >> text=edits"), (address, "[role=row] >> text=edits"),
                (f"{address}&compareRunsMode=CHART", "text=Parallel Coordinates"),
            ):  # fmt: skip
                page, began = context.new_page(), time.monotonic()
                page.set_default_timeout(300_000)
                for _ in range(100):  # until the server listens
                    try:
                        page.goto(place)
                        break
                    except Exception:
                        time.sleep(1)
                        began = time.monotonic()
                page.wait_for_selector(sign)
                taken.append(time.monotonic() - began)
                page.close()
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return taken[1], taken[2]


def main(runs: int = 5000) -> None:
    home = Path(tempfile.mkdtemp())
    points = runs // (SEEDS + 1)
    values = [round(0.001 + n / points, 6) for n in range(points)]
    base = replace(digits.real_guidance(), {"k": 1})
    space: dict[str, Domain] = {"method.guidance": Choice(tuple(values))}
    sweep = Sweep(base=base, arms={"edits": {}}, space=space, seeds=tuple(range(SEEDS)))
    rounds, tracker = Rounds(Store(home).prepare(), sweep), Tracker(home, "large")
    trials: dict[str, list[Trial]] = {}
    for trial in rounds.trials.values():
        point = {path: trial.fields[path] for path in sweep.space}
        trials.setdefault(row_name(trial.arm, point), []).append(trial)
    parent = tracker.open(record_key(sweep), "sweep large", {"synthaug.kind": "sweep"})
    listed = list(trials.items())
    for first, last in ((0, points // 10), (points // 10, points)):
        began = time.monotonic()
        write(tracker, parent, dict(listed[first:last]), first)
        each = (time.monotonic() - began) / ((last - first) * (SEEDS + 1))
        share(tracker, parent, rounds, {*NAMES, *COSTS, "seeds", "val/top1/low", "val/top1/high"})
        began = time.monotonic()
        known = len(tracker.below(parent.id))
        asked = time.monotonic() - began
        table, charts = look(home)
        print(
            f"{known + 1} runs: {1000 * each:.0f} ms to write one, {asked:.1f} s for a sweep to find its own, table "
            f"after {table:.1f} s, charts after {charts:.1f} s",
            flush=True,
        )
    shutil.rmtree(home)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
