"""Models: names, initialisation, weights from files, preparation of images."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from synthaug.classify.augment import RandomCrop
from synthaug.classify.models import build, check_size, head, prepared, resized
from synthaug.classify.recipe import Recipe
from synthaug.settings import UserError

torch.set_num_threads(1)


@pytest.mark.parametrize(("name", "size"), [("small", 32), ("small", 8), ("resnet18", 40), ("mobilenet_v3_large", 40)])
def test_images_to_logits(name, size):
    model = build(name, 7, seed=1).eval()
    images = torch.randint(256, (2, 3, size, size), dtype=torch.uint8)
    logits = model(images / 255)
    assert logits.shape == (2, 7) and torch.allclose(model(images), logits)


def test_normalisation_is_that_of_the_net():
    seen = []
    for name in ("small", "resnet18"):
        model = build(name, 2).eval()
        model.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, :, 0, 0]))
        model(torch.full((1, 3, 32, 32), 0.485))
    assert torch.allclose(seen[0], torch.full((3,), -0.03), atol=1e-6)
    assert torch.allclose(seen[1], (0.485 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))


def test_the_seed_makes_the_weights_and_leaves_the_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (build("small", 3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


def test_unknown_names_get_a_suggestion():
    for wrong, meant in (("resnet81", "resnet18"), ("smal", "small")):
        with pytest.raises(UserError, match=f"did you mean {meant}"):
            build(wrong, 2)
    with pytest.raises(UserError, match="no model"):
        build("fasterrcnn_resnet50_fpn", 2)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_from_a_file_and_a_new_head(tmp_path, suffix):
    theirs = build("resnet18", 5, seed=3)
    path = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pt" else save_file)(theirs.net.state_dict(), path)
    same, other = build("resnet18", 5, weights=path, seed=4), build("resnet18", 9, weights=path, seed=4)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(same.eval()(images), theirs.eval()(images))
    assert torch.equal(other.net.conv1.weight, theirs.net.conv1.weight) and other.eval()(images).shape == (2, 9)
    assert torch.equal(other.net.fc.weight, build("resnet18", 9, seed=4).net.fc.weight)


def test_weights_of_our_own_training_fit(tmp_path):
    theirs = build("small", 5, seed=3)
    torch.save(theirs.state_dict(), tmp_path / "own.pt")
    ours = build("small", 5, weights=tmp_path / "own.pt").state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in theirs.state_dict().items())


def test_wrong_weights_are_an_error_of_the_user(tmp_path):
    torch.save(build("small", 5).state_dict(), tmp_path / "small.pt")
    with pytest.raises(UserError, match="does not fit"):
        build("resnet18", 5, weights=tmp_path / "small.pt")
    with pytest.raises(UserError, match="no file"):
        build("small", 5, weights=tmp_path / "none.pt")


def test_head_gives_features_to_logits():
    for name, width in (("small", 256), ("resnet18", 512), ("mobilenet_v3_large", 1280)):
        assert head(build(name, 4))[1].weight.shape == (4, width)


def test_evaluation_squashes_and_cuts_the_centre():
    recipe = Recipe(steps=1, image_size=20, transforms=(RandomCrop(padding=2, size=16),))
    seen = []
    model = build("small", 3)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    prepared(recipe, model)(images)
    assert torch.equal(seen[0], images[:, :, 2:18, 2:18])
    prepared(recipe, model)(torch.randint(256, (2, 3, 30, 24), dtype=torch.uint8))
    assert seen[1].shape == (2, 3, 16, 16)
    flat = resized(torch.full((1, 3, 9, 7), 77, dtype=torch.uint8), 5)
    assert flat.shape == (1, 3, 5, 5) and (flat == 77).all()


def test_a_vision_transformer_says_what_size_it_takes():
    with torch.device("meta"):
        net = build("vit_b_16", 3).net
    with pytest.raises(UserError, match="224 px images, not 32"):
        check_size(net, Recipe(model="vit_b_16", steps=1), 32)
    check_size(net, Recipe(model="vit_b_16", steps=1, image_size=224), 32)
    check_size(net, Recipe(model="vit_b_16", steps=1, image_size=256, transforms=(RandomCrop(size=224),)), 32)


def test_the_small_net_does_not_wait_for_torchvision():
    code = "import sys, synthaug.classify.loop as l; l.build('small', 2); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
