"""The one thing of ours that Tune calls back."""

from __future__ import annotations

from typing import Any

from ray.tune import Callback

from synthaug.progress import Progress


class Watcher(Callback):
    """Moves the progress line; Tune pickles its callbacks, so the line itself stays behind."""

    def __init__(self, progress: Progress) -> None:
        self.progress: Progress | None = progress

    def __getstate__(self) -> dict[str, Any]:
        return {"progress": None}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if self.progress is not None and {"step", "measured"} & result.keys() and "finished" not in result:
            ended = sum(other.status == "TERMINATED" for other in trials)
            self.progress.add(1, f"{ended}/{len(trials)} trials")
