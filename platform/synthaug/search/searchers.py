"""Searchers: how points of a space are chosen, all at once or as results come in."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random as Dice
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from synthaug.search.fields import Make, ripe, settled
from synthaug.search.space import Choice, Domain, LogUniform, Uniform
from synthaug.settings import Count, UserError, did_you_mean, seed_of, settings

if TYPE_CHECKING:
    from optuna.trial import Trial

Point = dict[str, Any]
Space = Mapping[str, Domain]


@dataclass(frozen=True)
class Known:
    """What is known of a point that a searcher asked for: the means of its numbers, or nothing where it failed."""

    point: Point
    values: tuple[float, ...] | None  # the one that points are chosen by, then other objectives; more is better
    excess: float = 0.0  # by how much it costs more than it may, all limits together; 0: it keeps to them


# batches of points, each answered by what is known of all its points
Asking = Generator[list[Point], Sequence[Known], None]
Fits = Callable[[Point, str], bool]
TRIED = 12  # draws that show whether a space can be, where not all of it is


@settings(key="synthaug.space:Searcher")
class Searcher(ABC):
    """How points of a space are chosen."""

    @abstractmethod
    def points(self, space: Space) -> Iterator[Point]:
        """All points, where they are known before anything ran."""

    def asking(self, space: Space, fits: Fits, objectives: int = 1) -> Asking:
        """The points in batches. `fits` says whether a field is there at a point, as far as that has been chosen."""
        yield list(self.points(space))

    @property
    def adaptive(self) -> bool:
        """Whether what is asked hangs on what was found."""
        return False


@settings(key="synthaug.space:Grid")
class Grid(Searcher):
    """Every combination of the listed values."""

    def points(self, space: Space) -> Iterator[Point]:
        values = []
        for name, domain in space.items():
            if not isinstance(domain, Choice):
                raise UserError(
                    f"a grid needs a list of values for {name!r}, not {domain}; or use RandomSearch", ("space",)
                )
            values.append(domain.values)
        for combination in itertools.product(*values):
            yield dict(zip(space, combination, strict=True))


@settings(key="synthaug.space:RandomSearch")
class RandomSearch(Searcher):
    """`samples` independent draws that depend on `seed` only."""

    samples: Count = 20
    seed: int = 0

    def points(self, space: Space) -> Iterator[Point]:
        for number in range(self.samples):
            # each draw by itself: of more samples the first are those of fewer, and what was made for them is found
            dice = Dice(seed_of(self.seed, "search", number))
            yield {name: domain.draw(dice) for name, domain in space.items()}


@settings
class Optuna(Searcher):
    """Optuna's TPE, several variables at a time: the more it has seen, the nearer to what was good.

    It asks for `batch` points, waits for all of them, and asks for the next: what it asks is then the same on one
    device or on sixty-four, and when a search is run again. `start` are points to begin with; then `random` are drawn
    at random. What failed counts as the worst that was found, and as what is not to be tried again.
    """

    samples: Count = 40
    batch: Count = 8
    random: Count = 10
    start: tuple[dict[str, Any], ...] = ()
    seed: Annotated[int, Field(ge=0)] = 0

    def points(self, space: Space) -> Iterator[Point]:
        raise UserError("Optuna asks as results come in", ("searcher",))

    @property
    def adaptive(self) -> bool:
        return True

    def asking(self, space: Space, fits: Fits, objectives: int = 1) -> Asking:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` has been one for years
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.random + len(self.start), multivariate=True, group=True,
                seed=seed_of(self.seed, "optuna") % 2**32,
            )  # fmt: skip
        study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
        for point in self.start:
            study.enqueue_trial({name: _number_of(name, space, value) for name, value in point.items()})
        for first in range(0, self.samples, self.batch):
            asked = [study.ask() for _ in range(min(self.batch, self.samples - first))]
            known = yield [_suggested(trial, space, fits) for trial in asked]
            for trial, found in zip(asked, known, strict=True):
                told = [other.values for other in study.get_trials(deepcopy=False) if other.values]
                worst = [min(values) for values in zip(*told, strict=True)] or [0.0] * objectives
                # an infinite excess would be no number to learn from
                trial.set_constraint("limits", 1.0 if found.values is None else min(found.excess, 1e6))
                study.tell(trial, worst if found.values is None else found.values)


def _suggested(trial: Trial, space: Space, fits: Fits) -> Point:
    """A point, field by field: what is not there at the values of those before it is not asked for."""
    point: Point = {}
    waiting = list(space)
    # a field may lie in something that another brings: `utilize.p` in `utilize`
    while found := ripe(waiting, lambda name: fits(point, name)):
        for name in found:
            point[name] = _suggest(trial, name, space[name])
        waiting = [name for name in waiting if name not in found]
    return {name: point[name] for name in space if name in point}


def _suggest(trial: Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Choice):
        # by place: values may be whole settings, and JSON is no category that Optuna could keep
        places = list(range(len(domain.values)))
        place = trial.suggest_int(name, 0, places[-1]) if domain.ordered else trial.suggest_categorical(name, places)
        return domain.values[place]
    if isinstance(domain, Uniform):
        return domain.at(trial.suggest_int(name, 0, domain.steps))
    if isinstance(domain, LogUniform):
        return domain.near(trial.suggest_float(name, domain.low, domain.high, log=True))
    raise UserError(f"Optuna knows no {type(domain).__name__}", ("space", name))


def _number_of(name: str, space: Space, value: Any) -> Any:
    """What Optuna calls a value that a search is to begin with."""
    where = ("searcher", "start", name)
    if name not in space:
        raise UserError(f"no field of the space{did_you_mean(name, list(space))}", where)
    domain = space[name]
    if isinstance(domain, Choice):
        if value not in domain.values:
            raise UserError(f"{value!r} is not among {list(domain.values)}", where)
        return domain.values.index(value)
    if not isinstance(value, int | float) or not domain.low <= value <= domain.high:  # type: ignore[attr-defined]
        raise UserError(f"{value!r} does not lie between {domain.low} and {domain.high}", where)  # type: ignore[attr-defined]
    return round((value - domain.low) / domain.step) if isinstance(domain, Uniform) else value


# --- over arms --------------------------------------------------------------------------------------------------------


def spread(makers: Mapping[str, Make], space: Space, searcher: Searcher) -> list[tuple[str, Point]]:
    """Arms and what is varied at their points, where all are known before anything ran, each once."""
    found: list[tuple[str, Point]] = []
    for arm, make in makers.items():
        drawn = [settled(make, point) for point in searcher.points(space)] if space else [{}]
        found += [(arm, point) for number, point in enumerate(drawn) if point not in drawn[:number]]
    return found


def tried(makers: Mapping[str, Make], space: Space, searcher: Searcher) -> None:
    """Refuse what does not fit, and a field that is nowhere."""
    if not space:
        if searcher.adaptive:
            raise UserError("it needs a space to search in", ("space",))
        for make in makers.values():
            make({})
        return
    for point in getattr(searcher, "start", ()):
        for name, value in point.items():
            _number_of(name, space, value)
    drawn = RandomSearch(samples=TRIED) if searcher.adaptive else searcher
    points = [point for _, point in spread(makers, space, drawn)]
    for name, domain in space.items():
        if not any(name in point for point in points):
            raise _nowhere(makers, name, domain)


def _nowhere(makers: Mapping[str, Make], name: str, domain: Domain) -> UserError:
    """Why a field is at no point of any arm, as the arm says that has the most of its path."""
    found = []
    for make in makers.values():
        try:
            make({name: domain.draw(Dice(0))})
        except UserError as error:
            found.append(error)
    deepest = max(found, key=lambda error: len(error.path), default=None)
    return deepest or UserError("decides nothing in any arm", ("space", name))
