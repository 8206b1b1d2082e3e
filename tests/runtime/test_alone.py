"""A sweep in this process, without Ray."""

from __future__ import annotations

from pathlib import Path

from preloaded import start

CODE = """
import sys
import synthaug
from shapes import Noise, tiny
from synthaug.classify.augment import RandomCrop
from synthaug.experiment import Sweep

arms = {"plain": {}, "broken": {"recipe.transforms": (RandomCrop(size=500),)}, "noise": {"method": Noise(), "k": 1}}
sweep = Sweep(base=tiny(steps=2), arms=arms, baseline="plain", seeds=1)
try:
    synthaug.run(sweep, home=sys.argv[1], workers=0)
except RuntimeError as error:
    print(error)
rest = Sweep(base=tiny(steps=2), arms={name: arms[name] for name in ("plain", "noise")}, baseline="plain", seeds=1)
answer = synthaug.run(rest, home=sys.argv[1], workers=0)
print(all(stage["cached"] for stage in answer["stages"].values()), len(answer["trials"]), "ray" in sys.modules)
"""


def test_a_trial_that_fails_does_not_stop_the_others_and_ray_is_left_alone(tmp_path: Path) -> None:
    process = start(CODE, tmp_path)
    said = process.stdout.read()
    assert process.wait() == 0
    failed, rest = said.splitlines()
    assert failed.startswith("1 of 3 trials failed, the first with: ") and "500" in failed
    assert rest == "True 2 False"
