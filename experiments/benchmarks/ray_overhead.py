"""What Ray Data costs: its path against a plain loop over units, on a stub that sleeps 2 ms an image.

`python experiments/benchmarks/ray_overhead.py` prints the ratio of their times, pair by pair, with shards of at least
4 s and one actor, and Ray's start-up apart. Goal: at most 1.10.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from synthaug.data.dataset import Dataset
from synthaug.data.sample import Label
from synthaug.diffusion.backbone import Backbone
from synthaug.experiment import Experiment, Recipe
from synthaug.methods.base import Method, Models, Row
from synthaug.runtime import cluster
from synthaug.runtime.executors import Workers
from synthaug.runtime.make import Here, Plan, make
from synthaug.runtime.store import Store
from synthaug.settings import settings
from synthaug.stages.images import SHARD

SLEEP_S = 0.002


@settings
class Sleep(Method):
    """A model that takes 2 ms an image and changes nothing."""

    backbone: ClassVar[Backbone | None] = None
    salt: int = 0  # another value, other keys: nothing is found in the store

    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        time.sleep(SLEEP_S * len(rows) * self.repeat())
        return list(images), [((row.target, 1.0),) for row in rows]

    def repeat(self) -> int:
        """Images that one stands for, so that a shard of the digits takes 4 s."""
        return 8


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=5)
    arguments.add_argument("--k", type=int, default=4, help="shards, of 256 sources x 8 x 2 ms = 4.1 s each")
    options = arguments.parse_args()
    sys.modules["ray_overhead"] = sys.modules["__main__"]
    Sleep.__module__ = "ray_overhead"  # so that the actor can import it
    sys.path.insert(0, str(Path(__file__).parent))
    began = time.monotonic()
    cluster.start()
    print(f"ray.init: {time.monotonic() - began:.1f} s")
    with tempfile.TemporaryDirectory() as home:
        run(Store(home).prepare(), 1, -1, 1)  # the first job of a cluster loads more than the later ones
        ratios = measure(Store(home).prepare(), options.pairs, options.k)
    print(f"Ray / loop: median {statistics.median(ratios):.3f}, min {min(ratios):.3f}, max {max(ratios):.3f}")
    cluster.stop_own()


def measure(store: Store, pairs: int, k: int) -> list[float]:
    """Interleaved pairs: seconds of the loop, of Ray, and of Ray without its start, which an empty job tells."""
    ratios = []
    for pair in range(pairs):
        loop = timed(lambda pair=pair: run(store, 0, 3 * pair, k))  # type: ignore[misc]
        one = timed(lambda pair=pair: run(store, 1, 3 * pair + 1, 1))  # type: ignore[misc]
        many = timed(lambda pair=pair: run(store, 1, 3 * pair + 2, 1 + k))  # type: ignore[misc]
        ratios.append((many - one) / loop)
        print(
            f"pair {pair + 1}: loop {loop:.2f} s, Ray {many - one:.2f} s ({k} shards), start-up {one - loop / k:.2f} s"
        )
    return ratios


def run(store: Store, workers: int, salt: int, k: int) -> None:
    experiment = Experiment(dataset=Dataset("digits", shots=25), method=Sleep(salt=salt), k=k, recipe=Recipe(steps=1))
    generated = store.line(experiment).generated
    assert generated is not None
    make(Plan(store).add(experiment, [generated]), Workers(workers) if workers else Here())


def timed(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    assert SHARD >= 250
    main()
