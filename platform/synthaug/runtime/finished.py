"""What is known of an experiment whose stages are there: its numbers, its costs, and where everything lies."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any

from synthaug.evaluate.base import Result
from synthaug.experiment import Experiment
from synthaug.runtime.make import Made
from synthaug.runtime.store import Manifest, Store
from synthaug.settings import UserError, to_json
from synthaug.stages.base import Stage

ALWAYS = ("train", "generate", "evaluate")  # costs that are named even where they are nothing
Stages = dict[str, dict[str, Any]]


class Finished:
    """A finished experiment, read once."""

    def __init__(self, store: Store, experiment: Experiment) -> None:
        self.store, self.experiment, self.line = store, experiment, store.line(experiment)
        self.stages = store.stages(experiment)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """What is noted of each stage, by its name."""
        found = {name: self.store.manifest(stage) for name, stage in self.stages.items()}
        return {name: manifest for name, manifest in found.items() if manifest is not None}

    @cached_property
    def results(self) -> dict[str, Result]:
        """What was measured or looked at, by the names of the stages."""
        found, by = dict[str, Result](), dict[str, str]()
        for name, manifest in self.manifests.items():
            for metric in manifest.result["metrics"] if manifest.result else ():
                if metric in by:
                    said = f"{by[metric]} and {name} both call a number {metric!r}, and one would be lost"
                    raise UserError(f"{said}: leave one out, or let it call the number otherwise")
                by[metric] = name
            if manifest.result is not None:
                found[name] = manifest.result
        return found

    @property
    def own(self) -> list[str]:
        """Names of the numbers that measurements of the user's own have found."""
        found = [self.results.get(name) for name, stage in self.stages.items() if stage.own]
        return [metric for result in found if result is not None for metric in result["metrics"]]

    def history(self, stage: Stage[Any]) -> list[dict[str, float]]:
        """What a training reported."""
        # by key: what one line calls `train` is the `judge` of another
        return [
            dict(entry)
            for manifest in self.manifests.values()
            if manifest.key == stage.key
            for entry in manifest.history
        ]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All numbers under their fixed names; costs are those of making, whoever made it."""
        found: dict[str, float] = {}
        _ = self.results  # refuses two numbers of one name
        # several stages may count under one name, so seconds add up
        seconds, calls, images = defaultdict[str, float](float, dict.fromkeys(ALWAYS, 0.0)), 0, 0
        for name, stage in self.stages.items():
            manifest, spent = self.manifests[name], self.store.spent(stage)
            found |= stage.numbers(manifest.history, manifest.result, manifest.counts)
            seconds[stage.cost] += spent.seconds
            calls += spent.calls
            # copies, and what a method must have first, are no generated images
            images += spent.images if stage.counted else 0
        costs = {f"cost/{name}_s": value for name, value in seconds.items()}
        costs |= {"cost/denoiser_calls": float(calls), "cost/device_s": sum(seconds.values())}
        return found | costs | {"gen/images": float(images)}

    def said(self, made: Made) -> dict[str, float]:
        """The numbers, and whether this call found the images."""
        # beside `metrics`, because it is about this call and not about the experiment
        generated = self.line.generated
        return self.metrics | {"gen/cached": float(generated is not None and generated.key not in made.seconds)}

    def summary(self, made: Made) -> Stages:
        """Where each stage lies, and what this call had to do for it."""
        return {
            name: {
                "key": stage.key, "path": str(self.store.at(stage).local()), "cached": stage.key not in made.seconds,
                "seconds": round(made.seconds.get(stage.key, 0.0), 3),
            }
            for name, stage in self.stages.items()
        }  # fmt: skip

    def answer(self, run_id: str, made: Made) -> dict[str, Any]:
        """What `--json` prints of an experiment."""
        found = {"run_id": run_id, "experiment": to_json(self.experiment)}
        return found | {"stages": self.summary(made), "metrics": self.said(made)}
