"""The course of a search: which points are asked for, on which seeds they run, and what became of each.

It is decided by results alone, never by when they came: the same on one device or on sixty-four, and when a search that
was stopped is run again. (Limits of seconds hang on the seconds that results took, which are kept with them.) Round by
round: the searcher asks for points, all of them run on the first seeds; then the living ones get more, seed by seed;
what won, and the best of each arm that it is compared with, run on seeds that no decision has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synthaug.search.fields import Fields, Make, fits, settled
from synthaug.search.race import Look, Race, Scheduler, race, risk
from synthaug.search.searchers import Known, Searcher, Space, spread
from synthaug.search.space import Choice
from synthaug.settings import Count, UserError, settings

Job = tuple[int, int]  # a point, by its number, and a seed
ARM = "arm"  # the name of the choice between arms among the fields that a searcher is asked about


@settings
class Budget:
    """What a search may take before it comes to its end with what it has; the final seeds come on top. Rounds are not
    cut: the one that reaches a limit is the last."""

    trainings: Count | None = None
    device_s: float | None = None
    wall_s: float | None = None  # of all rounds as they ran, whenever that was


@dataclass(frozen=True)
class Found:
    """What a job gave: the number that points are chosen by (more is better), or why there is none, and those of other
    objectives; by how much it passes the limits; and what it took that no earlier job had paid for."""

    value: float | None
    others: tuple[float, ...] = ()
    excess: float = 0.0
    device_s: float = 0.0
    error: str = ""


@dataclass
class Place:
    """A point of the search: an arm with the fields that are varied there, and what is known of it."""

    arm: str
    fields: Fields
    values: dict[int, float] = field(default_factory=dict)  # by seed, those that decide
    final: dict[int, float] = field(default_factory=dict)
    others: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by seed, of other objectives
    excess: float = 0.0
    error: str = ""
    dropped: int | None = None  # after so many seeds
    behind: float = 0.0  # the leader, at the last look

    @property
    def name(self) -> str:
        """The arm, and where it stands."""
        return " ".join([self.arm, *(f"{path}={short(value)}" for path, value in self.fields.items())])

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def means(self) -> tuple[float, ...]:
        """Of all objectives."""
        others = [self.others[seed] for seed in self.values]  # not those of the final seeds
        return self.mean, *(float(np.mean(one)) for one in zip(*others, strict=True))


def short(value: Any) -> str:
    """A value for people; of settings the class alone."""
    return str(value.get("kind", value) if isinstance(value, dict) else value).rpartition(":")[2]


Going = Generator[list[Job], Mapping[Job, Found], None]


@dataclass(kw_only=True)
class Course:
    """What is asked, what is known so far, and `run`, which goes on from answers to the next jobs."""

    arms: Mapping[str, Make]  # the experiment of each arm with some fields replaced
    space: Space
    searcher: Searcher
    scheduler: Scheduler | None = None
    seeds: Sequence[int]
    final: Sequence[int] = ()
    kept: Sequence[str] = ()  # arms that the winner is compared with
    objectives: int = 1
    budget: Budget = Budget()

    places: list[Place] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    trainings: int = 0
    device_s: float = 0.0
    wall_s: float = 0.0  # told by who runs it
    done: bool = False

    def run(self) -> Going:
        """Gives out jobs and is sent what they found."""
        yield from self._search()
        yield from self._race()
        yield from self._all(self.compared, self.final, final=True)
        self.done = True

    @property
    def rules(self) -> Scheduler:
        """Without a scheduler every point gets every seed at once."""
        return self.scheduler or Race(first=max(2, len(self.seeds)))

    # --- asking

    def _search(self) -> Going:
        """All points on their first seeds, batch by batch."""
        first = self.seeds[: self.rules.first]
        if not self.searcher.adaptive:
            self.places = [Place(*place) for place in spread(self.arms, self.space, self.searcher)]
            yield from self._all(range(len(self.places)), first)
            return
        varied = [arm for arm in self.arms if any(fits(self.arms[arm], {}, name) for name in self.space)]
        # what the winner is compared with runs in any case, as it stands
        rows = [self._place(arm, {}) for arm in self.arms if arm not in varied or arm in self.kept]
        arms = {ARM: Choice(tuple(varied))} if len(varied) > 1 else {}
        asking = self.searcher.asking(arms | dict(self.space), self._fits(varied[0]), self.objectives)
        batch = next(asking)
        while True:
            asked = [self._place(point.get(ARM, varied[0]), point) for point in batch]
            yield from self._all(dict.fromkeys([*rows, *asked]), first)
            known = [self._known(point, self.places[row]) for point, row in zip(batch, asked, strict=True)]
            if self.is_spent:
                return
            try:
                batch = asking.send(known)
            except StopIteration:
                return

    def _fits(self, only: str) -> Callable[[Fields, str], bool]:
        def at(point: Fields, name: str) -> bool:
            if name == ARM:
                return True
            rest = {path: value for path, value in point.items() if path != ARM}
            return fits(self.arms[point.get(ARM, only)], rest, name)

        return at

    def _place(self, arm: str, drawn: Mapping[str, Any]) -> int:
        """The number of a point; a point that was drawn before is the same."""
        found, error = {path: value for path, value in drawn.items() if path != ARM}, ""
        try:
            found = settled(self.arms[arm], found)
        except UserError as refused:
            # what a searcher puts together need not go together
            error = str(refused)
        for row, place in enumerate(self.places):
            if (place.arm, place.fields) == (arm, found):
                return row
        self.places.append(Place(arm, found, error=error))
        return len(self.places) - 1

    @staticmethod
    def _known(point: Fields, place: Place) -> Known:
        return Known(point, None if place.error else place.means, place.excess)

    def _all(self, rows: Sequence[int] | Mapping[int, Any], seeds: Sequence[int], final: bool = False) -> Going:
        """Points on seeds, as far as they are not known, in one round."""
        of = {row: self.places[row].final if final else self.places[row].values for row in rows}
        jobs = [(row, s) for row in rows if not self.places[row].error for s in seeds if s not in of[row]]
        if not jobs:
            return
        found = yield jobs
        for (row, seed), one in found.items():
            place = self.places[row]
            self.trainings, self.device_s = self.trainings + 1, self.device_s + one.device_s
            sound = one.value is not None and bool(np.isfinite([one.value, *one.others]).all())
            if sound and one.value is not None:
                of[row][seed], place.others[seed] = one.value, one.others
            if not final:  # those decide nothing any more
                place.excess = max(place.excess, one.excess)
                place.error = place.error or ("" if sound else one.error or "no number came of it")

    @property
    def is_spent(self) -> bool:
        of = self.budget
        spent = ((self.trainings, of.trainings), (self.device_s, of.device_s), (self.wall_s, of.wall_s))
        return any(most is not None and took >= most for took, most in spent)

    # --- racing

    def _race(self) -> Going:
        """More seeds for those that are not behind."""
        rows = [row for row, place in enumerate(self.places) if not place.error and not place.excess]
        if not rows:
            return
        running = race(self.rules, rows, len(self.seeds), self.looks)
        living, count = next(running)
        while True:
            seeds = self.seeds[:count]
            yield from self._all([int(row) for row in living], seeds)
            # what a later seed has shown to cost too much is out as well
            known = [{} if self.places[row].excess else self.places[row].values for row in living]
            values = [[of.get(seed, np.nan) for seed in seeds] for of in known]
            try:
                living, count = running.send(np.array(values))
            except StopIteration:
                break
            if self.is_spent:
                break
        for look in self.looks:
            for row, behind, out in zip(look.living, look.behind, look.dropped, strict=True):
                self.places[row].behind = float(behind)
                self.places[row].dropped = look.seeds if out else None

    # --- what came of it

    @property
    def winner(self) -> int | None:
        """The leader of the last look; where it failed after that, the sound one that came farthest."""
        for look in reversed(self.looks):
            for row in np.argsort(look.behind, kind="stable"):
                if self._is_sound(int(look.living[row])):
                    return int(look.living[row])
        return None

    def _is_sound(self, row: int) -> bool:
        return not self.places[row].error and not self.places[row].excess

    @property
    def living(self) -> list[int]:
        """What was not dropped, the winner first."""
        if not self.looks:
            return []
        last = self.looks[-1]
        order = np.argsort(last.behind, kind="stable")
        rows = [int(last.living[row]) for row in order if not last.dropped[row]]
        return [row for row in rows if self._is_sound(row)]

    @property
    def order(self) -> list[int]:
        """All points: those that came farthest first, then those that were dropped later or were less behind."""
        living = self.living

        def rank(row: int) -> tuple[float, ...]:
            place = self.places[row]
            among = living.index(row) if row in living else len(living)
            return among, -len(place.values), place.behind, -place.mean if place.values else 0.0

        return sorted(range(len(self.places)), key=rank)

    @property
    def compared(self) -> list[int]:
        """The winner and, of each arm that it is compared with, the point that came farthest. Where such an arm has won
        it is the other way round: the best of all others stands beside it."""
        if self.winner is None:
            return []
        rows = [self.winner, *(self._farthest({arm}) for arm in self.kept)]
        if self.places[self.winner].arm in self.kept:
            rows.append(self._farthest(self.arms.keys() - set(self.kept)))
        return list(dict.fromkeys(row for row in rows if row is not None))

    def _farthest(self, arms: Collection[str]) -> int | None:
        rows = [row for row, place in enumerate(self.places) if place.arm in arms and place.values]
        rows = [row for row in rows if self._is_sound(row)] or rows
        return max(rows, key=lambda row: (len(self.places[row].values), self.places[row].mean), default=None)

    @property
    def is_over(self) -> bool:
        """Whether the race came to its end: no budget cut it short."""
        return bool(self.looks) and (len(self.living) == 1 or self.looks[-1].seeds >= len(self.seeds))

    @property
    def front(self) -> list[int]:
        """The points that none beats in all objectives."""
        means = {row: place.means for row, place in enumerate(self.places) if place.values and self._is_sound(row)}

        def beaten(mine: tuple[float, ...]) -> bool:
            return any(theirs != mine and all(map(float.__ge__, theirs, mine)) for theirs in means.values())

        return [row for row, mine in means.items() if not beaten(mine)]

    def risk(self, margin: float) -> float | None:
        """How often a search such as this one names a winner more than `margin` behind the best point it had; nothing
        where too little ran to tell."""
        rows = [place.values for place in self.places if place.values and not place.error and not place.excess]
        most = self.looks[-1].seeds if self.looks else 0  # a budget may have ended it
        if len(rows) < 2 or most < 2 or min(map(len, rows)) < 2:
            return None
        values = np.array([[row.get(seed, np.nan) for seed in self.seeds[:most]] for row in rows])
        return risk(self.rules, values, most, margin)
