"""How much the gradients of mini-batches vary on real sets: the originals, slow ones repeated, new images of them.

Beside theorem 4.3 of targeted augmentation, whose noise is planted, what can be measured where it is not: the variance
given the images, which holds what differs between images as well, and not the theorem's own term, which is of the
images that might have been drawn. At the net that has told slow from fast, and at the trained one. `python
-m experiments.targeted_variance` runs what of digits_targeted.py it needs; a minute or two for each seed beyond that.
"""

from __future__ import annotations

import torch
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import synthaug
from experiments.digits_targeted import BATCH, SEEDS, one
from experiments.targeted import ORIGINAL, upsampled
from synthaug.evaluate.stats import mean_interval, paired_test
from synthaug.experiment import Experiment, replace
from synthaug.runtime.store import Store
from synthaug.stages.classifier import Classifier

ARMS = {"original": ORIGINAL, "upsampled 5": upsampled(5), "slow 5": {"amplification": 5}}
HOME = "runs"


def gradients(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of each image's loss by all weights: images x weights."""
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(model, weights, image[None]), label[None])

    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    return torch.cat([g.flatten(1) for g in found.values()], 1).double()


def varies(g: torch.Tensor, batch: int = BATCH) -> dict[str, float]:
    """Of a set of gradients: the variance of the mean of a batch drawn from it with repeats, all weights together; that
    over the squared mean; and the mean's own length."""
    mean = g.mean(0)
    variance = float((g - mean).square().sum(1).mean() / batch)
    return {"variance": variance, "over the mean squared": variance / float(mean @ mean), "mean": float(mean.norm())}


def measured(seed: int) -> dict[tuple[str, str], dict[str, float]]:
    """By the net and the set."""
    found = {}
    store = Store(HOME)
    for arm, fields in ARMS.items():
        subject: Experiment = replace(one(seed=seed), fields)
        synthaug.run(subject, home=HOME)
        line = store.line(subject)
        stage: Classifier = line.classifier
        data = stage.training_data(store.planned(stage))
        learner = store.line(one(seed=seed)).learner
        assert learner is not None
        early = store.load(learner).model
        nets = {
            "early": early,
            "trained on the originals": store.load(store.line(replace(subject, ORIGINAL)).classifier),
        }
        images = torch.as_tensor(data.images).float() / 255
        for name, net in nets.items():
            found[name, arm] = varies(gradients(net.cpu(), images, data.labels.float()))
    return found


def main() -> None:
    """A table: means over the seeds, and what is paired with upsampling."""
    by_seed = [measured(seed) for seed in SEEDS]
    for name, arm in by_seed[0]:
        for what in by_seed[0][name, arm]:
            values = [found[name, arm][what] for found in by_seed]
            mean, low, high = mean_interval(values)
            said = f"{name}, {arm}, {what}: {mean:.4g} ({low:.4g}, {high:.4g})"
            if arm == "slow 5":
                d, low, high, p = paired_test(values, [found[name, "upsampled 5"][what] for found in by_seed])
                said += f"; to upsampled {d:+.3g} ({low:+.3g}, {high:+.3g}), p = {p:.3f}"
            print(said)


if __name__ == "__main__":
    main()
