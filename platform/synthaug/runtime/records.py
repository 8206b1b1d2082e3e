"""Records of what was run, for those who report, clean, or run it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from synthaug.experiment import Experiment, Sweep, read
from synthaug.progress import say
from synthaug.runtime.disk import Disk
from synthaug.settings import UserError, hash_of, keyed, to_json
from synthaug.stages.base import Stage
from synthaug.stages.notes import noted, sealed, unsealed

DONE, BEGUN = "record", "begun"  # folders of the store


@dataclass(frozen=True)
class Record:
    """What was run: the subject as JSON, the artefacts behind it, and its runs in MLflow."""

    artefacts: Sequence[str]
    subject: Mapping[str, Any] = field(default_factory=dict)  # of what has only begun it is not noted
    run_id: str = ""
    name: str = "synthaug"
    run_ids: Sequence[str] = ()  # of the trials
    point_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.artefacts, list):  # `clean` asks it what must stay
            raise TypeError("a record names its artefacts")


class Records:
    """Those of a store."""

    def __init__(self, disk: Disk) -> None:
        self.disk, self.told = disk, set[str]()  # of which files it has been said that they are damaged

    def begin(self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]]) -> None:
        """Note what a run is about to make and use, so that `clean` leaves it alone."""
        self.disk.write(_place(subject, BEGUN), sealed({"artefacts": names(stages)}))

    def end(
        self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]], run_id: str, name: str,
        run_ids: Sequence[str] = (), point_ids: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Note what was run to its end."""
        done = Record(names(stages), to_json(subject), run_id, name, run_ids, point_ids)
        self.disk.write(_place(subject), sealed(asdict(done)))
        # last: at each moment one of the two names the artefacts
        self.disk.remove(_place(subject, BEGUN))

    def of(self, subject: Experiment | Sweep, stages: Iterable[Stage[Any]]) -> Record | None:
        """What was noted when the same subject, with the same content behind it, was run to its end, if all of these
        stages were among what it made or found."""
        known = noted(Record, read_note(self.disk, place := _place(subject)))
        if known is None and self.disk.exists(place) and place not in self.told:
            say(f"{self.disk.local(place)} is damaged: what was run is noted again")
            self.told.add(place)
        return known if known and set(names(stages)) <= set(known.artefacts) else None

    def all(self, kind: str = DONE) -> list[Record]:
        """Those that can be read."""
        return [record for record in self.found(kind).values() if record is not None]

    def found(self, kind: str = DONE) -> dict[str, Record | None]:
        """All there are by their files, None for those that are damaged."""
        files = [f"{kind}/{name}" for name in self.disk.list(kind) if name.endswith(".json") and name[0] != "."]
        return {file: noted(Record, read_note(self.disk, file)) for file in files}

    def wanted(self) -> set[str]:
        """The artefacts that runs refer to, finished or begun."""
        every = {file: record for kind in (DONE, BEGUN) for file, record in self.found(kind).items()}
        if damaged := [str(self.disk.local(file)) for file, record in every.items() if record is None]:
            raise UserError(
                f"{damaged[0]} is damaged, so what a run made cannot be told from what nobody needs: run its command "
                "again, which writes it anew, or synthaug doctor --deep --mend, if it may go with all that it made"
            )
        return {name for record in every.values() if record is not None for name in record.artefacts}

    def refile(self) -> None:
        """Records used to be named by all of their JSON, which moved with every class and grew with every field."""
        if self.disk.exists(f"{DONE}/keyed"):
            return
        for file, known in self.found().items():
            try:
                place = None if known is None else _place(read(known.subject))
            except UserError:
                continue  # of a class that is not here: it stays, and stays readable
            if known is not None and place != file:
                # written before the old one goes: who is killed between the two has it twice, and does this again
                self.disk.write(str(place), sealed(asdict(known)))
                self.disk.remove(file)
        self.disk.write(f"{DONE}/keyed", b"")


def read_note(disk: Disk, name: str) -> Any:
    """What the note at a place says, or None when there is none that can be read."""
    try:
        return unsealed(disk.read(name))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def read_or_say(disk: Disk, name: str, then: str) -> Any:
    """The same, with a line that says what comes of it where a note is there and damaged."""
    found = read_note(disk, name)
    if found is None and disk.exists(name):
        say(f"{disk.local(name)} is damaged: {then}")
    return found


def names(stages: Iterable[Stage[Any]]) -> list[str]:
    """The artefacts of some stages and of all that they are made from."""
    return sorted({f"{stage.kind}/{stage.key}" for stage in stages})


def record_key(subject: Experiment | Sweep) -> str:
    """What records and runs of a subject are named by: as keys are, with where things lie beside it. A sweep is its
    trials: what its arms replace is JSON, which would move with every class."""
    if isinstance(subject, Experiment):
        return hash_of(keyed(subject, places=True))
    if subject.is_search:  # what its trials are is known at its end
        return hash_of([keyed(subject, places=True)])
    trials = [hash_of([t.arm, t.seed, keyed(t.experiment, places=True)]) for t in subject.trials()]
    more = [subject.controls, subject.against] if subject.controls or subject.against else []
    return hash_of([subject.baseline, sorted(trials), *more])  # records are written with their arms in another order


def _place(subject: Experiment | Sweep, kind: str = DONE) -> str:
    return f"{kind}/{record_key(subject)}.json"
