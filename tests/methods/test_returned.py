"""What a method of one's own returns is looked at before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthaug
from making import made_in
from shapes import Noise, tiny
from synthaug.data.sample import Sample, soft_label
from synthaug.methods.base import Context, Models, Row
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
            "a cut class": (RIGHT, ((3.7, 1.0),)), "no class": (RIGHT, (("3", 1.0),)), "four": (np.zeros((8, 8, 4), np.uint8), ((3, 1.0),)), "none": (None, ((3, 1.0),)), "empty": (RIGHT[:0], ((3, 1.0),)),
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
        ("a cut class", "class 3.7 of a label is no whole number"), ("no class", "class '3' of a label is no whole number"), ("four", "not uint8 of 8 x 8 x 4"), ("none", "NoneType is no array"), ("empty", "not uint8 of 0 x 32 x 3"),
        ("short", "Wrong.generate returned 1 images for 20 rows"), ("no pair", "Wrong.generate returned list, not a pair"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_label_is_refused(case: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^Wrong.generate") as error:
        synthaug.run(tiny(method=Wrong(case=case), k=1), home=tmp_path)
    assert said in str(error.value) and (case in ("short", "no pair") or "variant 1 of 'digits/" in str(error.value))


@settings
class Iterating(Noise):
    """Its labels can be gone through once."""

    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        made, _ = super().generate(rows, images, models)
        return made, [
            zip([np.int64(row.target)], [1.0], strict=True) if n % 2 else ((c, 1) for c in [row.target])
            for n, row in enumerate(rows)
        ]


def test_labels_that_are_iterators_are_kept(tmp_path: Path) -> None:
    subject = tiny(method=Iterating(), k=1)
    store, _ = made_in(tmp_path, subject, "generate")
    samples = store.load(store.stages(subject)["generate"]).samples(1)
    assert len(samples) == 20 and all(sample.label == ((sample.target, 1.0),) for sample in samples)


@settings
class Planning(Noise):
    """Plans what is asked for in `case`."""

    case: str = ""

    def plan(self, sample: Sample, variant: int, context: Context) -> Any:
        row = super().plan(sample, variant, context)
        return {"variant": replace(row, variant=1), "source": replace(row, source="another"), "none": None}[self.case]


@pytest.mark.parametrize(
    ("case", "said"),
    [("variant", "2 of .*returned variant 1 of 'digits/"), ("source", "returned variant 1 of 'another'"), ("none", "returned NoneType, no Row")],
)  # fmt: skip
def test_a_row_is_of_what_was_asked_for(case: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^Planning.plan, variant .*{said}"):
        synthaug.run(tiny(method=Planning(case=case), k=2), home=tmp_path)


@settings
class Encoding(Noise):
    """Stores what is asked for in `case`."""

    case: str = ""

    def encode(self, made: np.ndarray) -> Any:
        return {"raw": made.tobytes(), "array": made, "none": None, "empty": b""}[self.case]


@pytest.mark.parametrize(
    ("case", "said"), [("raw", "3072 bytes of no image"), ("array", "ndarray"), ("none", "NoneType"), ("empty", "0 bytes of no image")]
)  # fmt: skip
def test_what_is_stored_can_be_opened(case: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"^Encoding.encode, variant 1 of 'digits/.*returned {said}, not the bytes of an image"
    ):
        synthaug.run(tiny(method=Encoding(case=case), k=1), home=tmp_path)


@settings
class Piping(Noise):
    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        return models.pipeline.txt2img([row.prompt for row in rows], [row.seed for row in rows])  # type: ignore[call-arg]


@settings
class Halving(Noise):
    def generate(self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models) -> Any:
        return images, [soft_label([(row.target, 0.4)]) for row in rows]


@pytest.mark.parametrize(
    ("method", "said"),
    [(Piping(), "names none; set `backbone` on its class, or --set backbone"), (Halving(), "sum to 0.4, not to 1; give what is left to a class")],
)  # fmt: skip
def test_what_is_asked_of_the_package_in_vain_is_said(method: Noise, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        synthaug.run(tiny(method=method, k=1), home=tmp_path)
