"""What a method of one's own returns is looked at before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from shapes import Noise, tiny
from synthaug.methods.base import Models, Row
from synthaug.settings import UserError, settings

RIGHT = np.zeros((32, 32, 3), np.uint8)


@settings
class Wrong(Noise):
    """Gives what is asked for in `case`."""

    case: str = ""

    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        given: dict[str, tuple[Any, Any]] = {
            "half": (RIGHT, ((3, 0.5),)), "negative": (RIGHT, ((3, 1.5), (4, -0.5))), "unknown": (RIGHT, ((99, 1.0),)),
            "a number": (RIGHT, 3), "grey": (RIGHT[:, :, 0], ((3, 1.0),)), "float": (RIGHT / 255, ((3, 1.0),)),
            "four": (np.zeros((8, 8, 4), np.uint8), ((3, 1.0),)), "none": (None, ((3, 1.0),)), "empty": (RIGHT[:0], ((3, 1.0),)),
        }  # fmt: skip
        if self.case == "no pair":
            return [RIGHT] * len(rows)
        if self.case == "short":
            return [RIGHT], [((3, 1.0),)]
        image, label = given[self.case]
        return [image] * len(rows), [label] * len(rows)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("half", "weights of a label sum to 0.5"), ("negative", "weight of a label is negative"), ("unknown", "class 99 of a label is none of 0 to 9"),
        ("a number", "a label is (class, weight) pairs, not 3"), ("grey", "not uint8 of 32 x 32"), ("float", "not float64 of 32 x 32 x 3"),
        ("four", "not uint8 of 8 x 8 x 4"), ("none", "NoneType is no array"), ("empty", "not uint8 of 0 x 32 x 3"),
        ("short", "Wrong.generate returned 1 images for 20 rows"), ("no pair", "Wrong.generate returned list, not a pair"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_label_is_refused(case: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^Wrong.generate") as error:
        synthaug.run(tiny(method=Wrong(case=case), k=1), home=tmp_path)
    assert said in str(error.value) and (case in ("short", "no pair") or "variant 1 of 'digits/" in str(error.value))
