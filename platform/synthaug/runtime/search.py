"""The rounds of a sweep: what runs next, as its course says, and what the store knows of it.

A sweep that is no search has one round of all its trials. What the store knows needs no making, so a search that is run
again comes at once to where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from synthaug.evaluate.base import less_is_more
from synthaug.experiment import Experiment, Sweep, Trial
from synthaug.runtime.finished import Finished
from synthaug.runtime.records import read_or_say, record_key
from synthaug.runtime.store import Store
from synthaug.search.course import Course, Found, Job, Place
from synthaug.settings import UserError, did_you_mean, hash_of
from synthaug.stages.notes import sealed

DECIDES = "val/top1"  # chosen on validation images, unless the sweep names another number


class Rounds:
    """The jobs of a course as trials. An experiment is a sweep of one trial."""

    def __init__(self, store: Store, subject: Experiment | Sweep) -> None:
        self.store, self.subject = store, subject
        self.metric = subject.metric or DECIDES if isinstance(subject, Sweep) else DECIDES
        self.trials: dict[Job, Trial] = {}
        self.jobs: list[Job] = []  # of this round
        self.paid: dict[str, float] = {}  # seconds of stages that earlier jobs have paid for
        self.course: Course | None = None
        self.told = 0  # rounds
        walls = read_or_say(store.disk, self._walls_file(), "the seconds of earlier rounds are not counted")
        self.walls: dict[str, float] = walls if isinstance(walls, dict) else {}  # seconds of each round, when it ran
        if isinstance(subject, Sweep) and subject.is_search:
            self.course = course_of(subject)
            self.going = self.course.run()
            self._ask(next(self.going))
        else:
            every = subject.trials() if isinstance(subject, Sweep) else [Trial("", subject.seed, {}, subject)]
            self.trials = {(place, trial.seed): trial for trial, place in zip(every, _places(every), strict=True)}
            self.jobs = list(self.trials)

    def _ask(self, jobs: list[Job]) -> None:
        assert self.course is not None and isinstance(self.subject, Sweep)
        self.jobs = jobs
        for row, seed in jobs:
            place = self.course.places[row]
            self.trials[row, seed] = self.subject.trial(place.arm, place.fields, seed)

    @property
    def experiments(self) -> list[Experiment]:
        return [trial.experiment for trial in self.trials.values()]

    @property
    def places(self) -> list[Place]:
        """The points in the order of their numbers."""
        if self.course is not None:
            return self.course.places
        first = {row: trial for (row, _), trial in reversed(self.trials.items())}
        return [Place(first[row].arm, first[row].fields) for row in sorted(first)]

    def replay(self, failed: Mapping[str, str] | None = None) -> Rounds:
        """On as far as it is known; `failed` are trials that are not to be tried again."""
        failed = failed or {}
        while self.jobs and all(
            self.name_of(job) in failed or is_ready(self.store, self.trials[job].experiment) for job in self.jobs
        ):
            self.tell(failed)
        return self

    def _walls_file(self) -> str:
        return f"walls/{record_key(self.subject)}.json"

    def took(self, seconds: float) -> None:
        """Note what a round took, once: what hangs on it has been decided. One that was stopped counts from there."""
        if self.course is not None and self.jobs and str(self.told) not in self.walls:
            self.walls[str(self.told)] = seconds
            self.store.disk.write(self._walls_file(), sealed(self.walls))

    def name_of(self, job: Job) -> str:
        """What notes of a failure call a trial."""
        trial = self.trials[job]
        return hash_of([trial.arm, trial.fields, trial.seed])

    def tell(self, failed: Mapping[str, str]) -> None:
        """What came of the round, and what runs next."""
        if self.course is None:
            self.jobs = []
            return
        found = {job: self._found(job, failed.get(self.name_of(job), "")) for job in self.jobs}
        # a round whose results were all there has none
        self.course.wall_s += self.walls.get(str(self.told), 0.0)
        self.told += 1
        try:
            self._ask(self.going.send(found))
        except StopIteration:
            self.jobs = []

    def check(self, job: Job) -> Finished:
        """A trial that has ended, if all that its sweep decides by is measured."""
        finished, sweep = Finished(self.store, self.trials[job].experiment), self.subject
        assert isinstance(sweep, Sweep)
        asked = [("metric", self.metric)] if sweep.metric or sweep.is_search else []
        asked += [("at_most", name) for name in sweep.at_most] + [("objectives", name) for name in sweep.objectives]
        for path, name in asked:
            if name not in finished.metrics:
                raise UserError(f"{name!r} is not measured{did_you_mean(name, sorted(finished.metrics))}", (path,))
        return finished

    def _found(self, job: Job, error: str) -> Found:
        if error:
            return Found(None, error=error)
        sweep = self.subject
        assert isinstance(sweep, Sweep)
        finished = self.check(job)
        metrics = finished.metrics
        excess = sum(_excess(metrics[name], most) for name, most in sweep.at_most.items())
        # of a stage that others have used what it took more: more variants of each image have the same key
        spent = {stage.key: self.store.spent(stage).seconds for stage in finished.stages.values()}
        seconds = sum(max(0.0, took - self.paid.get(key, 0.0)) for key, took in spent.items())
        self.paid |= {key: max(took, self.paid.get(key, 0.0)) for key, took in spent.items()}
        value, *others = (metrics[n] * (-1 if less_is_more(n) else 1) for n in (self.metric, *sweep.objectives))
        return Found(value, tuple(others), excess, seconds)


def _excess(value: float, most: float) -> float:
    """By how much of a limit a number passes it; what is no number keeps to none."""
    if math.isnan(value):
        return math.inf
    return max(0.0, (value - most) / (abs(most) or 1.0))


def course_of(sweep: Sweep) -> Course:
    """What a search does, from results to what runs next."""
    last = max(sweep.seeds)
    return Course(
        arms=sweep.makers, space=sweep.space, searcher=sweep.searcher, scheduler=sweep.scheduler, budget=sweep.budget,
        seeds=sweep.seeds, final=tuple(range(last + 1, last + 6)) if sweep.final is None else sweep.final,
        kept=tuple(filter(None, (sweep.baseline, *sweep.controls))), objectives=1 + len(sweep.objectives),
    )  # fmt: skip


def rounds_of(store: Store, subject: Experiment | Sweep) -> Rounds:
    """The rounds as far as they have come, with what failed left as it was; for who only looks."""
    failed = store.read_json(f"failed/{record_key(subject)}.json")
    return Rounds(store, subject).replay(failed if isinstance(failed, dict) else {})


def is_ready(store: Store, experiment: Experiment) -> bool:
    """Whether nothing would have to be made."""
    return all(map(store.is_ready, store.stages(experiment).values()))


def _places(trials: list[Trial]) -> list[int]:
    """Numbers of the points that trials stand at."""
    known: dict[str, int] = {}
    return [known.setdefault(place_name(trial.arm, trial.fields), len(known)) for trial in trials]


def place_name(arm: str, fields: Mapping[str, Any]) -> str:
    return hash_of([arm, dict(fields)])
