"""Distances, manifolds and extractors of features, against closed forms, loops over pairs and torchmetrics."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from pixels import Pixels, images
from safetensors.torch import save_file
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.models import inception_v3
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from synthaug.evaluate.base import ImageEvaluation, Measurement
from synthaug.evaluate.features import ClipFeatures, InceptionFeatures
from synthaug.evaluate.fidelity import (
    Fidelity,
    density_coverage,
    frechet_distance,
    kernel_distance,
    nearest,
    precision_recall,
)
from synthaug.evaluate.leak import Leak
from synthaug.settings import UserError, from_json, keyed, subclasses, to_json

rng = np.random.default_rng(0)


def gaussian(count: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Points whose sample mean is `mean` and whose sample covariance is root' root, both exactly."""
    x = rng.normal(size=(count, len(mean)))
    q = np.linalg.qr(x - x.mean(0)).Q
    return math.sqrt(count - 1) * q @ root + mean


# --- Frechet distance ---------------------------------------------------------------------------------------------


def test_frechet_of_gaussians_with_one_basis():
    basis = np.linalg.qr(rng.normal(size=(6, 6))).Q
    a, b = rng.uniform(0.1, 3, (2, 6))
    means = rng.normal(size=(2, 6))
    found = frechet_distance(gaussian(40, means[0], np.diag(a) @ basis.T), gaussian(25, means[1], np.diag(b) @ basis.T))
    assert found == pytest.approx(np.square(means[0] - means[1]).sum() + np.square(a - b).sum(), rel=1e-12)


def test_frechet_of_plane_gaussians():
    """The trace of the root of a 2 x 2 matrix M is (tr M + 2 det(M)^(1/2))^(1/2)."""
    a, b = rng.normal(size=(2, 2, 2))
    product = a.T @ a @ b.T @ b
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    expected = 25 + np.square(a).sum() + np.square(b).sum() - 2 * root
    found = frechet_distance(gaussian(30, np.zeros(2), a), gaussian(20, np.array([3.0, 4.0]), b))
    assert found == pytest.approx(expected, rel=1e-12)


def test_frechet_of_two_images_in_many_dimensions():
    """Two points span a line: the root of u u' v v' has the trace |u'v|."""
    u, v, m = rng.normal(size=(3, 2048))
    expected = m @ m + u @ u + v @ v - 2 * abs(u @ v)
    half = math.sqrt(0.5)  # the unbiased covariance of x +- d is 2 d d'
    a, b = np.stack([half * u, -half * u]), np.stack([m + half * v, m - half * v])
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "dimensions"), [(300, 5), (20, 64)])
def test_frechet_of_a_set_and_itself(count, dimensions):
    x = rng.normal(3, 2, (count, dimensions))
    assert 0 <= frechet_distance(x, x) < 1e-10
    assert frechet_distance(x, x + 2) == pytest.approx(4 * dimensions, rel=1e-9)
    assert frechet_distance(x, rng.permutation(x)) == pytest.approx(0, abs=1e-10)


class Given(nn.Module):
    """The "images" are the features."""

    num_features = 16

    def forward(self, features):
        return features


def test_frechet_and_torchmetrics():
    a, b = rng.normal(size=(200, 16)), rng.gamma(2.0, size=(150, 16)) @ rng.normal(size=(16, 16))
    theirs = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    theirs.update(torch.tensor(a), real=True)
    theirs.update(torch.tensor(b), real=False)
    expected = float(theirs.compute())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.tensor(b), torch.tensor(a)) == pytest.approx(expected, rel=1e-9)


# --- kernel distance ----------------------------------------------------------------------------------------------


def test_kernel_distance_and_torchmetrics():
    a, b = rng.normal(size=(60, 16)), rng.normal(0.3, 1, (60, 16))
    theirs = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=60)
    theirs.update(torch.tensor(a), real=True)
    theirs.update(torch.tensor(b), real=False)
    mean, spread = kernel_distance(a, b, seed=0, subsets=3)
    assert mean == pytest.approx(float(theirs.compute()[0]), rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-12), "every subset is the whole set"


def test_kernel_distance_by_loops():
    a, b = rng.normal(size=(2, 7, 3))

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 3 + 1) ** 3

    within = [kernel(s[i], s[j]) for s in (a, b) for i in range(7) for j in range(7) if i != j]
    across = [kernel(x, y) for x in a for y in b]
    assert kernel_distance(a, b, seed=1)[0] == pytest.approx(sum(within) / 42 - 2 * np.mean(across), rel=1e-9)


def test_kernel_distance_is_unbiased_and_seeded():
    """Sets of one distribution: the mean of many estimates is 0, though half of them lie below."""
    values = [kernel_distance(*rng.normal(size=(2, 12, 4)), seed=0, subsets=1)[0] for _ in range(1500)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(1500)
    a, b = rng.normal(size=(300, 4)), rng.normal(0.5, 1, (200, 4))
    first = kernel_distance(a, b, seed=5, subsets=30, size=50)
    assert first == kernel_distance(a, b, seed=5, subsets=30, size=50)
    assert first != kernel_distance(a, b, seed=6, subsets=30, size=50)
    whole = kernel_distance(a, b[:200], seed=0, subsets=1, size=200)[0]
    assert first[1] > 0 and abs(first[0] - whole) < 5 * first[1] / math.sqrt(30)


# --- manifolds ----------------------------------------------------------------------------------------------------


def squared(x, y):
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True))


def radius(points, i, k):
    return sorted(squared(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]


def slow_precision_recall(real, fake, k):
    def share(points, manifold):
        radii = [radius(manifold, i, k) for i in range(len(manifold))]
        on = [any(squared(p, c) <= r for c, r in zip(manifold, radii, strict=True)) for p in points]
        return sum(on) / len(on)

    return share(fake, real), share(real, fake)


def slow_density_coverage(real, fake, k):
    radii = [radius(real, i, k) for i in range(len(real))]
    inside = [[squared(f, c) < r for f in fake] for c, r in zip(real, radii, strict=True)]
    return sum(map(sum, inside)) / (k * len(fake)), sum(map(any, inside)) / len(real)


def sets(kind):
    """Two sets in a generic position, or on a grid far from 0, where most distances are ties and points repeat."""
    if kind == "generic":
        return rng.normal(size=(31, 3)), rng.normal(0.6, 0.7, (23, 3))
    real, fake = rng.integers(0, 4, (31, 2)), rng.integers(1, 6, (23, 2))
    return real.astype(float) + 1000 / 3, fake.astype(float) + 1000 / 3


@pytest.mark.parametrize("kind", ["generic", "grid"])
@pytest.mark.parametrize("k", [1, 3, 5, 22])
def test_manifolds_by_loops_and_in_any_chunks(kind, k):
    real, fake = sets(kind)
    exact = [list(map(tuple, np.rint(x - 1000 / 3) if kind == "grid" else x)) for x in (real, fake)]
    for measure, slow in ((precision_recall, slow_precision_recall), (density_coverage, slow_density_coverage)):
        expected = slow(*exact, k)
        assert measure(real, fake, k) == pytest.approx(expected, abs=1e-12)
        for chunk in (1, 7, 30):
            assert measure(torch.tensor(real), torch.tensor(fake), k, chunk=chunk) == measure(real, fake, k)


@pytest.mark.parametrize("dimensions", [2, 700])
def test_identical_sets(dimensions):
    """Each open ball holds its own centre and k - 1 neighbours: the density is 1 exactly."""
    x = rng.normal(5, 1, (80, dimensions)).astype(np.float32)
    for chunk in (1024, 13):
        assert precision_recall(x, x.copy(), 3, chunk=chunk) == (1, 1)
        assert density_coverage(x, x.copy(), 5, chunk=chunk) == (1, 1)


def test_disjoint_sets():
    x = rng.normal(size=(50, 8))
    for y in (x + 1e4, rng.normal(0, 1, (40, 8)) - 50):
        assert precision_recall(x, y, 3) == (0, 0)
        assert density_coverage(x, y, 5) == (0, 0)


def test_one_mode_of_two():
    """Fake images of one mode only: each is real enough, half of the real ones are reached."""
    real = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 100])
    fake = rng.normal(size=(400, 2))
    precision, recall = precision_recall(real, fake, 3)
    density, coverage = density_coverage(real, fake, 5)
    assert precision > 0.9 and 0.45 < recall <= 0.5
    assert 0.8 < density < 1.2 and 0.45 < coverage <= 0.5


def test_coverage_of_equal_distributions():
    """Naeem et al. 2020, Eq. 6: with N real and M fake points its mean is 1 - prod (N - i) / (N + M - i), i = 1..k."""
    n, m, k = 40, 60, 4
    expected = 1 - np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    found = [density_coverage(rng.normal(size=(n, 3)), rng.normal(size=(m, 3)), k) for _ in range(400)]
    density, coverage = np.mean(found, 0)
    assert abs(coverage - expected) < 4 * np.std(found, 0)[1] / 20
    assert abs(density - 1) < 4 * np.std(found, 0)[0] / 20


def test_nearest():
    points, others = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    points[7] = others[20]
    distances, which = nearest(points, torch.tensor(others), chunk=9)
    slow = [min((squared(p, o), j) for j, o in enumerate(others)) for p in points]
    assert which.tolist() == [j for _, j in slow] and distances == pytest.approx(np.sqrt([d for d, _ in slow]))
    assert (distances[7], which[7]) == (0, 20)


def test_too_few_images():
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(9, 3))
    with pytest.raises(UserError, match="k=4 must be .* below the number of real images, which is 4"):
        precision_recall(x, y, 4)
    with pytest.raises(UserError, match="k=4 must be .* below the number of generated images, which is 4"):
        precision_recall(y, x, 4)
    with pytest.raises(UserError, match="k=5 .* real images, which is 4"):
        density_coverage(x, y, 5)
    with pytest.raises(UserError, match="k=0 must be at least 1"):
        density_coverage(x, y, 0)
    with pytest.raises(UserError, match="2 images are the fewest that can be measured, got 1"):
        frechet_distance(x, y[:1])
    with pytest.raises(UserError, match="2 images are the fewest"):
        kernel_distance(x[:1], y, seed=0)


# --- extractors and the evaluation --------------------------------------------------------------------------------


def test_too_few_images_are_refused_before_work():
    real = {"subset": images(3, 0), "train": images(9, 0), "test": images(5, 0)}
    for fields, said in (
        ({"reference": "subset"}, "Fidelity.k=3 must be .* number of subset images, which is 3"),
        ({"reference": "test"}, "Fidelity.density_k=5 must be .* number of test images, which is 5"),
        ({"reference": "train", "k": 6}, "Fidelity.k=6 must be .* number of generated images, which is 6"),
    ):
        with pytest.raises(UserError, match=said):
            Fidelity(**fields, extractor=InceptionFeatures(weights="nowhere")).measure(
                images(6, 1), np.zeros(6), real, []
            )


@pytest.mark.parametrize("reference", ["test", "train", "subset"])
def test_evaluation(reference):
    real = {"subset": images(12, 0), "train": images(40, 1), "test": images(30, 2)}
    made = images(25, 3)
    fidelity = Fidelity(reference=reference, k=2, density_k=4, extractor=Pixels())
    needed = {name: real[name] for name in fidelity.needs}
    result = fidelity.measure(made, np.zeros(25, int), needed, ["a"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    a, b = real[reference].reshape(-1, 48) / 255, made.reshape(-1, 48) / 255
    metrics = {name.removeprefix("fidelity/"): value for name, value in result["metrics"].items()}
    assert metrics["fid"] == pytest.approx(frechet_distance(a, b))
    assert (metrics["kid"], metrics["kid_std"]) == pytest.approx(kernel_distance(a, b, seed=0))
    assert (metrics["precision"], metrics["recall"]) == precision_recall(a, b, 2)
    assert (metrics["density"], metrics["coverage"]) == density_coverage(a, b, 4)
    about = {"reference": reference, "k": 2, "density_k": 4, "made": 25, "real": len(a), "dimensions": 48}
    assert result["about"] == {"extractor": {"name": "pixels", "digest": "none"}} | about


def test_settings_both_ways():
    assert {Fidelity, Leak} <= set(subclasses(ImageEvaluation)) < set(subclasses(Measurement))
    for kind in subclasses(Measurement):
        assert from_json(Measurement, to_json(kind())) == kind()
    fidelity = Fidelity(reference="subset", extractor=InceptionFeatures(weights="somewhere.pth", batch=8))
    assert from_json(ImageEvaluation, json.loads(json.dumps(to_json(fidelity)))) == fidelity
    assert "somewhere" not in json.dumps(keyed(fidelity)), "the file enters the key by its content"


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """A net with random weights whose batch norms have seen noise, as torchvision stores its own."""
    torch.manual_seed(0)
    net = inception_v3(weights=None, transform_input=True, init_weights=False)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net(torch.randn(3, 3, 299, 299))
    folder = tmp_path_factory.mktemp("inception")
    torch.save(net.state_dict(), folder / "inception.pth")
    return net.eval(), folder


def test_inception_features_are_those_before_the_last_layer(inception):
    """Against torchvision's own way in: ImageNet's normalisation, undone by the net."""
    net, folder = inception
    pixels = images(3, 4, size=299)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    net.fc = nn.Identity()
    with torch.no_grad():
        expected = net((torch.from_numpy(pixels) / 255 - mean) / std)
    extractor = InceptionFeatures(weights=str(folder / "inception.pth"), batch=2)
    found = extractor.load()(pixels)
    assert found.shape == (3, 2048) and expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-3 * expected.std()
    assert extractor.load()(images(1, 5, size=32)).shape == (1, 2048)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a small CLIP with random weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=sizes | {"vocab_size": 600},
        vision_config=sizes | {"image_size": 16, "patch_size": 4},
        projection_dim=24,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


def test_clip_features(clip, tmp_path):
    extractor = ClipFeatures(str(clip))
    found = extractor.load()(images(9, 0, size=16))
    assert found.shape == (9, 24) and torch.allclose(found.norm(dim=1), torch.ones(9))
    moved = shutil.copytree(clip, tmp_path / clip.name)
    assert ClipFeatures(str(moved)).about() == extractor.about()
    assert extractor.about()["name"] == f"CLIP {clip.name}"
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert ClipFeatures(str(moved)).about()["digest"] != extractor.about()["digest"]


def test_the_whole_way_with_clip(clip):
    real = {"subset": images(12, 0, 16), "train": images(40, 1, 16), "test": images(30, 2, 16)}
    made = real["test"][:20]
    fidelity = Fidelity(extractor=ClipFeatures(str(clip))).measure(made, np.zeros(20, int), real, ["a"])
    assert fidelity["metrics"]["fidelity/precision"] == 1 and fidelity["metrics"]["fidelity/coverage"] >= 2 / 3
    leak = Leak(extractor=ClipFeatures(str(clip))).measure(made, np.zeros(20, int), real, ["a"])
    assert leak["metrics"]["leak/copies"] == 20 and leak["metrics"]["leak/share_closer"] == 1


def test_inception_weights_are_named_by_content_and_checked(inception, tmp_path):
    net, folder = inception
    copy = tmp_path / "other name.pth"
    copy.write_bytes((folder / "inception.pth").read_bytes())
    about = InceptionFeatures(weights=str(copy)).about()
    assert about == InceptionFeatures(weights=str(folder / "inception.pth")).about() and len(about["digest"]) == 64
    with pytest.raises(UserError, match="weights: there is no file 'nowhere.pth'"):
        InceptionFeatures(weights="nowhere.pth").load()
    save_file({"fc.bias": torch.zeros(1008)}, tmp_path / "tensorflow.safetensors")
    with pytest.raises(UserError, match="TensorFlow's Inception, which pools otherwise"):
        InceptionFeatures(weights=str(tmp_path / "tensorflow.safetensors")).load()
    save_file({"fc.bias": torch.zeros(1000)}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="does not fit Inception v3: Missing key"):
        InceptionFeatures(weights=str(tmp_path / "empty.safetensors")).load()
