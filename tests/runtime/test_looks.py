"""The stages of DiffAug: the denoiser, and what views and evaluations want made of each image beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthaug
from making import key_of, made_in, stages_of
from shapes import tiny
from synthaug.classify.augment import RandomCrop
from synthaug.classify.recipe import Recipe
from synthaug.classify.views import DiffAugView, FolderView, PlainView
from synthaug.data.dataset import Dataset, subset
from synthaug.data.sample import decode_image
from synthaug.diffusion import unet
from synthaug.diffusion.denoiser import UNetDenoiser
from synthaug.diffusion.one_step import Diffusion
from synthaug.diffusion.pixel_models import PretrainedUNet, TrainedUNet
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import MappedEvaluation, Subject
from synthaug.evaluate.certify import Certified
from synthaug.evaluate.entropy import EntropyOverTime
from synthaug.evaluate.gradients import Gradients
from synthaug.evaluate.ood import OutOfDistribution
from synthaug.evaluate.outliers import Folder, Letters, Noise, Textures
from synthaug.evaluate.predict import Ensemble
from synthaug.evaluate.robustness import Robustness
from synthaug.experiment import Experiment, Sweep, replace
from synthaug.methods.diffuse_denoise import DiffuseDenoise, noise_of
from synthaug.pages.plan import plan
from synthaug.pages.report import recorded_subjects, write_report
from synthaug.runtime.records import names
from synthaug.runtime.store import Store
from synthaug.settings import UserError, seed_of, settings

UNET = TrainedUNet(channels=(8, 16), steps=4, batch_size=4)
DE = Ensemble(times=(0.0, 0.1, 0.3))


def experiment(*views: Any, shots: int | None = 1, size: int | None = None, **fields: Any) -> Experiment:
    recipe = Recipe(steps=4, batch_size=8, views=views, evaluations=1, image_size=size)
    known = {"dataset": Dataset("digits", shots=shots), "recipe": recipe, "denoiser": UNET}
    return Experiment(**known | fields)


def pixels(store: Store, subject: Experiment, split: str = "subset") -> np.ndarray:
    listing = store.open(subject.dataset)
    chosen = subset(listing, subject.dataset, subject.seed) if split == "subset" else listing.splits[split]
    return np.stack([decode_image(listing.read(e.id)).transpose(2, 0, 1) for e in chosen])


def training_data(store: Store, subject: Experiment) -> Any:
    stage = store.line(subject).classifier
    return stage.training_data(store.given(stage))


def result_of(store: Store, subject: Experiment, name: str) -> Any:
    manifest = store.manifest(store.stages(subject)[name])
    assert manifest is not None and manifest.result is not None
    return manifest.result


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("here")


def test_a_denoiser_sees_exactly_the_chosen_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    real = unet.train_unet

    def spied(model: TrainedUNet, images: np.ndarray, **more: Any) -> Any:
        seen.append(images)
        return real(model, images, **more)

    monkeypatch.setattr(unet, "train_unet", spied)
    subject = experiment(DiffAugView(), shots=2, seed=3)
    store, _ = made_in(here, subject, "denoiser")
    assert len(seen) == 1 and np.array_equal(seen[0], pixels(store, subject)) and len(seen[0]) == 20
    made_in(here, subject, "denoiser")
    assert len(seen) == 1, "once"


def test_what_the_seed_does_not_change_is_shared_by_all_seeds() -> None:
    looks = (Accuracy(), Accuracy(predictor=DE))
    for shots, shared in ((None, True), (5, False)):
        one, other = (
            stages_of(experiment(DiffAugView(cached=3), shots=shots, evaluations=looks, seed=s)) for s in (0, 1)
        )
        assert {"denoiser", "views", "views.2", "train", "evaluate", "evaluate.2"} == set(one)
        assert (one["denoiser"].key == other["denoiser"].key) is shared
        assert (one["views"].key == other["views"].key) is shared, "the training images depend on the shots"
        assert one["train"].key != other["train"].key
    pretrained = experiment(DiffAugView(), evaluations=looks, denoiser=str(folder_of_a_unet()))
    keys = [key_of(replace(pretrained, {"seed": s}), "views") for s in (0, 1)]
    assert keys[0] == keys[1], "a test image does not depend on the shots, nor does this denoiser"


_FOLDER: list[Path] = []


def folder_of_a_unet() -> Path:
    """A diffusers folder with a tiny pixel model."""
    import tempfile

    if not _FOLDER:
        place = Path(tempfile.mkdtemp())
        for name, data in unet.unet_files(unet.new_unet(UNET, 32)).items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(data)
        _FOLDER.append(place)
    return _FOLDER[0]


def test_keys_hold_what_matters() -> None:
    base = experiment(DiffAugView(cached=3), shots=None)
    nodes = stages_of(base)

    def changed(**fields: Any) -> set[str]:
        other = stages_of(replace(base, {name.replace("__", "."): value for name, value in fields.items()}))
        return {name for name in nodes if other[name].key != nodes[name].key}

    assert changed(denoiser__steps=5) == {"denoiser", "views", "train", "evaluate"}
    assert changed(recipe__views__0__cached=4) == {"train", "evaluate"}, "more variants add shards, no key"
    assert changed(recipe__views__0__how__high=0.5) == {"views", "train", "evaluate"}
    assert changed(recipe__views__0__weight=0.5) == {"train", "evaluate"}
    assert changed(recipe__steps=5) == {"train", "evaluate"}
    assert changed(recipe__image_size=16) == {"denoiser", "views", "train", "evaluate"}
    online = stages_of(experiment(DiffAugView(), shots=None))
    assert "views" not in online and online["denoiser"].key == nodes["denoiser"].key
    assert online["denoiser"].key in online["train"].keys_of_inputs and online["train"].key != nodes["train"].key
    unused = stages_of(experiment(PlainView(), shots=None))
    assert "denoiser" not in unused, "nobody asks for it, so nobody trains it"


def test_cached_variants_are_those_of_the_formula(here: Path) -> None:
    subject = experiment(DiffAugView(cached=3))
    store, _ = made_in(here, subject, "views")
    made = training_data(store, subject).variants[0]
    assert made.shape == (10, 3, 3, 32, 32)
    model, folder = store.load(store.line(subject).denoiser)
    denoiser = model.load(folder)
    sources = store.load(store.stages(subject)["views"]).sources
    for number, entry in enumerate(sources[:3]):
        x = torch.from_numpy(pixels(store, subject)[number : number + 1]).float() / 255
        for variant in (1, 2, 3):
            time = (seed_of("diffuse", entry.id) / 2**63 + (0, 0.5, 0.25)[variant - 1]) % 1
            noise = noise_of([seed_of("diffuse", entry.id, variant)], x)
            with torch.no_grad():
                slow = Diffusion()(x, torch.tensor([time]), denoiser, noise)[0] * 255
            assert np.abs(made[number, variant - 1] - slow.numpy()).max() <= 0.51 + 1e-3


def test_times_are_spread_evenly_however_many() -> None:
    maker = DiffuseDenoise(how=Diffusion(low=0.2, high=0.6))
    from synthaug.data.sample import Sample
    from synthaug.methods.base import Context

    for id in ("a", "b", "c"):
        sample = Sample(id, b"", ((0, 1.0),), id, 0)
        times = [maker.plan(sample, v, Context(0, (), ("",), "")).strength for v in range(1, 14)]
        assert times == [maker.plan(sample, v, Context(9, (), ("",), "")).strength for v in range(1, 14)]
        for count in (2, 4, 8):
            strata = np.floor((np.array(times[:count]) - 0.2) / 0.4 * count).astype(int)
            assert sorted(strata) == list(range(count)), "one in each equal part of the interval"
        for count in (5, 9, 13):
            found = np.sort(times[:count])
            gaps = np.diff([*found, found[0] + 0.4]) / 0.4
            assert gaps.max() <= 2 / count and gaps.min() > 0.4 / count, "no stretch of time is left out"
    starts = [maker.plan(Sample(str(i), b"", (), str(i), 0), 1, Context(0, (), ("",), "")).strength for i in range(400)]
    assert 0.38 < np.mean(starts) < 0.42 and min(starts) < 0.21 and max(starts) > 0.59


def test_what_stops_asking_gives_the_same_with_copies_and_without(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it asks the denoiser where it is unsure; beside DE, whose copies are there, it asks no more."""
    monkeypatch.setattr("synthaug.evaluate.predict.CHUNK", 300)
    adaptive = Accuracy(predictor=replace(DE, {"margin": 0.01}))
    alone, beside = (
        experiment(evaluations=asked, size=16) for asked in ((adaptive,), (Accuracy(predictor=DE), adaptive))
    )
    store, _ = made_in(here, alone, "denoiser", "train")
    asked = []
    real = UNetDenoiser.__call__
    monkeypatch.setattr(UNetDenoiser, "__call__", lambda self, x, *more: asked.append(len(x)) or real(self, x, *more))
    assert "views" not in store.stages(alone)
    assert key_of(alone, "evaluate") == key_of(beside, "evaluate.2"), "who makes the copies decides nothing"
    made_in(store, alone, "evaluate")
    found = result_of(store, alone, "evaluate")["metrics"]
    assert sum(asked) == round(797 * found["test/adaptive DE/calls"]) and 0 < sum(asked) < 2 * 797
    made_in(store, beside, "views")
    asked.clear()
    assert store.remove(*names([store.stages(alone)["evaluate"]]), "no run refers to it")
    made_in(store, beside)
    again = result_of(store, beside, "evaluate.2")["metrics"]
    assert asked == [] and again == pytest.approx(found, abs=2e-3)


def test_the_whole_line_and_again(tmp_path: Path) -> None:
    looks = (Accuracy(), Accuracy(predictor=DE))
    subject = experiment(DiffAugView(p=0.5), PlainView(), evaluations=looks)
    before = plan(subject, tmp_path)
    assert before["stages"]["views"]["images"] == before["stages"]["views"]["calls"] == 2 * 797
    assert before["missing"]["images"] == 2 * 797 and before["missing"]["calls"] == 2 * 797 + 4 * 8 // 2, (
        "and half of each batch in the loop"
    )
    answer = synthaug.run(subject, home=tmp_path)
    assert list(answer["stages"]) == ["denoiser", "train", "evaluate", "views", "evaluate.2"]
    metrics = answer["metrics"]
    assert metrics["test/DE/calls"] == 2 and metrics["cost/denoiser_s"] > 0 and metrics["cost/views_s"] > 0
    assert metrics["cost/denoiser_calls"] > 2 * 797, "those in the loop count as well"
    again = synthaug.run(subject, home=tmp_path)
    assert all(stage["cached"] for stage in again["stages"].values()) and again["metrics"] == metrics | {
        "gen/cached": again["metrics"]["gen/cached"]
    }
    assert plan(subject, tmp_path)["missing"]["images"] == 0


def test_a_plan_counts_what_arms_share_once(tmp_path: Path) -> None:
    """Copies of test images are `views` of one arm and `views.2` of the other, whose twins come first."""
    base = experiment(shots=None, evaluations=(Accuracy(predictor=DE),), denoiser="nano:ddpm")
    arms: dict[str, Any] = {"plain": {}, "three": twins(3), "five": twins(5), "four": twins(4)}
    found = plan(Sweep(base=base, arms=arms, seeds=(0, 1)), tmp_path)
    copies = [stage for name, stage in found["stages"].items() if name.startswith("views")]
    assert sorted(stage["images"] for stage in copies) == [2 * 797, 5 * 700]
    assert found["missing"]["images"] == 2 * 797 + 5 * 700, "the largest number of twins holds the smaller ones"


def twins(count: int) -> dict[str, Any]:
    return {"recipe.views": (DiffAugView(cached=count),)}


def test_test_images_reach_the_ensemble_in_their_order(here: Path) -> None:
    subject = experiment(PlainView(), evaluations=(Accuracy(predictor=DE),))
    store, _ = made_in(here, subject, "views")
    images = store.load(store.stages(subject)["views"])
    made = images.stacked(32, range(250, 270))
    assert made.shape == (20, 2, 3, 32, 32)
    near = np.abs(made[:, 0].astype(float) - pixels(store, subject, "test")[250:270]).mean((1, 2, 3))
    other = np.abs(made[:, 0].astype(float) - pixels(store, subject, "test")[251:271]).mean((1, 2, 3))
    assert (near < other).mean() > 0.5
    whole = images.stacked(32)
    assert np.array_equal(whole[250:270], made) and len(whole) == 797
    assert images.sources == store.open(subject.dataset).splits["test"]


def test_twins_come_from_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in "ab":
            for number in range(6):
                for root, shade in (("data", 0), ("twins", 100)):
                    file = tmp_path / root / split / label / f"{number}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(rng.integers(0, 50, (16, 16, 3), dtype=np.uint8) + shade).save(file)
    view = FolderView(path=str(tmp_path / "twins"))
    recipe = Recipe(steps=2, batch_size=4, views=(view,), transforms=(RandomCrop(1),), evaluations=1)
    subject = Experiment(dataset=Dataset("folder", path=str(tmp_path / "data")), recipe=recipe)
    store = Store(tmp_path / "home").prepare()
    data = training_data(store, subject)
    assert data.variants[0].shape == (data.n_real, 1, 3, 16, 16) and data.variants[0].min() >= 100
    assert data.images.max() < 50
    key = key_of(subject, "train")
    assert synthaug.run(subject, home=tmp_path / "home")["metrics"]["test/top1"] >= 0
    (tmp_path / "twins" / "train" / "a" / "0.png").write_bytes(
        (tmp_path / "twins" / "train" / "b" / "0.png").read_bytes()
    )
    assert key_of(subject, "train") != key, "what the folder holds is part of the key"
    for file in (tmp_path / "twins" / "train" / "a").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="have no twin, the first is"):
        training_data(Store(tmp_path / "home"), subject)


def test_what_needs_a_denoiser_says_so_at_once() -> None:
    for views, looks in (((DiffAugView(),), (Accuracy(),)), ((), (Accuracy(predictor=DE),))):
        with pytest.raises(UserError, match="needs a denoiser; --set denoiser=TrainedUNet"):
            experiment(*views, evaluations=looks, denoiser=None)
    noise = Diffusion(denoise=False)
    for view in (DiffAugView(how=noise), DiffAugView(how=noise, cached=2)):
        assert "denoiser" not in stages_of(experiment(view, denoiser=None))
    noisy = experiment(DiffAugView(how=noise, cached=2))
    assert "denoiser" not in stages_of(noisy), "nor is one trained that is named but not used"
    with pytest.raises(UserError, match="no embedded model"):
        stages_of(experiment(DiffAugView(), denoiser="nano:nothing"))
    with pytest.raises(UserError, match="is not on this machine; `hf download no/such-model` brings it"):
        stages_of(experiment(DiffAugView(), denoiser="no/such-model"))
    assert isinstance(experiment(denoiser="nano:ddpm").denoiser, PretrainedUNet)
    assert isinstance(experiment(denoiser="TrainedUNet").denoiser, TrainedUNet)
    notes = experiment(DiffAugView(), denoiser=str(folder_of_a_unet()), shots=5).notes()
    assert "has seen more images than the 5 a class" in notes[0]
    assert not experiment(DiffAugView(), denoiser=str(folder_of_a_unet()), shots=None).notes()


@settings
class Brightness(MappedEvaluation):
    """The mean of each image, found shard by shard."""

    def rows(self, subject: Subject, numbers: Any) -> list[dict[str, Any]]:
        images, _ = subject.sets[self.split]
        return [{"mean": float(images[number].mean()), "number": int(number)} for number in numbers]

    def result(self, rows: Any) -> dict[str, Any]:
        assert [row["number"] for row in rows] == list(range(len(rows)))
        return {"metrics": {f"{self.split}/brightness": float(np.mean([row["mean"] for row in rows]))}}


def test_mapped_evaluations_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny(steps=1, evaluations=(Brightness(split="val"),), method=None)
    done: list[int] = []
    real = Brightness.rows

    def dying(self: Any, seen: Subject, numbers: Any) -> Any:
        done.append(numbers[0])
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(self, seen, numbers)

    monkeypatch.setattr(Brightness, "rows", dying)
    with pytest.raises(KeyboardInterrupt):
        synthaug.run(subject, home=tmp_path)
    answer = synthaug.run(subject, home=tmp_path)
    store = Store(tmp_path)
    assert done[2] == done[3] == 32 and len(set(done)) == -(-300 // 16) == len(done) - 1, "two shards were kept"
    assert answer["metrics"]["val/brightness"] == pytest.approx(pixels(store, subject, "val").mean(), rel=1e-6)


def test_everything_that_is_measured_is_logged(tmp_path: Path) -> None:
    looks = (
        OutOfDistribution(near=(Letters(count=20),), far=(Noise(count=20),), val=(Textures(count=20),)),
        EntropyOverTime(times=(0.0, 0.5)),
        Gradients(images=3),
        Certified(sigma=(0.25,), n0=5, n=12, every=300, alpha=0.01),
        Robustness(corruptions=("fog",), severities=(2,)),
    )
    answer = synthaug.run(experiment(evaluations=looks, size=16), home=tmp_path)
    wanted = {
        "test/ood/SCALE/near/auroc", "test/entropy/0.5", "test/gradient/asymmetry", "test/certified/0.25",
        "test-c/weather/top1",
    }  # fmt: skip
    assert wanted <= set(answer["metrics"])
    logged = {path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()}
    assert {"entropy.svg", "certified.svg", "gradients.png"} <= logged
    page = write_report(Store(tmp_path), recorded_subjects(Store(tmp_path))).read_text()
    for wanted_ in ("test-c/weather/top1", "test/ood/SCALE/near/auroc", "test/certified/0.25", "alt='gradients'"):
        assert wanted_ in page
    assert page.count("<svg") >= 3, "training, entropy, certificates"


def test_noise_beyond_the_schedule_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sigma=100.0 is beyond the denoiser's schedule, which ends at 78"):
        synthaug.run(experiment(evaluations=(Certified(sigma=(100.0,)),)), home=tmp_path)
    assert not list((tmp_path / "store").glob("denoiser/*"))


def test_outliers_in_a_folder_count_by_content(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "deep/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    subject = experiment(evaluations=(OutOfDistribution(far=(Folder(path=str(tmp_path)),)),))
    store = Store(tmp_path / "home").prepare()
    key = key_of(subject, "evaluate", store.identify)
    assert key == key_of(subject, "evaluate") == key_of(subject, "evaluate", Store(tmp_path / "home").identify)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "deep" / "b.png")
    assert key_of(subject, "evaluate", Store(tmp_path / "home").identify) != key


def test_a_loaded_denoiser_counts_its_rows() -> None:
    denoiser = PretrainedUNet(str(folder_of_a_unet())).load(None)
    assert isinstance(denoiser, UNetDenoiser) and denoiser.rows == 0
    denoiser(torch.zeros(3, 3, 32, 32), 1.0)
    assert denoiser.rows == 3 and not any(p.requires_grad for p in denoiser.net.parameters())
