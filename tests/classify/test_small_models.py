"""Nets for images of 32 and 64 px: sizes as published, what they take; and timm's, without timm."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from synthaug.classify.models import Classifier, build, check_size, head
from synthaug.classify.recipe import Recipe
from synthaug.classify.small_models import SMALL
from synthaug.settings import UserError

torch.set_num_threads(1)

# parameters with 10 classes: of the first three as kuangliu's pytorch-cifar counts them, of ViT-S DeiT-S's without the
# patches and positions of 224 px, of the last two torchvision's with the same taken away and added
PARAMETERS = {
    "cifar_resnet18": 11_173_962,
    "cifar_vgg19": 20_040_522,
    "cifar_densenet121": 6_956_298,
    "cifar_vit_s": 21_669_514 - (16**2 - 4**2) * 3 * 384 - (14**2 - 8**2) * 384,
    "tiny_vit_s": 21_669_514 - (16**2 - 8**2) * 3 * 384 - (14**2 - 8**2) * 384,
    "cifar_convnext_t": 28_589_128 - 990 * 769 - (4**2 - 1) * 3 * 96,
    # a table of relative positions for each head of each layer
    "cifar_swin_t": 28_288_354
    - 990 * 769
    - (4**2 - 2**2) * 3 * 96
    - (13**2 - 7**2) * (2 * 3 + 2 * 6 + 6 * 12 + 2 * 24),
}
SIZES = {"cifar_vit_s": (32,), "tiny_vit_s": (64,)}  # all others take both
WIDTH = {"cifar_densenet121": 1024, "cifar_vit_s": 384, "tiny_vit_s": 384, "cifar_convnext_t": 768, "cifar_swin_t": 768}


def on_meta(name: str, classes: int = 10) -> Classifier:
    with torch.device("meta"):
        return build(name, classes).eval()


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_as_many_as_published(name: str) -> None:
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert head(model)[1].weight.shape == (10, WIDTH.get(name, 512))


@pytest.mark.parametrize(
    "name, last, places",  # the layer whose output is pooled, and how wide that is at 32 and 64 px
    [
        ("cifar_resnet18", "layer4", {32: 4, 64: 8}),
        ("cifar_vgg19", "features", {32: 1, 64: 2}),
        ("cifar_densenet121", "features", {32: 4, 64: 8}),
        ("cifar_convnext_t", "features", {32: 4, 64: 8}),
        ("cifar_swin_t", "permute", {32: 2, 64: 4}),
    ],
)
def test_small_images_keep_their_resolution(name: str, last: str, places: dict[int, int]) -> None:
    model = on_meta(name)
    seen = []
    model.net.get_submodule(last).register_forward_hook(lambda _, inputs, out: seen.append(out.shape[2:]))
    for size in places:
        assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)
    assert seen == [(place, place) for place in places.values()]


@pytest.mark.parametrize("name, size", [("cifar_vit_s", 32), ("tiny_vit_s", 64)])
def test_vit_has_8_by_8_patches_of_one_size_of_image(name: str, size: int) -> None:
    model = on_meta(name)
    assert model.net.seq_length == 65 and model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)
    check_size(model.net, Recipe(model=name, steps=1), size)
    with pytest.raises(UserError, match=f"{name} takes {size} px images, not 48; set recipe.image_size={size}"):
        check_size(model.net, Recipe(model=name, steps=1), 48)


def ends_as_it_should(name: str, size: int) -> None:
    """For real: every weight is drawn from the seed, and has a gradient."""
    model, again = build(name, 3, seed=1), build(name, 3, seed=1).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    logits = model(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 3) and logits.isfinite().all()
    logits[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name, size", [("cifar_resnet18", 32), ("cifar_vit_s", 32)])
def test_a_batch_goes_there_and_back(name: str, size: int) -> None:
    ends_as_it_should(name, size)


@pytest.mark.nightly
@pytest.mark.parametrize("name, size", [(n, s) for n in SMALL for s in SIZES.get(n, (32, 64))])
def test_a_batch_goes_there_and_back_through_all(name: str, size: int) -> None:
    ends_as_it_should(name, size)


def test_a_wrong_name_is_told_the_new_ones() -> None:
    for wrong, meant in (("cifar_resnet19", "cifar_resnet18"), ("cifar_vit", "cifar_vit_s"), ("timm", "timm:NAME")):
        with pytest.raises(UserError, match=f"did you mean {meant}"):
            build(wrong, 2)
    with pytest.raises(UserError, match="choices: small, cifar_resnet18, .*timm:NAME"):
        build("qqq", 2)


def test_without_timm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # it is not found then, whether or not it is installed here
    with pytest.raises(UserError, match="timm:resnet18 needs timm, which is not installed here; pip install timm"):
        build("timm:resnet18", 2)


class Fake(nn.Sequential):
    """A net of timm's for 24 px images alone, of no more than is asked of it here."""

    pretrained_cfg = {
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 24, 24), "fixed_input_size": True
    }  # fmt: skip


def create(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    assert not pretrained
    if name.endswith(".nonsense"):
        raise RuntimeError("Invalid pretrained tag (nonsense) for tiny_fake_24.")
    return Fake(nn.Conv2d(3, num_classes, 1)) if "conv" in name else Fake(nn.Flatten(), nn.Linear(1728, num_classes))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What we call of timm, as its 1.0.31 answers."""
    names = ["tiny_fake_24", "tiny_conv_24"]
    module = ModuleType("timm")
    vars(module).update(
        __spec__=SimpleNamespace(), create_model=create, list_models=lambda: names,
        is_model=lambda name: name.partition(".")[0] in names,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "timm", module)


def test_timm_tells_the_normalisation_and_the_size(timm: None) -> None:
    model = build("timm:tiny_fake_24", 5)
    assert torch.allclose(model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(model.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    assert model(torch.rand(2, 3, 24, 24)).shape == (2, 5) and head(model)[1].out_features == 5
    with pytest.raises(UserError, match="timm:tiny_fake_24 takes 24 px images, not 32; set recipe.image_size=24"):
        check_size(model.net, Recipe(model="timm:tiny_fake_24", steps=1), 32)


@pytest.mark.parametrize(
    "name, said",
    [
        ("tiny_fake_42", "timm has no model 'tiny_fake_42'; did you mean tiny_fake_24?"),
        ("qqq", r"timm has no model 'qqq'; timm.list_models\(\) names them all"),
        ("tiny_fake_24.nonsense", r"timm cannot make 'tiny_fake_24.nonsense': Invalid pretrained tag \(nonsense\)"),
    ],
)
def test_what_timm_does_not_know_is_refused(timm: None, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(f"timm:{name}", 2)


def test_a_net_that_ends_in_a_convolution_has_no_features(timm: None) -> None:
    with pytest.raises(UserError, match="the model has no linear layer, and this needs its last one"):
        head(build("timm:tiny_conv_24", 2))
