"""The leak check: planted test images are found, clean sets are not flagged."""

import json
import math

import numpy as np
import pytest
from pixels import Pixels, images

from synthaug.data.sample import decode_image, encode_image, resize_image
from synthaug.evaluate.base import ImageEvaluation
from synthaug.evaluate.leak import Leak, differences, expected_share, share_closer
from synthaug.settings import from_json, to_json

PIXELS = Leak(extractor=Pixels())


def pictures(count: int, seed: int) -> np.ndarray:
    """Smooth images of 72 pixels, large enough to be stored as JPEG."""
    coarse = images(count, seed, size=5).transpose(0, 2, 3, 1)
    return np.stack([resize_image(pixels, 72).transpose(2, 0, 1) for pixels in coarse])


def as_stored(image: np.ndarray) -> np.ndarray:
    return decode_image(encode_image(image.transpose(1, 2, 0))).transpose(2, 0, 1)


def measured(leak: Leak, made: np.ndarray, test: np.ndarray, subset: np.ndarray) -> dict:
    result = leak.measure(made, np.zeros(len(made), int), {"test": test, "subset": subset}, ["a"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return result


def test_planted_test_images_are_found():
    test, subset, made = pictures(60, 0), pictures(50, 1), pictures(40, 2)
    planted = {3: 17, 11: 59, 12: 0, 39: 17}
    for number, (here, there) in enumerate(planted.items()):
        made[here] = as_stored(test[there]) if number else test[there]
        assert number == 0 or not np.array_equal(made[here], test[there]), "JPEG changes the pixels"
    result = measured(PIXELS, made, test, subset)
    assert result["metrics"]["leak/copies"] == 4 and result["metrics"]["leak/real_copies"] == 0
    assert result["metrics"]["leak/share_closer"] >= 4 / 40
    assert {pair["made"]: pair["test"] for pair in result["pairs"][:4]} == planted and len(result["pairs"]) == 10
    assert result["pairs"][0] == {"made": 3, "test": 17, "distance": 0, "levels": 0}
    assert all(pair["levels"] < 4 for pair in result["pairs"][:4]) and result["pairs"][4]["levels"] > 20


def test_clean_images_are_not_flagged():
    result = measured(PIXELS, pictures(200, 3), pictures(60, 4), pictures(150, 5))
    metrics, about = result["metrics"], result["about"]
    assert about["expected"] == 0.01 and metrics["leak/share_closer"] <= 0.05
    assert metrics["leak/copies"] == metrics["leak/real_copies"] == 0
    assert 0.9 < metrics["leak/median_ratio"] < 1.1
    counts = {"made": 200, "subset": 150, "test": 60, "quantile": 0.01, "levels": 4}
    assert counts.items() <= about.items() and about["extractor"]["name"] == "pixels"


def test_images_near_to_all_test_images_lower_the_ratio():
    test, subset = images(50, 0), images(50, 1)
    near = (images(50, 2) / 2 + test / 2).astype(np.uint8)  # half way to a test image
    metrics = measured(PIXELS, near, test, subset)["metrics"]
    assert metrics["leak/share_closer"] == 1 and metrics["leak/median_ratio"] < 0.8 and metrics["leak/copies"] == 0


def test_duplicates_of_the_data_set_are_told_apart():
    """Real training images that are test images: no ratio to a distance of 0, and the copies are theirs too."""
    test = images(30, 0)
    metrics = measured(PIXELS, test[:7], test, test[10:])["metrics"]
    assert metrics == {"leak/share_closer": 0, "leak/copies": 7, "leak/real_copies": 20}


@pytest.mark.parametrize(("count", "quantile"), [(5, 0.01), (30, 0.1), (150, 0.01), (9, 0.99), (200, 0.5)])
def test_the_share_closer_is_what_is_expected(count, quantile):
    """Mean of many draws where generated and real distances come from one skewed distribution."""
    rng = np.random.default_rng(0)
    shares = [share_closer(*np.split(rng.gamma(2.0, size=100 + count), [100]), quantile) for _ in range(3000)]
    assert abs(np.mean(shares) - expected_share(count, quantile)) < 4 * np.std(shares) / math.sqrt(3000)
    if 1 <= (count + 1) * quantile <= count:
        assert expected_share(count, quantile) == quantile


def test_differences_by_loops():
    a, b = images(4, 0), images(6, 1)
    which = np.array([5, 0, 0, 3])
    slow = [
        math.sqrt(np.mean([(int(p) - int(q)) ** 2 for p, q in zip(a[i].flat, b[j].flat, strict=True)]))
        for i, j in enumerate(which)
    ]
    assert differences(a, b, which) == pytest.approx(slow)


def test_settings_both_ways():
    leak = Leak(quantile=0.05, worst=3, extractor=Pixels())
    assert from_json(ImageEvaluation, json.loads(json.dumps(to_json(leak)))) == leak
    with pytest.raises(ValueError, match="quantile"):
        Leak(quantile=1.0)
