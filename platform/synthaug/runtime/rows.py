"""Rows of a sweep by name, as commands name them: `REF:arm`, and where an arm has points `REF:arm path=value ...`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from synthaug.experiment import Experiment, Sweep
from synthaug.progress import say
from synthaug.settings import UserError, did_you_mean


def row_name(arm: str, point: Mapping[str, Any]) -> str:
    """What `row_of` finds it by."""
    values = (f"{path}={json.dumps(value, separators=(',', ':'))}" for path, value in point.items())
    return " ".join([arm or Sweep.ALONE, *values])


def alone(subject: Experiment | Sweep) -> Experiment | None:
    """An experiment, also the first seed of one row of a sweep; none of what has several rows."""
    if isinstance(subject, Experiment):
        return subject
    if subject.space or len(subject.arms) > 1:
        return None
    first = subject.trials()[0]
    say(f"seed {first.seed} of this row; another: --set seeds=[...]")
    return first.experiment


def row_of(sweep: Sweep, name: str) -> Sweep:
    """One row alone, with the seeds of its sweep: compared with nothing, and searched for no more."""
    # an arm's name may have blanks in it, and begin as another's
    known = sorted(sweep.arms or {Sweep.ALONE: {}}, key=len, reverse=True)
    arm = next((arm for arm in known if f"{name} ".startswith(f"{arm} ")), None)
    if arm is None:
        raise UserError(f"no row begins with {name.partition('=')[0]!r}{did_you_mean(name, known)}", ("arms",))
    point: dict[str, Any] = {}
    for text in filter(None, re.split(r" (?=[\w.]+=)", name[len(arm) :])):
        path, equals, value = text.partition("=")
        if not equals or path not in sweep.space:
            hint = did_you_mean(path, list(sweep.space)) if sweep.space else "; the sweep has no space"
            raise UserError(f"{text!r} is no field of its space with a value{hint}", ("space",))
        try:
            point[path] = json.loads(value)
        except json.JSONDecodeError:
            point[path] = value
    fields = sweep.arms.get(arm, {}) | point
    return Sweep(base=sweep.base, arms={arm: fields}, metric=sweep.metric, seeds=sweep.seeds)
