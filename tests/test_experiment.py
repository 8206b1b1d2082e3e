from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from making import key_of, stages_of
from shapes import NANO, Noise, OtherNoise, class_folders, tiny
from synthaug.classify.augment import HorizontalFlip, Transform
from synthaug.classify.mixing import Concat, GlobalRandomReplace, LocalRandomReplace, Replace, Utilize
from synthaug.classify.optim import SGD, Optimizer
from synthaug.classify.subset import Early, Slow
from synthaug.classify.views import View
from synthaug.data.dataset import Dataset
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Finetune, LoRA, TextualInversion
from synthaug.diffusion.pixel_models import DenoiserModel
from synthaug.diffusion.score_models import OnClean, ScoreAug, TrainedEDM
from synthaug.diffusion.transforms import Augmentation, OneOrNone, PixelTransform
from synthaug.evaluate.accuracy import Accuracy
from synthaug.evaluate.base import ImageEvaluation, Measurement
from synthaug.evaluate.denoising import DenoisingLoss
from synthaug.evaluate.fidelity import Fidelity
from synthaug.evaluate.filter import BaseProb, ClipMulti, Filter
from synthaug.evaluate.memorised import Memorised
from synthaug.evaluate.ood import Detector, OutOfDistribution
from synthaug.evaluate.outliers import Outliers
from synthaug.evaluate.predict import Ensemble, Predictor
from synthaug.experiment import Experiment, Recipe, Sweep, load, replace
from synthaug.methods.base import Method
from synthaug.methods.da_fusion import DAFusion
from synthaug.methods.diff_aug import DiffAug
from synthaug.methods.diff_ii import DiffII
from synthaug.methods.diff_mix import DiffMix
from synthaug.methods.from_noise import FromNoise
from synthaug.methods.prompts import Prompts, SuffixDream
from synthaug.methods.real_guidance import RealGuidance
from synthaug.search.searchers import Grid, Optuna, RandomSearch, Searcher
from synthaug.search.space import Choice, Domain, LogUniform, Uniform
from synthaug.settings import UserError, subclasses, to_json


def sent(subject: Experiment | Sweep) -> Experiment | Sweep:
    return load(json.dumps(to_json(subject)))


def identify(thing: object) -> str:
    return "content"


def keys_of(experiment: Experiment) -> dict[str, str]:
    return {name: stage.key for name, stage in stages_of(experiment, identify).items()}


def one_of_every_class() -> list[Experiment]:
    method = [{"method": kind(), "backbone": NANO} for kind in subclasses(Method)]
    use = [{"method": Noise(), "utilize": kind()} for kind in subclasses(Utilize)]
    evaluation = [{"evaluations": (kind(),)} for kind in subclasses(Measurement)]
    evaluation += [{"evaluations": (kind(),), "method": Noise()} for kind in subclasses(ImageEvaluation)]
    optimizer = [{"recipe": Recipe(steps=3, optimizer=kind())} for kind in subclasses(Optimizer)]
    transform = [{"recipe": Recipe(epochs=3, transforms=(kind(),))} for kind in subclasses(Transform)]
    finetune = [{"method": RealGuidance(), "backbone": NANO, "finetune": kind()} for kind in subclasses(Finetune)]
    chosen = [{"method": Noise(), "filter": kind()} for kind in subclasses(Filter)]
    prompts = [{"method": RealGuidance(prompts=kind()), "backbone": NANO} for kind in subclasses(Prompts)]
    views = [{"recipe": Recipe(steps=3, views=(with_a_file(kind),))} for kind in subclasses(View)]
    denoisers = [
        {"denoiser": with_a_file(kind), "evaluations": (DenoisingLoss(),)} for kind in subclasses(DenoiserModel)
    ]
    trained = [TrainedEDM(clean=OnClean(kind())) for kind in subclasses(Augmentation)]
    trained += [TrainedEDM(scoreaug=ScoreAug(OneOrNone((kind(),)))) for kind in subclasses(PixelTransform)]
    denoisers += [{"denoiser": model, "method": FromNoise(), "recipe": None, "evaluations": (Memorised(),)}
                  for model in trained]  # fmt: skip
    asked = [{"evaluations": (Accuracy(predictor=kind()),)} for kind in subclasses(Predictor)]
    far = [{"evaluations": (OutOfDistribution(far=(with_a_file(kind),)),)} for kind in subclasses(Outliers)]
    found = [{"evaluations": (OutOfDistribution(detectors=(kind(),)),)} for kind in subclasses(Detector)]
    rest = [*finetune, *chosen, *prompts, *views, *denoisers, *asked, *far, *found]
    every = [*method, *use, *evaluation, *optimizer, *transform, *rest]
    return [tiny(**{"denoiser": "nano:ddpm"} | fields) for fields in every]


def with_a_file(kind: type) -> object:
    """A value of a class that may have to name a file, a folder or a model."""
    for name in ("path", "checkpoint", "model"):
        if name in {field.name for field in dataclasses.fields(kind)}:
            return kind(**{name: str(Path(__file__).parent)})
    return kind()


def test_every_class_survives_json_with_type_value_and_key() -> None:
    experiments = one_of_every_class()
    assert any(isinstance(e.method, Noise) for e in experiments), "the class of a test module is among them"
    for experiment in experiments:
        again = sent(experiment)
        assert isinstance(again, Experiment) and again == experiment
        assert type(again.method) is type(experiment.method) and type(again.utilize) is type(experiment.utilize)
        assert keys_of(again) == keys_of(experiment)


def test_sweeps_survive_json() -> None:
    arms = {"a": {}, "b": {"method": Noise(), "recipe.optimizer": SGD(lr=0.3), "utilize": "Replace"}}
    sweep = Sweep(base=tiny(), arms=arms, baseline="a", seeds=2)
    again = sent(sweep)
    assert isinstance(again, Sweep) and again == sweep
    assert [t.experiment for t in again.trials()] == [t.experiment for t in sweep.trials()]
    space = {"method.amount": Uniform(low=10, high=30, step=10), "k": [1, 2]}
    searched = Sweep(base=tiny(method=Noise()), space=space, searcher=RandomSearch(samples=4), seeds=(3,))
    assert sent(searched) == searched
    assert {type(d) for d in sent(searched).space.values()} == {Uniform, Choice}
    assert set(subclasses(Domain)) == {Choice, Uniform, LogUniform}
    assert set(subclasses(Searcher)) == {Grid, RandomSearch, Optuna}


def test_keys_are_golden() -> None:
    """Whoever changes the output of a stage raises its version; whoever changes a key by accident sees it here."""
    assert keys_of(tiny(method=Noise(), k=2)) == {
        "generate": "a48d069b0bad2beddfae71a8b08ac0e4",
        "train": "1867170f80f7cad1f0df857e123c1cb6",
        "evaluate": "ccd5744eaa9a40ae52f1b55035938734",
    }


def test_a_key_follows_what_matters_and_nothing_else(tmp_path: Path) -> None:
    def key(stage: str = "generate", **fields: object) -> str:
        return key_of(tiny(**({"method": Noise(), "backbone": NANO} | fields)), stage, identify)

    base = key()
    assert key(k=3) == base and key("train", k=3) != key("train")
    assert key(utilize=Replace()) == base and key("train", utilize=Replace()) != key("train")
    assert key(recipe=Recipe(steps=9)) == base
    assert key(seed=1) != base and key(shots=3) != base
    assert key(method=Noise(amount=21)) != base
    assert key(method=OtherNoise()) != base, "equal fields, another class"
    assert key(backbone=Backbone(model="nano:sd", precision="bf16")) != base
    assert key(backbone=Backbone(model="elsewhere")) == base, "where a model lies does not matter, what it is does"
    assert keys_of(tiny()) == keys_of(tiny(k=3, utilize=Replace())), "no images, no use"
    assert keys_of(tiny(method=Noise(), utilize=Concat())) == keys_of(tiny(method=Noise()))


def test_methods_with_equal_fine_tuning_share_it() -> None:
    def keys(**fields: object) -> dict[str, str]:
        return keys_of(tiny(**({"backbone": NANO} | fields)))

    aug, mix, two, fusion = (keys(method=m) for m in (DiffAug(), DiffMix(), DiffII(), DAFusion()))
    tuned = ("finetune", "finetune.2")
    assert list(aug) == [*tuned, "generate", "train", "evaluate"] and "prepare" in two
    assert all(aug[s] == mix[s] == two[s] for s in tuned) and fusion["finetune"] == aug["finetune"]
    assert "finetune.2" not in fusion and aug["generate"] != mix["generate"]
    sampled = Backbone(model="nano:sd", scheduler="LCMScheduler", lora="nano:lcm", precision="bf16", micro_batch=8)
    other = keys(method=DiffAug(), backbone=sampled)
    assert all(other[s] == aug[s] for s in tuned) and other["generate"] != aug["generate"], "sampling is not tuning"
    assert all(keys(method=DiffAug(), seed=1)[s] != aug[s] for s in tuned)
    assert all(keys(method=DiffAug(), shots=3)[s] != aug[s] for s in tuned)
    words = TextualInversion(steps=5)
    changed = keys(method=DiffAug(), finetune=(words, LoRA()))
    assert all(changed[s] != aug[s] for s in (*tuned, "generate")), "what comes after depends on it"
    bare = keys(method=DiffAug(), finetune=())
    assert list(bare) == ["generate", "train", "evaluate"] and bare["generate"] != aug["generate"]
    assert keys(method=RealGuidance(), finetune=words)["finetune"] == changed["finetune"], "one value is a tuple of one"


def test_a_filter_and_what_it_asks_are_stages() -> None:
    def keys(**fields: object) -> dict[str, str]:
        return keys_of(tiny(**({"method": Noise(), "k": 2} | fields)))

    plain, clip, base = keys(), keys(filter=ClipMulti()), keys(filter=BaseProb())
    assert list(clip) == ["generate", "scores", "filter", "train", "evaluate"]
    assert list(base) == ["generate", "judge", "scores", "filter", "train", "evaluate"]
    assert clip["generate"] == plain["generate"] and clip["train"] != plain["train"]
    more = keys(filter=ClipMulti(), k=3)
    assert more["scores"] == clip["scores"] and more["filter"] != clip["filter"]
    assert base["judge"] == keys_of(tiny())["train"], "the classifier of the real images alone, as any other arm"
    asked = stages_of(tiny(method=Noise(), k=2, filter=BaseProb()), identify)
    assert all(base["judge"] in asked[name].keys_of_inputs for name in ("scores", "filter"))


def test_images_are_measured_without_a_classifier() -> None:
    def keys(**fields: object) -> dict[str, str]:
        return keys_of(tiny(**({"evaluations": (Accuracy(), Fidelity())} | fields)))

    made = keys(method=Noise())
    longer = keys(method=Noise(), recipe=Recipe(steps=9))
    assert made["evaluate.2"] == longer["evaluate.2"] and made["evaluate"] != longer["evaluate"]
    assert keys(method=Noise(), k=3)["evaluate.2"] != made["evaluate.2"]
    assert list(keys()) == ["train", "evaluate"], "nothing to measure without generated images"


def test_files_and_models_inside_a_method_count_by_content(tmp_path: Path) -> None:
    def key(table: Path) -> str:
        method = RealGuidance(prompts=SuffixDream(table=str(table)))
        return key_of(tiny(method=method, backbone=NANO), "generate")

    one, same, other = (tmp_path / name for name in ("one.json", "same.json", "other.json"))
    for path, text in ((one, "{}"), (same, "{}"), (other, '{"classes": {}}')):
        path.write_text(text)
    assert key(one) == key(same) != key(other)
    with pytest.raises(UserError, match="prompts.table: there is no file '.*nowhere.json'"):
        key(tmp_path / "nowhere.json")


def test_content_decides_not_place(tmp_path: Path) -> None:
    one = class_folders(tmp_path / "one", ["a", "b"], 5)
    same = shutil.copytree(one, tmp_path / "same")
    other = class_folders(tmp_path / "other", ["a", "b"], 5, first=50)

    def key(folder: Path) -> str:
        experiment = Experiment(dataset=Dataset("folder", path=str(folder)), recipe=Recipe(steps=1))
        return key_of(experiment, "train")

    assert key(one) == key(same) != key(other)


def test_another_model_behind_the_same_path_is_another_key(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (model / part).mkdir(parents=True)
        (model / part / "config.json").write_text("{}")
    (model / "model_index.json").write_text("{}")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"one")
    experiment = tiny(method=RealGuidance(), backbone=Backbone(model=str(model)))
    first = key_of(experiment, "generate")
    weights.write_bytes(b"two")
    second = key_of(experiment, "generate")
    moved = tiny(method=RealGuidance(), backbone=Backbone(model=str(shutil.move(model, tmp_path / "moved"))))
    assert first != second == key_of(moved, "generate")


def test_replace_sets_anything_and_says_what_is_wrong() -> None:
    experiment = tiny(method=RealGuidance())
    assert replace(experiment, {"method.strength": 0.5}).method == RealGuidance(strength=0.5)
    assert replace(experiment, {"utilize": "LocalRandomReplace"}).utilize == LocalRandomReplace()
    given = {"kind": "GlobalRandomReplace", "p": 0.3}
    assert replace(experiment, {"utilize": given}).utilize == GlobalRandomReplace(p=0.3)
    assert replace(experiment, {"backbone": "nano:sd"}).backbone == NANO
    assert replace(experiment, {"method": None}).method is None
    for fields, said in {
        "method.strenght=1": "method.strenght: no such setting of RealGuidance; did you mean strength?",
        "method.strength=2": "method.strength: Input should be less than or equal to 1, got 2",
        "backbone.precision=1": "backbone.precision: Input should be 'fp32', 'bf16' or 'fp16', got 1",
        "utilize=Replac": "utilize: no Utilize is called 'Replac'; did you mean Replace?",
        "recipe.epochs=3": "recipe: give exactly one of epochs and steps, got both; the other is null",
        "datset.shots=3": "datset: no such setting; did you mean dataset?",
        "seed=-1": "seed: Input should be greater than or equal to 0, got -1",
    }.items():
        path, _, value = fields.partition("=")
        with pytest.raises(UserError) as error:
            replace(experiment, {path: json.loads(value) if value[0] in "-0123456789" else value})
        assert str(error.value) == said


def test_a_sweep_pairs_every_arm_by_seed_and_refuses_nonsense() -> None:
    sweep = Sweep(base=tiny(), arms={"a": {}, "b": {"method": Noise()}}, baseline="a", seeds=3)
    assert [(t.arm, t.seed) for t in sweep.trials()] == [(arm, seed) for arm in "ab" for seed in range(3)]
    assert all(t.experiment.seed == t.seed for t in sweep.trials())
    with pytest.raises(ValueError, match="no arm is called 'c'"):
        Sweep(base=tiny(), arms={"a": {}}, baseline="c")
    with pytest.raises(ValueError, match="did you mean amount"):
        Sweep(base=tiny(), arms={"a": {"method": {"kind": "Noise", "amonut": 3}}})
    with pytest.raises(ValueError, match="a grid needs a list of values for 'method.amount'"):
        Sweep(base=tiny(method=Noise()), space={"method.amount": Uniform(low=1, high=3)})


def test_spaces_are_gridded_or_drawn_and_quantised() -> None:
    base = tiny(method=RealGuidance())
    grid = Sweep(base=base, space={"method.strength": [0.3, 0.9], "k": [1, 2, 3]}, seeds=1)
    assert len({(t.fields["method.strength"], t.fields["k"]) for t in grid.trials()}) == 6
    space = {"method.strength": Uniform(low=0.1, high=0.9)}
    drawn = Sweep(base=base, space=space, searcher=RandomSearch(samples=40), seeds=1).trials()
    values = [t.fields["method.strength"] for t in drawn]
    assert all(abs(value / 0.05 - round(value / 0.05)) < 1e-9 and 0.1 <= value <= 0.9 for value in values)
    assert len(set(values)) > 8
    again = Sweep(base=base, space=space, searcher=RandomSearch(samples=40), seeds=1).trials()
    assert values == [t.fields["method.strength"] for t in again]


def test_numbers_of_two_evaluations_have_names_of_their_own() -> None:
    asked = (
        Accuracy(),
        Accuracy(split="val"),
        Accuracy(predictor=Ensemble()),
        Accuracy(predictor=Ensemble(margin=0.5)),
    )
    assert len(tiny(evaluations=asked, denoiser="nano:ddpm").evaluations) == 4
    for twice, name in (
        (Accuracy(), "Accuracy of test"),
        (Accuracy(predictor=Ensemble(margin=0.9)), "test/adaptive DE"),
    ):
        with pytest.raises(UserError, match=rf"two evaluations would have one name \(.*{name}\); ask for one of them"):
            tiny(evaluations=(*asked, twice), denoiser="nano:ddpm")


def test_a_recipe_that_mirrors_what_must_not_be_mirrored_is_told() -> None:
    recipe = Recipe(steps=1, transforms=(HorizontalFlip(),))
    told = [Experiment(dataset=Dataset(name), recipe=recipe).notes() for name in ("digits", "cub")]
    assert "the recipe mirrors images" in told[0][0] and told[1] == []


@pytest.mark.parametrize(("fields", "kept"), [
    # the method's own model stands in for the one that is not named
    ({"backbone.precision": "bf16"}, {"backbone.model": "stable-diffusion-v1-5/stable-diffusion-v1-5"}),
    ({"backbone": "nano:sd", "backbone.precision": "bf16"}, {"backbone.model": "nano:sd"}),
    ({"denoiser": "nano:ddpm", "denoiser.precision": "fp16"}, {"denoiser.model": "nano:ddpm"}),
    ({"denoiser": "TrainedEDM", "denoiser.labels": True}, {"denoiser.steps": 4000}),
    ({"dataset": "fashion"}, {"dataset.name": "fashion"}),
])  # fmt: skip
def test_settings_of_a_model_that_was_named_by_a_bare_word(fields: dict[str, object], kept: dict[str, object]) -> None:
    found = replace(tiny(method=RealGuidance()), fields)
    for path, value in {**{p: v for p, v in fields.items() if "." in p}, **kept}.items():
        part: object = found
        for name in path.split("."):
            part = getattr(part, name)
        assert part == value, path


@pytest.mark.parametrize(("fields", "said"), [
    ({"recipe.transforms.0": "TrivialAugment"}, "there is no '0': 0 of them are there; give recipe.transforms as a whole"),
    ({"recipe.transforms.x": "CutMix"}, "there is no 'x'"),
    ({"recipe.steps.x": 1}, "there is no 'x': 8 has no settings"),
    ({"backbone.precision": "bf16"}, "backbone: is None, so it has no settings"),  # no method, and so no model
    ({"denoiser": "TrainedUnet"}, "no denoiser is called 'TrainedUnet'; did you mean TrainedUNet"),
])  # fmt: skip
def test_paths_that_lead_nowhere_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(tiny(), fields)


@pytest.mark.parametrize(("fields", "said"), [
    ({"arms": [1]}, "needs the fields that each arm replaces"),
    ({"arms": {"a": 1}}, "needs the fields that each arm replaces"),
    ({"arms": {"": {}}}, "an arm has a name"),
    ({"space": [1]}, "needs the values of each field that is varied"),
    ({"space": {"seed": [1, 2]}}, "seeds are those of the sweep"),
    ({"arms": {"a": {"seed": 3}}}, "seeds are those of the sweep"),
    ({"arms": {"a": {}, "b": {"recipe.steps": 3}}, "space": {"recipe.steps": [1, 2]}}, "an arm sets recipe.steps as well"),
    ({"arms": {"a": {}, "b": {}}, "against": {"b": ["b"]}}, "an arm is compared with others, each of them once"),
    ({"arms": {"a": {}, "b": {}}, "baseline": "a", "controls": ["b", "b"]}, "each stands there once"),
    ({"arms": {"a": {}, "b": {}}, "baseline": "a", "controls": ["a"]}, "the baseline is no control of its own"),
])  # fmt: skip
def test_sweeps_that_would_compare_other_things_than_they_say_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(Sweep(base=tiny(), seeds=2), fields)


def test_a_space_may_vary_what_arms_bring() -> None:
    arms = {"a": {"method": RealGuidance()}, "b": {"method": DiffAug()}}
    sweep = Sweep(base=tiny(backbone=NANO), arms=arms, space={"method.strength": [0.3, 0.9]}, seeds=1)
    assert [t.experiment.method.strength for t in sweep.trials()] == [0.3, 0.9, 0.3, 0.9]  # type: ignore[union-attr]


def test_who_knows_only_digits_says_so() -> None:
    ours = tiny(denoiser="nano:ddpm")
    assert not [note for note in ours.notes() if "only digits" in note]
    assert [n for n in replace(ours, {"dataset": "glyphs"}).notes() if "nano:ddpm knows only digits" in n]


def test_a_field_of_one_class_is_replaced_whole_too() -> None:
    """By its value, and deeper down, where JSON says no class."""
    base = Experiment(dataset=Dataset("digits", shots=2), recipe=Recipe(steps=2), subset=Slow())
    assert replace(base, {"recipe": Recipe(steps=7)}).recipe == Recipe(steps=7)
    assert replace(base, {"subset.early.recipe": Recipe(epochs=3)}).subset == Slow(early=Early(recipe=Recipe(epochs=3)))
    sweep = Sweep(base=base, arms={"long": {"recipe": Recipe(steps=7)}}, seeds=(0,))
    assert sweep.trials()[0].experiment.recipe == Recipe(steps=7)


def test_a_point_leaves_the_arms_of_its_sweep_as_they_are() -> None:
    """Or the search would be another one after each point, for its record and its runs."""
    sweep = Sweep(base=tiny(), arms={"noise": {"method": Noise(amount=3)}}, space={"method.amount": (5, 9)}, seeds=1)
    trials = sweep.trials()
    assert [trial.experiment.method for trial in trials] == [Noise(amount=5), Noise(amount=9)]
    assert sweep.arms["noise"]["method"]["amount"] == 3, "not only after it was asked: it asks itself when it is made"
