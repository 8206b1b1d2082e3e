"""Retrieval: the nearest real images of a class, in their order, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from synthaug.data.dataset import Dataset
from synthaug.data.sample import Sample, decode_image
from synthaug.methods.base import Context, Models, Row
from synthaug.methods.retrieval import Retrieval
from synthaug.settings import UserError

NAMES = tuple(str(i) for i in range(10))
CONTEXT = Context(0, NAMES, ("a photo of a {}",), "", {}, NAMES)
METHOD = Retrieval(split="test", clip="nano:clip")  # type: ignore[arg-type]


def planned(k: int, sources: int = 3) -> tuple[list[Row], list[np.ndarray]]:
    listing = Dataset("digits").open()
    chosen = listing.splits["train"][:sources]
    samples = [Sample(e.id, b"", ((e.label, 1.0),), e.id, e.label) for e in chosen]
    rows = [METHOD.plan(s, v, CONTEXT) for v in range(1, k + 1) for s in samples]
    return rows, [decode_image(listing.read(e.id)) for e in chosen] * k


@pytest.fixture(scope="module")
def models() -> Models:
    found = Models(None)
    found.context = CONTEXT
    return found


def test_variants_are_the_nearest_images_of_the_class(models: Models) -> None:
    rows, images = planned(3)
    made, labels = METHOD.generate(rows, images, models)
    upstream, scorer = Dataset("glyphs").open(), models.scorer(METHOD.clip)
    for number, source in enumerate(images[:3]):
        name = NAMES[rows[number].target]
        theirs = [
            decode_image(upstream.read(e.id)) for e in upstream.splits["test"] if upstream.classes[e.label] == name
        ]
        own = scorer.embed(source.transpose(2, 0, 1)[None])[0].numpy()
        cosines = [float(own @ scorer.embed(image.transpose(2, 0, 1)[None])[0].numpy()) for image in theirs]
        order = np.argsort(cosines)[::-1]
        for variant in range(3):
            assert np.array_equal(made[3 * variant + number], theirs[order[variant]])
    assert labels == [((row.target, 1.0),) for row in rows]
    # nobody else's choice, and no other variant's
    some, _ = METHOD.generate(rows[4:5], images[4:5], models)
    assert np.array_equal(some[0], made[4])


def test_what_upstream_lacks_is_said() -> None:
    own = Dataset("digits").open()
    METHOD.check(own, NAMES, 50)
    with pytest.raises(UserError, match="method.upstream: glyphs has 50 images of '0', fewer than k=51"):
        METHOD.check(own, NAMES, 51)
    with pytest.raises(UserError, match="method.upstream: glyphs has 0 images of 'black dog', fewer than k=1"):
        METHOD.check(own, ("black dog",), 1)
    Retrieval(split=None).check(own, NAMES, 300)  # of all splits together


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_of_the_data_set_itself_are_refused(split: str) -> None:
    """Some are tested on, the others are more than the shots that every other arm has, or the sources themselves."""
    own = Dataset("digits").open()
    with pytest.raises(UserError, match="images of '0' are those of the data set itself; name another one"):
        Retrieval(Dataset("digits"), split=split).check(own, NAMES, 1)
