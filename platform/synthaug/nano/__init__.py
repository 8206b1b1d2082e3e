"""The embedded models: where they lie."""

from __future__ import annotations

from pathlib import Path

from synthaug.settings import UserError

_WEIGHTS = Path(__file__).parent / "weights"


def known() -> tuple[str, ...]:
    """The names of the embedded models that are there."""
    return tuple(f"nano:{folder.name}" for folder in sorted(_WEIGHTS.iterdir()) if folder.is_dir())


def path(name: str) -> Path:
    """The folder of an embedded model such as `nano:sd`."""
    if name not in known():
        raise UserError(f"no embedded model {name!r}; known: {', '.join(known())}")
    return _WEIGHTS / name.removeprefix("nano:")
