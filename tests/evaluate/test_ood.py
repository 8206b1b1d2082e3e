"""Scores of outliers against loops written out, detection rates against closed forms and scikit-learn."""

import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from shapes import paint
from synthaug.classify.loop import predict
from synthaug.classify.models import CENTRED, Classifier, Prepared, small
from synthaug.evaluate.base import Evaluation, Subject
from synthaug.evaluate.ood import (
    ASH,
    MSP,
    SCALE,
    Layer,
    OutOfDistribution,
    ReAct,
    ash_b,
    ash_p,
    ash_s,
    auroc,
    choose,
    fpr95,
    last_layer,
    msp,
    penultimate,
    react,
    scale,
)
from synthaug.evaluate.outliers import Folder, Letters, Noise, Outliers, Textures
from synthaug.settings import UserError, from_json, settings, to_json

rng = np.random.default_rng(0)
Z = np.maximum(rng.normal(size=(40, 20)), 0)
W, B = rng.normal(size=(5, 20)), rng.normal(size=5)
EXAMPLE = np.array([[4.0, 3, 2, 1, 0, 0, 0, 0, 0, 0]])


def slowly(form: str, percentile: float) -> np.ndarray:
    """The scores image by image, as the papers say it."""
    scores = []
    for z in Z:
        kept = sorted(range(20), key=lambda i: -z[i])[: 20 - round(20 * percentile / 100)]
        shaped, s1, s2 = np.zeros(20), z.sum(), z[kept].sum()
        for i in kept:
            shaped[i] = {"B": s1 / len(kept), "P": z[i], "S": z[i] * np.exp(s1 / s2)}.get(form, 0)
        scores.append(logsumexp(W @ (z * np.exp(s1 / s2) if form == "SCALE" else shaped) + B))
    return np.array(scores)


SHAPERS = {"B": ash_b, "P": ash_p, "S": ash_s, "SCALE": scale}


@pytest.mark.parametrize("form", SHAPERS)
@pytest.mark.parametrize("percentile", [0, 65, 80.0, 90])
def test_scores_are_those_of_the_papers(form, percentile):
    before = Z.copy()
    assert SHAPERS[form](Z, W, B, percentile) == pytest.approx(slowly(form, percentile), abs=1e-10)
    assert np.array_equal(Z, before)


def test_c1_the_example():
    """With one class whose weights pick a unit, a score is that unit."""
    units = [np.eye(10)[[i]] for i in range(10)]
    zero = np.zeros(1)
    assert [ash_b(EXAMPLE, w, zero, 80)[0] for w in units] == [5, 5] + [0] * 8
    assert [ash_p(EXAMPLE, w, zero, 80)[0] for w in units] == [4, 3] + [0] * 8
    factor = np.exp(10 / 7)
    assert factor == pytest.approx(4.172734, abs=1e-6)
    assert [ash_s(EXAMPLE, w, zero, 80)[0] for w in units] == pytest.approx([4 * factor, 3 * factor] + [0] * 8)
    assert [scale(EXAMPLE, w, zero, 80)[0] for w in units] == pytest.approx([v * factor for v in EXAMPLE[0]])
    assert [react(EXAMPLE, w, zero, 2.5)[0] for w in units] == [2.5, 2.5, 2, 1] + [0] * 6


def test_c1_invariants():
    ones, zero = np.ones((1, 20)), np.zeros(1)
    for percentile in (0, 65, 95):
        assert ash_b(Z, ones, zero, percentile) == pytest.approx(Z.sum(1))  # the sum is kept
    assert ash_b(Z, np.eye(20)[[7]], zero, 0) == pytest.approx(Z.mean(1))
    assert scale(Z, ones, zero, 0) == pytest.approx(np.e * Z.sum(1))
    logits = np.stack([scale(Z, w[None], zero, 85) for w in W], 1)
    assert np.array_equal(logits.argmax(1), (Z @ W.T).argmax(1))  # without biases SCALE changes no decision
    assert react(Z, W, B, np.inf) == pytest.approx(logsumexp(Z @ W.T + B, axis=1))
    assert msp(np.zeros((1, 4))) == 0.25 and 0.25 <= msp(rng.normal(size=(9, 4))).min() <= 1
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    assert msp(logits) == pytest.approx((exponent / exponent.sum(1, keepdims=True)).max(1))


@pytest.mark.parametrize("score", SHAPERS.values())
def test_edges(score):
    zero = np.zeros((2, 20))
    assert score(zero, W, B, 90) == pytest.approx(logsumexp(B))  # nothing fires: r is 1
    assert np.isfinite(score(rng.normal(size=(30, 20)), W, B, 90)).all()
    tied = np.ones((1, 20))
    assert scale(np.array([[1.0, -1.0]]), np.array([[1.0, 0.0]]), np.zeros(1), 0) == pytest.approx(np.e)  # 0 / 0
    kept = tied * (np.arange(20) < 2)  # of equal units the first two are the largest
    if score is ash_p:
        assert score(tied, W, B, 90) == pytest.approx(logsumexp(W @ kept[0] + B))
    assert np.isfinite(score(Z, W, B, 99)).all()  # rounds to no unit at all: one is kept
    for percentile in (-1, 100, 101, float("nan")):
        with pytest.raises(UserError, match="percentile=.* must be at least 0 and below 100"):
            score(Z, W, B, percentile)


def test_numpy_or_torch():
    tensors = [torch.tensor(v) for v in (Z, W, B)]
    for score in (*SHAPERS.values(), react):
        found = score(*tensors, 70.0)
        assert isinstance(found, torch.Tensor) and isinstance(score(Z, W, B, 70.0), np.ndarray)
        assert found.numpy() == pytest.approx(score(Z, W, B, 70.0))
        assert score(tensors[0].float(), W, B, 70.0).dtype == torch.float32
    assert msp(torch.zeros(2, 5)).tolist() == pytest.approx([0.2, 0.2]) and isinstance(msp(Z), np.ndarray)


# --- rates --------------------------------------------------------------------------------------------------------


def test_c2_auroc_is_mann_whitney_with_half_ties():
    inside, outside = rng.integers(0, 6, 70), rng.integers(0, 5, 50)
    slow = np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside])
    truth = np.r_[np.ones(70), np.zeros(50)]
    assert auroc(inside, outside) == pytest.approx(slow, abs=1e-12)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]), abs=1e-12)
    assert auroc(torch.tensor(inside), torch.tensor(outside)) == auroc(list(inside), list(outside))
    assert auroc(outside, inside) == pytest.approx(1 - slow)
    assert auroc([1, 1], [1]) == 0.5 and auroc([2], [1]) == 1 and auroc([1], [2]) == 0
    assert auroc(np.exp(inside / 3), np.exp(outside / 3)) == auroc(inside, outside)


def test_c2_gaussians():
    """D apart: AUROC is Phi(D / sqrt 2), and FPR at 95 % is Phi(Phi^-1(.95) - D)."""
    n, gap = 200_000, 1.3
    inside, outside = rng.normal(gap, 1, n), rng.normal(0, 1, n)
    assert norm.cdf(gap / 2**0.5) == pytest.approx(0.82101, abs=1e-5)
    assert auroc(inside, outside) == pytest.approx(0.82101, abs=4 * (0.15 / n) ** 0.5)
    assert norm.cdf(norm.ppf(0.95) - gap) == pytest.approx(0.63490, abs=1e-5)
    assert fpr95(inside, outside) == pytest.approx(0.63490, abs=0.008)
    grid = norm.ppf((np.arange(n) + 0.5) / n)  # quantiles instead of draws
    assert auroc(grid + gap, grid) == pytest.approx(norm.cdf(gap / 2**0.5), abs=1e-5)
    assert fpr95(grid + gap, grid) == pytest.approx(0.63490, abs=2e-5)


def test_c2_fpr():
    assert fpr95([94, 95, 96, 200], range(1, 101)) == 0.5  # 95 is the lowest that catches 95 of 100
    assert fpr95([19, 20], range(1, 20)) == 0.5  # 19 outliers: 95 % are all of them
    assert fpr95([3, 4], [3] * 50) == 0.5
    for _ in range(20):
        inside, outside = rng.integers(0, 30, 40), rng.integers(-5, 30, rng.integers(1, 60))
        rates, caught, _ = roc_curve(
            np.r_[np.zeros(40), np.ones(len(outside))], -np.r_[inside, outside], drop_intermediate=False
        )
        assert fpr95(inside, outside) == pytest.approx(rates[np.argmax(caught >= 0.95 - 1e-12)])


def test_c2_outliers_are_the_positive_ones():
    """With unequal variances it matters: N(1.3, 1) against N(0, 2), both by quantiles."""
    grid = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    assert fpr95(grid + 1.3, 2 * grid) == pytest.approx(norm.cdf(2 * norm.ppf(0.95) - 1.3), abs=2e-5)


@pytest.mark.parametrize("rate", [auroc, fpr95])
def test_no_scores(rate):
    with pytest.raises(UserError, match="there are no out-of-distribution scores"):
        rate([1.0], np.empty(0))
    with pytest.raises(UserError, match="there are no in-distribution scores"):
        rate(torch.empty(0), [1.0])


# --- the evaluation -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The small net as it begins, on random blocks."""
    torch.manual_seed(0)
    model = Prepared(Classifier(small(4), *CENTRED), size=None, crop=None).eval()
    dice = np.random.default_rng(1)
    images = dice.integers(0, 256, (70, 3, 4, 4), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    return Subject(model, list("abcd"), {"val": (images[:30], np.zeros(30)), "test": (images[30:], np.zeros(40))})


def test_features_are_what_the_last_layer_sees(subject):
    images = subject.sets["test"][0]
    features = penultimate(subject.model, images)
    layer = last_layer(subject.model, features)
    assert features.shape == (40, 256) and features.min() >= 0 and features.dtype == np.float64
    logits = predict(subject.model, images).numpy()
    assert features @ layer.weight.T + layer.bias == pytest.approx(logits, abs=1e-5)
    assert not subject.model.classifier.net[-1]._forward_pre_hooks  # the hook is gone
    assert MSP().score(features, layer) == pytest.approx(msp(logits), abs=1e-5)


def test_reacts_threshold_is_a_percentile_of_all_activations():
    layer = Layer(W, B, Z)
    assert ReAct(percentile=60).score(Z[:3], layer) == pytest.approx(react(Z[:3], W, B, np.percentile(Z.ravel(), 60)))
    for form in "BPS":
        found = ASH(form=form, percentile=70).score(Z, layer)
        assert found == pytest.approx(slowly(form, 70), abs=1e-10) and ASH(form=form).name == f"ASH-{form}"
    assert SCALE(percentile=70).score(Z, layer) == pytest.approx(slowly("SCALE", 70), abs=1e-10)


def test_published_settings():
    assert [(d.percentile, d.sweep) for d in (ReAct(), ASH(), SCALE())] == [
        (90, (85, 90, 95, 99)),
        (90, (65, 70, 75, 80, 85, 90, 95)),
        (85, (65, 70, 75, 80, 85, 90, 95)),
    ]


@pytest.mark.parametrize("detector", [MSP(), ReAct(), ASH(), ASH(form="S"), SCALE()], ids=lambda d: d.name)
def test_validation_chooses_the_best_percentile(detector):
    layer, outliers = Layer(W, B, Z), [rng.exponential(0.3, (25, 20)), rng.exponential(0.5, (10, 20))]
    chosen = choose(detector, layer, outliers)
    both = np.concatenate(outliers)
    rate = lambda d: auroc(d.score(Z, layer), d.score(both, layer))  # noqa: E731
    tried = [type(detector)(**{**vars(detector), "percentile": p}) for p in getattr(detector, "sweep", ())]
    assert rate(chosen) == max(map(rate, [detector, *tried]))
    assert detector.name == "MSP" or rate(chosen) > min(map(rate, tried))
    assert choose(detector, layer, []) == detector
    assert choose(detector, layer, [Z]) == detector  # all are as bad: the published one stays


ASKED = OutOfDistribution(near=(Letters(count=20),), far=(Noise(count=15), Textures(count=12)), val=(Noise(count=9),))


def test_evaluation(subject):
    assert ASKED.needs == ("val", "test")
    result = ASKED(subject)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    metrics = result["metrics"]
    sets = {"near/letters": Letters(count=20), "far/uniform-noise": Noise(count=15), "far/textures": Textures(count=12)}
    layer = last_layer(subject.model, penultimate(subject.model, subject.sets["val"][0]))
    inside = penultimate(subject.model, subject.sets["test"][0])
    for name, kind in {"MSP": MSP, "ReAct": ReAct, "ASH-B": ASH, "SCALE": SCALE}.items():
        detector = kind(**result["about"]["chosen"][name])
        for measure in (auroc, fpr95):
            values = {}
            for where, source in sets.items():
                outside = penultimate(subject.model, source.images(16, "test"))
                values[where] = measure(detector.score(inside, layer), detector.score(outside, layer))
                assert metrics[f"test/ood/{name}/{where}/{measure.__name__}"] == pytest.approx(values[where])
            far = (values["far/uniform-noise"] + values["far/textures"]) / 2
            assert metrics[f"test/ood/{name}/far/{measure.__name__}"] == pytest.approx(far)
            assert metrics[f"test/ood/{name}/near/{measure.__name__}"] == pytest.approx(values["near/letters"])
    assert len(metrics) == 4 * 2 * (3 + 2)
    assert result["about"]["images"] == {"val": 30, "test": 40, "val/uniform-noise": 9} | {
        "near/letters": 20,
        "far/uniform-noise": 15,
        "far/textures": 12,
    }


@settings
class Same(Outliers):
    """The same images in both parts."""

    @property
    def name(self) -> str:
        return "same"

    def images(self, size, part):
        return Noise(count=3).images(size, "val")


def test_what_chooses_is_not_reported_on(subject, tmp_path):
    with pytest.raises(UserError, match="3 images of far/same are among those to choose by"):
        OutOfDistribution(far=(Same(),), val=(Same(),))(subject)
    for number in range(30):
        paint(tmp_path / f"{number}.png", number, 16)
    folder = Folder(str(tmp_path))
    assert OutOfDistribution(far=(folder,), val=(folder,), detectors=(MSP(),))(subject)["metrics"]
    with pytest.raises(UserError, match="split: percentiles are chosen on val"):
        OutOfDistribution(split="val")
    published = OutOfDistribution(split="val", val=(), far=(Noise(count=5),))
    assert published.needs == ("val",)
    assert published(subject)["about"]["chosen"]["SCALE"] == {"percentile": 85.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"far": ()}, "name the outliers"),
        ({"far": (Noise(), Noise(seed=1))}, "far: two are called 'uniform-noise'"),
        ({"detectors": (ASH(), ASH(percentile=70))}, "detectors: two are called 'ASH-B'"),
        ({"detectors": ()}, "detectors"),
        ({"detectors": ("Scale",)}, "no Detector is called 'Scale'; choices: ASH, MSP, ReAct, SCALE"),
        ({"far": ("Letter",)}, "did you mean Letters"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(UserError, match=message):
        OutOfDistribution(**fields)
    for percentile in (0, 100):
        with pytest.raises(UserError, match=f"percentile: Input should be .* than {percentile}, got {percentile}"):
            SCALE(percentile=percentile)


def test_without_validation_images(subject):
    nothing = Subject(subject.model, subject.classes, subject.sets | {"val": (np.empty((0, 3, 16, 16), np.uint8), [])})
    with pytest.raises(UserError, match="no validation images"):
        ASKED(nothing)


def test_settings_both_ways():
    assert from_json(Evaluation, to_json(ASKED)) == ASKED
    assert from_json(Evaluation, "OutOfDistribution") == OutOfDistribution() and not ASKED.needs_denoiser
