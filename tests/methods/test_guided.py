"""Guided samples from closed forms: they are of the class asked, each row on its own, from the row's own noise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from making import Known, key_of, stages_of
from shapes import Noise, tiny
from synthaug.data.sample import Sample
from synthaug.diffusion.guide import Guide
from synthaug.diffusion.one_step import sigma_at
from synthaug.diffusion.oracle import MixtureDenoiser
from synthaug.evaluate.recognised import Recognised
from synthaug.methods import diffuse_denoise
from synthaug.methods.base import Context, Models, Row
from synthaug.methods.guided import ClassifierGuided
from synthaug.settings import UserError, seed_of
from synthaug.stages.line import line_of

SIZE, SPREAD = 4, 0.05
PIXELS = 3 * SIZE**2
SHADES = torch.tensor([-0.6, 0.0, 0.6]).double()  # three classes of nearly plain images


class Oracle(MixtureDenoiser):
    """What a method expects of a denoiser."""

    def __init__(self) -> None:
        means = np.repeat(SHADES.numpy()[:, None], PIXELS, 1)
        super().__init__(np.ones(3), means, np.stack([SPREAD**2 * np.eye(PIXELS)] * 3))
        self.net, self.levels, self.rows = SimpleNamespace(device=torch.device("cpu")), [], 0

    def __call__(self, x: Any, sigma: Any, cond: object = None) -> Any:
        assert cond is None, "only the classifier is told the class"
        self.levels.append(float(sigma))
        self.rows += len(x)
        return super().__call__(x, sigma)


class Bayes:
    """The exact noisy classifier; with `behind`, that of the guess alone, which it doubts."""

    size = torch.tensor(SIZE)

    def __init__(self, behind: bool = False) -> None:
        self.behind = behind

    def log_p(self, x: Tensor, sigma: Any, x0: Tensor, labels: Tensor) -> Tensor:
        seen, s = (x0 + 0 * x, 3.0) if self.behind else (x, float(sigma))
        away = (seen.double().flatten(1)[:, None] - SHADES[:, None]).square().sum(2) / (2 * (s**2 + SPREAD**2))
        return (-away).log_softmax(1).gather(1, labels[:, None])[:, 0]


def rows(count: int, first: int = 0) -> list[Row]:
    sources = [Sample(f"s/{i}", b"", ((i % 3, 1.0),), f"s/{i}", i % 3) for i in range(first, first + count)]
    return [ClassifierGuided().plan(s, 1, Context(5, (), ("",), "")) for s in sources]


def made(method: ClassifierGuided, wanted: list[Row], guide: Any = None) -> tuple[np.ndarray, Oracle]:
    denoiser = Oracle()
    models: Any = SimpleNamespace(denoiser=denoiser, guide=guide or Bayes())
    images, labels = method.generate(wanted, [np.zeros((9, 9, 3), np.uint8)] * len(wanted), models)
    assert [dict(label) for label in labels] == [{row.target: 1.0} for row in wanted]
    return np.stack(images), denoiser


def shades(images: np.ndarray) -> np.ndarray:
    return np.abs(images.mean((1, 2, 3))[:, None] / 127.5 - 1 - SHADES.numpy()).argmin(1)


def test_the_plan_is_the_sources_class_and_the_rows_own_seed() -> None:
    for i, row in enumerate(rows(4)):
        assert (row.target, row.source_class, row.seed) == (i % 3, i % 3, seed_of(5, "generate", f"s/{i}", 1))
        assert ClassifierGuided(steps=7).calls(row, None) == 7


def test_samples_are_of_the_class_that_was_asked() -> None:
    wanted = rows(30)
    images, denoiser = made(ClassifierGuided(steps=40), wanted)
    assert images.shape == (30, SIZE, SIZE, 3) and images.dtype == np.uint8, "as large as the guide's, not the source's"
    assert np.array_equal(shades(images), [row.target for row in wanted])
    assert len(np.unique(images, axis=0)) == 30 and denoiser.rows == 30 * 40
    unguided = shades(made(ClassifierGuided(steps=40, scale=0), wanted)[0])
    assert (unguided == [row.target for row in wanted]).mean() < 0.7 and len(set(unguided)) > 1


def test_levels_are_even_in_time() -> None:
    _, denoiser = made(ClassifierGuided(steps=4), rows(1))
    assert denoiser.levels == sigma_at(torch.tensor([1.0, 0.75, 0.5, 0.25])).tolist()


@pytest.mark.parametrize("total", [True, False])
def test_rows_do_not_know_of_each_other(total: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ClassifierGuided(steps=5, total=total, guide=Guide(second="denoised"))
    whole = made(method, rows(7), Bayes(behind=total))[0]
    assert np.abs(whole[3:5].astype(int) - made(method, rows(2, first=3), Bayes(behind=total))[0]).max() <= 1
    monkeypatch.setattr(diffuse_denoise, "PIXELS", 3 * SIZE * SIZE)
    assert np.abs(whole.astype(int) - made(method, rows(7), Bayes(behind=total))[0]).max() <= 1


def test_a_guide_behind_the_denoiser_works_by_its_total_derivative_only() -> None:
    fields: dict[str, Any] = {"steps": 30, "guide": Guide(second="denoised")}
    through = made(ClassifierGuided(**fields, scale=4.0), rows(30), Bayes(behind=True))[0]
    given, unguided = (
        made(ClassifierGuided(**fields, scale=scale, total=False), rows(30), Bayes(behind=True))[0] for scale in (4, 0)
    )
    assert (shades(through) == np.arange(30) % 3).mean() > 0.9
    assert np.array_equal(given, unguided), "with the guess as given, this one has no wish at all"


def test_bad_settings_are_refused() -> None:
    for fields, said in (({"scale": -1.0}, "scale: .* greater than or equal to 0, got -1"), ({"steps": 0}, "steps")):
        with pytest.raises(UserError, match=said):
            ClassifierGuided(**fields)
    with pytest.raises(UserError, match="denoiser: ClassifierGuided needs a denoiser; --set denoiser=TrainedUNet"):
        tiny(method=ClassifierGuided())
    with pytest.raises(AssertionError, match="names no guide"):
        _ = Models(None).guide


def identify(thing: object) -> str:
    return "content"


def test_keys_hold_what_matters() -> None:
    def keys(**fields: Any) -> dict[str, str]:
        known = {"method": ClassifierGuided(guide=Guide(**fields.pop("guide", {}))), "denoiser": "TrainedUNet", "k": 2}
        return {name: stage.key for name, stage in stages_of(tiny(**known | fields), identify).items()}

    base = keys()
    assert list(base) == ["denoiser", "guide", "generate", "train", "evaluate"]

    def changed(**fields: Any) -> set[str]:
        return {name for name, key in keys(**fields).items() if base[name] != key}

    after = {"generate", "train", "evaluate"}
    assert changed(guide={"steps": 5}) == {"guide", *after}
    assert changed(guide={"second": "denoised"}) == {"guide", *after}
    assert changed(method=ClassifierGuided(scale=2.0)) == changed(method=ClassifierGuided(total=False)) == after
    assert changed(k=3) == {"train", "evaluate"}
    assert changed(shots=3) == changed(seed=1) == {"denoiser", "guide", *after}, "other images are drawn"
    assert changed(shots=None) - {"denoiser"} == {"guide", *after}
    assert keys(shots=None)["guide"] == keys(shots=None, seed=1)["guide"], "all images, whatever the seed"
    found = [stages_of(tiny(method=ClassifierGuided(guide=Guide(second=s)), denoiser="TrainedUNet"), identify)
             for s in ("none", "denoised")]  # fmt: skip
    guides = [stages["guide"] for stages in found]
    asked = [[guide.inputs[role].kind for role in guide.keyed] for guide in guides]
    assert asked == [["data"], ["data", "denoiser"]], "a noisy classifier does not hang on a denoiser"
    assert all(guide.keyed == list(guide.inputs) for guide in guides)
    assert {found[0]["guide"].key, found[0]["denoiser"].key} <= set(found[0]["generate"].keys_of_inputs)


def test_the_judge_is_the_classifier_of_the_real_images() -> None:
    subject, real_only = (tiny(method=method, evaluations=(Recognised(),)) for method in (Noise(), None))
    found = stages_of(subject, identify)
    assert "judge" in found and "judge" not in {**stages_of(tiny(method=Noise())), **stages_of(real_only)}
    own, judge = (line_of(each, Known(identify)).classifier for each in (subject, real_only))
    assert found["judge"].key == found["evaluate"].keys_of_inputs[-1] == judge.key != own.key
    assert judge.key == key_of(tiny(), "train", identify), "it is shared with who asks for nothing else"


def test_recognised_counts_what_the_judge_says() -> None:
    class Judge(torch.nn.Module):
        """Knows the shade; sure of it by the same margin always."""

        def __init__(self) -> None:
            super().__init__()
            self.device = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            grey = images.double().mean((1, 2, 3)) / (255 if images.dtype == torch.uint8 else 1)
            return torch.stack([(0.5 - grey).sign(), (grey - 0.5).sign()], 1).float()

    images = np.concatenate([np.full((3, 3, 4, 4), 10, np.uint8), np.full((5, 3, 4, 4), 240, np.uint8)])
    labels = np.array([0, 0, 1, 1, 1, 1, 0, 1])
    found = Recognised().measure(images, labels, {}, ["dark", "bright"], Judge())
    sure = np.exp(1) / (np.exp(1) + np.exp(-1))
    assert found["metrics"]["recognised/top1"] == 6 / 8
    assert found["metrics"]["recognised/p"] == pytest.approx((6 * sure + 2 * (1 - sure)) / 8)
    assert found["about"] == {"made": 8, "of class": {"dark": pytest.approx(2 / 3), "bright": pytest.approx(4 / 5)}}
