"""Sweeps: their rounds are made and tracked; a run for the sweep, one for each point, below that one for each seed."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from synthaug.evaluate.base import less_is_more
from synthaug.evaluate.stats import mean_interval
from synthaug.experiment import Sweep, Trial
from synthaug.progress import say
from synthaug.runtime.finished import Finished
from synthaug.runtime.make import Executor, Listener, Made, Plan, make
from synthaug.runtime.records import record_key
from synthaug.runtime.rows import row_name
from synthaug.runtime.search import Rounds, is_ready, place_name
from synthaug.runtime.store import Store
from synthaug.runtime.tracking import (
    KEY,
    PARENT,
    SWEEP,
    Run,
    Tracker,
    gallery_of,
    history_of,
    log_finished,
    origin,
    params_of,
    run_key,
)
from synthaug.runtime.views import BEHIND, GALLERY, PLACE, share
from synthaug.search.course import Job, Place
from synthaug.settings import Failed, hash_of, to_json
from synthaug.stages.base import Stage, Trained, closure
from synthaug.stages.notes import sealed
from synthaug.training import Entry

ACCURACIES = ("/top1", "/top1/low", "/top1/high")
LOG_S = 10.0  # between two times that a round is logged while it runs
LOG_REST = 20  # times what the last one took: nothing new is begun while MLflow writes
SUMMED = ("cost/", "gen/images")  # numbers of a point that are those of all its seeds together


def run_sweep(plan: Plan, rounds: Rounds, tracker: Tracker, executor: Executor) -> dict[str, Any]:
    """Every round of a sweep, tracked below one parent run."""
    began, store, sweep = time.monotonic(), plan.store, rounds.subject
    known = store.records.of(sweep, plan.stages())
    tags = {"synthaug.kind": "sweep"} | origin()
    parent = tracker.open(record_key(sweep), f"sweep {tracker.name}", tags, known=known.run_id if known else "")
    parent.json("sweep.json", to_json(sweep))
    logbook = Logbook(tracker, parent, dict(zip(rounds.trials, known.run_ids, strict=False)) if known else {})
    made, failed = Made(), dict[str, str]()
    with parent.told_of_its_end(logbook.runs):
        while True:
            tell_what_is_left(rounds)
            # what several trials need is made once; parts of earlier rounds that were damaged, once more
            turn = time.monotonic()
            made.add(make(plan, executor, Watch(logbook, rounds, made)))
            rounds.took(time.monotonic() - turn)
            failed |= failures(rounds, made)
            # here and not in the trials: the driver alone writes to MLflow, whose database is one file of sqlite
            logbook.write(store, rounds, made, rounds.trials)
            rounds.tell(failed)
            rounds.replay(failed)
            if not rounds.jobs:
                break
            for experiment in rounds.experiments:
                plan.add(experiment)
            store.records.begin(sweep, plan.stages())
        logbook.write(store, rounds, made, rounds.trials)
        store.disk.write(f"failed/{record_key(sweep)}.json", sealed(failed))
        # only now: the trials that ended well are logged, and need not be run again
        tell_what_failed(rounds, failed)
    parent.metrics([(0, {"time/call_s": time.monotonic() - began})])
    logbook.rank(rounds)
    share(tracker, parent, rounds, set().union(*(point.names for point in logbook.points.values())))
    parent.end()
    points = [logbook.points[row].id if row in logbook.points else "" for row in range(len(rounds.places))]
    ids = [logbook.seeds[job].id for job in rounds.trials], points
    store.records.end(sweep, plan.stages(), parent.id, tracker.name, *ids)
    return answer(rounds, parent.id, *ids, made)


def tell_what_is_left(rounds: Rounds) -> None:
    """How far a sweep is."""
    missing = sum(not is_ready(rounds.store, rounds.trials[job].experiment) for job in rounds.jobs)
    if not missing:
        return
    if (course := rounds.course) is None:
        say(f"{len(rounds.trials) - missing} of {len(rounds.trials)} trials are in the store, {missing} to run")
        return
    left = f", {len(course.living)} of {len(course.places)} points are left" if course.looks else ""
    say(f"search: {course.trainings} trainings so far{left}; {missing} in this round")


def tell_what_failed(rounds: Rounds, failed: Mapping[str, str]) -> None:
    """A search goes on without what failed, as long as anything is left; a comparison lacks a part."""
    if not failed:
        return
    said = f"{len(failed)} of {len(rounds.trials)} trials failed, the first with: {next(iter(failed.values()))}"
    if rounds.course is None or rounds.course.winner is None:
        raise Failed(said)
    say(said)


class Logbook:
    """The runs below a sweep's."""

    def __init__(self, tracker: Tracker, parent: Run, earlier: Mapping[Job, str]) -> None:
        self.tracker, self.parent, self.earlier = tracker, parent, earlier
        self.known: dict[tuple[str, str], Run] = {}  # by their parents (of points none) and keys
        self.looked = 0.0  # when it was last asked which there are
        self.points: dict[int, Run] = {}
        self.seeds: dict[Job, Run] = {}
        self.over: set[Job] = set()  # of which all has been told

    def runs(self) -> Iterator[Run]:
        yield from self.points.values()
        yield from self.seeds.values()

    def open(self, rounds: Rounds, jobs: Iterable[Job]) -> None:
        """Runs for some trials, and for their points."""
        new, places = [job for job in jobs if job not in self.seeds], rounds.places
        if not new:
            return
        with self.tracker.lock():  # two that run the same sweep have the same runs
            # one question for all, not one each, and after the first for what others have begun meanwhile
            looked, self.looked = self.looked, time.time()
            self.known |= self.tracker.below(self.parent.id, since=looked)
            for job in new:
                self._open(rounds.store, job, name_of(rounds, places[job[0]]), rounds.trials[job])

    def write(self, store: Store, rounds: Rounds, made: Made, jobs: Iterable[Job]) -> None:
        """What has come of some trials since: all the numbers of each or that it failed, and what the seeds of its
        point say together."""
        new = [job for job in jobs if job not in self.over]
        self.open(rounds, new)
        for job in new:
            self._seed(store, self.seeds[job], rounds.trials[job], made)
            self.over.add(job)
        fresh = rounds.course.final if rounds.course is not None else ()
        for row in dict.fromkeys(row for row, _ in new):
            mine = {job: trial for job, trial in rounds.trials.items() if job[0] == row}
            self._point(store, list(mine.values()), fresh, self.points[row], over=mine.keys() <= self.over)

    def rank(self, rounds: Rounds) -> None:
        """Which place each point of a search has, and how far it is behind the leader on the seeds of both: means of
        different seeds are not to be compared."""
        for number, row in enumerate(rounds.course.order if rounds.course is not None else (), 1):
            place = rounds.places[row]
            if row in self.points and place.values and not place.error and not place.excess:
                told = {PLACE: float(number), BEHIND: place.behind}
                self.points[row].metrics([(0, told)])
                self.points[row].names |= told.keys()

    def _open(self, store: Store, job: Job, place: str, trial: Trial) -> None:
        """The run of a trial, and that of its point."""
        tags = {"synthaug.kind": "point", "arm": trial.arm, SWEEP: self.parent.id}
        if job[0] not in self.points:
            # not below the sweep's run in MLflow's tree, which shows of a tree its top alone, in charts as well
            point = hash_of([self.parent.id, place_name(trial.arm, trial.fields)])
            self.points[job[0]] = self._known(point, place, tags)
        key, tags = run_key(store.line(trial.experiment).results.values()), tags | {"synthaug.kind": "trial"}
        # the same trial may belong to several sweeps, and has a run below each of them
        above, name = self.points[job[0]].id, f"{place} seed {trial.seed}"
        self.seeds[job] = self._known(key, name, tags | {PARENT: above}, self.earlier.get(job, ""))

    def _known(self, key: str, name: str, tags: Mapping[str, str], before: str = "") -> Run:
        """A run below this sweep's, or a new one; `before` is that of a record."""
        place, tags = (tags.get(PARENT, ""), key), dict(tags) | {KEY: key}
        if place not in self.known:
            self.known[place] = self.tracker.adopt(before, tags) or self.tracker.create(name, tags)
        return self.known[place].again()

    def _seed(self, store: Store, run: Run, trial: Trial, made: Made) -> None:
        if not is_ready(store, trial.experiment):
            run.end("FAILED")
        # of a finished one all is there, also where another process that runs the same sweep has logged it meanwhile:
        # MLflow would add every point once more
        elif not run.has_finished():
            finished = Finished(store, trial.experiment)
            log_finished(run, finished, made, {"arm": trial.arm}, run.untold(history_of(finished)))

    def _point(self, store: Store, trials: Sequence[Trial], fresh: Sequence[int], run: Run, *, over: bool) -> None:
        """Means with intervals, and what all seeds cost together; told again when there are more seeds, and `over` with
        the last of them. What no decision has seen stands apart."""
        ready = [trial for trial in trials if is_ready(store, trial.experiment)]
        if not ready:
            if over:
                run.end("FAILED")
        elif not run.finished or run.seeds < len(ready):
            first = ready[0].experiment
            params = {"arm": trials[0].arm} | {n: v for n, v in params_of(first).items() if n != "seed"}
            found = {trial.seed: Finished(store, trial.experiment).metrics for trial in ready}
            decided = [metrics for seed, metrics in found.items() if seed not in fresh]
            told = over_seeds(decided) if decided else {}
            if last := [metrics for seed, metrics in found.items() if seed in fresh]:
                told |= {f"final/{n}": v for n, v in over_seeds(last).items() if n.endswith(ACCURACIES)}
            told["seeds"] = float(len(ready))
            # with steps of their own they would be drawn as curves; at one step they are bars, side by side
            run.log(params, [(0, told)])
            run.names |= told.keys()
            if run.seeds == 0 and (gallery := gallery_of(Finished(store, first))):
                run.shown(GALLERY, *gallery)
                self.parent.shown(trials[0].arm, *gallery)  # where the slider goes over all strengths
            run.seeds = len(ready)
            if over:
                run.end()


class Watch(Listener):
    """Who logs what the trainings of a round report, and its trials as they end: a sweep of days is looked at
    meanwhile."""

    def __init__(self, logbook: Logbook, rounds: Rounds, made: Made) -> None:
        self.logbook, self.rounds, self.made = logbook, rounds, made
        # of each trial the keys of what is not there yet, and of each key those that wait for it, with its name there
        self.lacks: dict[Job, set[str]] = {}
        self.wait: dict[str, list[tuple[Job, str]]] = defaultdict(list)
        for job in rounds.jobs:
            stages = rounds.store.stages(rounds.trials[job].experiment)
            missing = {name: stage.key for name, stage in stages.items() if not rounds.store.is_ready(stage)}
            self.lacks[job] = set(missing.values())
            for name, key in missing.items():
                self.wait[key].append((job, name))
        # what is not logged yet: the trials that have ended, and what others have reported
        self.ended = [job for job, keys in self.lacks.items() if not keys]
        self.reports = defaultdict[Job, list[tuple[int, Mapping[str, float]]]](list)
        self.next = time.monotonic() + LOG_S
        for job in self.ended:
            rounds.check(job)

    def heard(self, stage: Trained[Any], entry: Entry) -> None:
        # what several trials need is told of each when it ends
        for job, name in waiting if len(waiting := self.wait.get(stage.key, ())) == 1 else ():
            self.reports[job].append((int(entry["step"]), stage.entry_named(name, entry)))
        self.idle()

    def came(self, stage: Stage[Any]) -> None:
        self.made.seconds.setdefault(stage.key, 0.0)  # its time is known later
        for job in {job for job, _ in self.wait.pop(stage.key, ())}:
            self.lacks[job].remove(stage.key)
            # what was damaged is made anew, and no trial has ended before
            if not self.lacks[job] and is_ready(self.rounds.store, self.rounds.trials[job].experiment):
                self.rounds.check(job)  # a name that is not there is refused now, and not after all of them
                self.ended.append(job)
        self.idle()

    def idle(self) -> None:
        if not (self.ended or self.reports) or (began := time.monotonic()) < self.next:
            return
        from mlflow.exceptions import MlflowException

        try:
            self._log()
        except (MlflowException, OSError) as error:  # a server that is away for a moment, or a full disk
            said = " ".join(str(error).split())
            say(f"MLflow took nothing ({said:.80}): the trials of this round are logged at its end")
            self.next = math.inf
        else:
            self.next = time.monotonic() + max(LOG_S, LOG_REST * (time.monotonic() - began))

    def _log(self) -> None:
        self.logbook.write(self.rounds.store, self.rounds, self.made, self.ended)
        self.logbook.open(self.rounds, self.reports)
        for job in self.reports.keys() - set(self.ended):
            self.logbook.seeds[job].curve(self.reports[job])
        self.ended.clear()
        self.reports.clear()


def name_of(rounds: Rounds, place: Place) -> str:
    """What a point's run is called, and the command line names it by."""
    assert isinstance(rounds.subject, Sweep)
    return row_name(place.arm, {path: place.fields[path] for path in rounds.subject.space if path in place.fields})


def over_seeds(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of a point: means, for accuracies with their interval, sums of what it cost."""
    told: dict[str, float] = {}
    for name in (name for name in found[0] if all(name in one for one in found)):
        values = [one[name] for one in found]
        if name.startswith(SUMMED):
            told[name] = sum(values)
            continue
        mean, low, high = mean_interval(values)
        told[name] = mean
        if name.endswith("/top1") and len(values) > 1:
            told |= {f"{name}/low": low, f"{name}/high": high}
    return told


def failures(rounds: Rounds, made: Made) -> dict[str, str]:
    """The trials of a round that could not be finished, and why."""
    found = {}
    for job in rounds.jobs:
        experiment = rounds.trials[job].experiment
        if not is_ready(rounds.store, experiment):
            keys = [stage.key for stage in closure(rounds.store.line(experiment).results.values())]
            found[rounds.name_of(job)] = next((made.errors[key] for key in keys if key in made.errors), "not finished")
    return found


def answer(rounds: Rounds, run_id: str, run_ids: Sequence[str], point_ids: Sequence[str], made: Made) -> dict[str, Any]:
    """What `--json` prints of a sweep."""
    listed: list[dict[str, Any]] = []
    stages: dict[str, Any] = {}
    for (job, trial), id in zip(rounds.trials.items(), run_ids, strict=True):
        who = {"arm": trial.arm, "seed": trial.seed, "fields": trial.fields, "run_id": id, "point": job[0]}
        if not is_ready(rounds.store, trial.experiment):
            continue
        finished = Finished(rounds.store, trial.experiment)
        listed.append(who | {"metrics": finished.said(made)})
        # trials share stages, so the key tells these apart, not the trial
        stages |= {f"{name}/{stage['key'][:8]}": stage for name, stage in finished.summary(made).items()}
    accuracies = [trial["metrics"]["val/top1"] for trial in listed if "val/top1" in trial["metrics"]]
    metrics = {"trials": float(len(listed))} | ({"best/val/top1": max(accuracies)} if accuracies else {})
    points = [
        {"arm": place.arm, "fields": place.fields, "run_id": id}
        for place, id in zip(rounds.places, point_ids or [""] * len(rounds.places), strict=True)
    ]
    found = {"run_id": run_id, "experiment": to_json(rounds.subject), "stages": stages, "metrics": metrics}
    return found | {"trials": listed, "points": points} | searched(rounds)


def searched(rounds: Rounds) -> dict[str, Any]:
    """What a search found, by the numbers of its points."""
    course = rounds.course
    if course is None:
        return {}
    sign = -1 if less_is_more(rounds.metric) else 1  # a course knows only that more is better
    rows = [
        {
            "values": _by_seed(place.values, sign), "final": _by_seed(place.final, sign), "dropped": place.dropped,
            "behind": place.behind, "excess": place.excess, "error": place.error,
        }
        for place in course.places
    ]  # fmt: skip
    return {
        "search": {
            "metric": rounds.metric, "winner": course.winner, "living": course.living, "compared": course.compared,
            "front": course.front, "trainings": course.trainings, "device_s": course.device_s,
            "wall_s": course.wall_s, "points": rows,
        }
    }  # fmt: skip


def _by_seed(values: Mapping[int, float], sign: int) -> dict[str, float]:
    return {str(seed): sign * value for seed, value in values.items()}  # as JSON has them
