"""What MLflow's UI shows of a sweep: a table of its points with means, intervals and costs, best first, and parallel
coordinates over what was varied. Such a view is a tag of the MLflow experiment, as the UI's own "share" writes it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from synthaug.evaluate.base import less_is_more
from synthaug.experiment import Experiment, Sweep
from synthaug.runtime.search import Rounds
from synthaug.runtime.tracking import SWEEP, Run, Tracker

TAG = "mlflow.sharedViewState."
KIND = "synthaug.kind"
GALLERY = "gallery"  # the key of a point's images
BEHIND = "behind"  # what a point of a search lacks to the leader
PLACE = "place"  # of a point among those of its search, which `behind` is not: of different seeds it cannot be compared
COSTS = ("seeds", "cost/device_s", "gen/images")
PARALLEL_RUNS = 1000  # lines in parallel coordinates; MLflow's own default is 10


def share(tracker: Tracker, sweep: Run, rounds: Rounds, names: Collection[str]) -> None:
    """Let the UI open on the points of a sweep, which have metrics called `names`."""
    if not names:  # nothing has ended well
        return
    metric = rounds.metric
    if rounds.course is None and getattr(rounds.subject, "metric", None) is None:
        # a comparison is about test images; where nothing was classified, about what it measured first
        metric = next((name for name in ("test/top1", metric) if name in names), sorted(names)[0])
    told = [PLACE, BEHIND, *(f"{name}{end}" for name in (metric, "final/test/top1") for end in ("", "/low", "/high"))]
    found = [name for name in (*told, *COSTS) if name in names]
    state = state_of(sweep.id, metric, found, varied(rounds))
    tracker.client.set_experiment_tag(tracker.experiment, TAG + sweep.id, json.dumps(state))


def varied(rounds: Rounds) -> list[str]:
    """The parameters that tell the points of a sweep apart, as MLflow has them: parallel coordinates leave out a point
    that lacks one of them, and cannot draw an axis with one name on it."""
    assert isinstance(rounds.subject, Sweep)
    space = rounds.subject.space
    drawn = {place.arm for place in rounds.places if space.keys() <= place.fields.keys()}
    return [*(["arm"] if len(drawn) > 1 else []), *(Experiment.ALSO.get(path, path) for path in space)]


def state_of(sweep: str, metric: str, metrics: Sequence[str], params: Sequence[str]) -> dict[str, Any]:
    """What the UI of MLflow 3 calls the state of its page of runs."""
    section = {"uuid": "sweep", "name": "Sweep", "display": True, "isReordered": True, "columns": 1}
    chart = {
        "uuid": "parallel", "type": "PARALLEL", "metricSectionId": "sweep", "runsCountToCompare": PARALLEL_RUNS,
        # the last axis is the one that lines are coloured by
        "selectedParams": params, "selectedMetrics": [*(n for n in COSTS[1:] if n in metrics), metric],
        "showAllRuns": True,
    }  # fmt: skip
    images = {"uuid": GALLERY, "type": "IMAGE", "metricSectionId": "sweep", "runsCountToCompare": 100}
    images |= {"imageKeys": [GALLERY], "step": 0, "showRunParams": False}
    by = PLACE if PLACE in metrics else metric
    charts = [chart, images] if params else [images]
    made = {"deleted": False, "isGenerated": False}
    return {
        "searchFilter": points_of(sweep),
        "orderByKey": f"metrics.`{by}`", "orderByAsc": by == PLACE or less_is_more(metric),
        "selectedColumns": [*(f"params.`{name}`" for name in params), *(f"metrics.`{name}`" for name in metrics)],
        "compareRunSections": [section | made], "compareRunCharts": [one | made for one in charts],
        "isAccordionReordered": True, "runsHiddenMode": "SHOW_ALL",
    }  # fmt: skip


def points_of(sweep: str) -> str:
    """How the UI is asked for the points of a sweep."""
    return f"tags.`{SWEEP}` = '{sweep}' and tags.`{KIND}` = 'point'"


def place(database: Path) -> str:
    """Where the UI begins: at the points of the sweep that ran last, or else at all experiments."""
    query = f"""select runs.run_uuid, runs.experiment_id, experiment_tags.value from runs
        join tags on tags.run_uuid = runs.run_uuid and tags.key = '{KIND}' and tags.value = 'sweep'
        left join experiment_tags on experiment_tags.experiment_id = runs.experiment_id
            and experiment_tags.key = '{TAG}' || runs.run_uuid
        order by runs.start_time desc limit 1"""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            found = connection.execute(query).fetchone()
    except sqlite3.Error:  # another version's
        found = None
    # without this it begins at the traces of agents
    asked = {"workflowType": "machine_learning"}
    if found is None:
        return f"experiments?{urlencode(asked)}"
    sweep, experiment, state = found
    asked |= {"searchFilter": points_of(sweep)} if state is None else {"viewStateShareKey": sweep}
    return f"experiments/{experiment}/runs?{urlencode(asked)}"
