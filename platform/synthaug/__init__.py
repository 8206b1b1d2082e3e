"""synthaug: which synthetic images help my classifier, and at what cost?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthaug.experiment import Experiment, Sweep


def run(
    subject: Experiment | Sweep,
    *,
    home: str | Path = "runs",
    workers: int | None = None,
    address: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """What `synthaug run` does, for notebooks and scripts; returns what `--json` prints."""
    from synthaug.runtime.run import run as run_subject

    return run_subject(subject, home=home, workers=workers, address=address, name=name)
