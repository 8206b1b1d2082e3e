"""synthaug: which synthetic images help my classifier, and at what cost?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthaug.experiment import Experiment, Sweep


def run(
    subject: Experiment | Sweep | str,
    *,
    home: str | Path = "runs",
    workers: int | None = None,
    address: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """What `synthaug run` does, for notebooks and scripts; returns what `--json` prints. A text is a REF."""
    from synthaug.runtime.run import run as run_subject

    if isinstance(subject, str):
        from synthaug.refs import resolve

        named, subject = resolve(subject, [])
        name = name or named

    return run_subject(subject, home=home, workers=workers, address=address, name=name)
