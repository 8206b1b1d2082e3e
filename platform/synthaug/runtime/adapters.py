"""Diffusion training as stages: the adapters of a backbone, a denoiser and a noisy classifier, learned from the
training subset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synthaug.data import suffixes
from synthaug.data.dataset import subset
from synthaug.data.sample import decode_image
from synthaug.diffusion.finetune import Adapter, tokens_of, words_after
from synthaug.diffusion.guide import FILE as GUIDE
from synthaug.diffusion.guide import PlacedGuide
from synthaug.diffusion.pixel_models import FOLDER as DENOISER
from synthaug.diffusion.pixel_models import PlacedDenoiser, TrainedUNet
from synthaug.experiment import SUBSET, Experiment, numbered
from synthaug.runtime.images import image_size, real_images, split_arrays
from synthaug.runtime.store import Store, write_bytes
from synthaug.settings import canonical
from synthaug.training import REPORTS, Checkpoint, Report, World

TRAINED = "trained.json"  # in the folder of a stage that trains, written last
FILE = "adapter.safetensors"


def stages_of(experiment: Experiment) -> list[str]:
    """The names of the fine-tuning stages of an experiment, in their order."""
    return numbered("finetune", len(experiment.tuning))


def diffusion_stages(experiment: Experiment) -> list[str]:
    """The names of all stages that train something for diffusion, in their order."""
    first = ["denoiser"] * experiment.trains_denoiser + ["guide"] * (experiment.guide is not None)
    return first + stages_of(experiment)


def reports_of(experiment: Experiment, stage: str) -> int:
    """How often a stage that trains will report."""
    if stage == "train":
        return experiment.recipe.evaluations
    if stage == "denoiser":
        assert isinstance(experiment.denoiser, TrainedUNet)
        steps = experiment.denoiser.steps
    elif stage == "guide":
        assert experiment.guide is not None
        steps = experiment.guide.steps
    else:
        steps = experiment.tuning[stages_of(experiment).index(stage)].steps
    return -(-steps // -(-steps // REPORTS))


def denoiser_of(store: Store, experiment: Experiment) -> PlacedDenoiser | None:
    """The denoiser that an experiment works with, and where its stage left it."""
    if not isinstance(experiment.denoiser, TrainedUNet):
        return None if experiment.denoiser is None else (experiment.denoiser, None)
    node = store.nodes(experiment).get("denoiser")
    return None if node is None else (experiment.denoiser, store.folder(node))


def fit_denoiser(
    store: Store, experiment: Experiment, folder: Path, report: Report, checkpoint: Checkpoint, world: World
) -> None:
    """Train the denoiser on exactly the images that the classifier may see, and leave it in the folder."""
    from synthaug.diffusion.unet import train_unet, unet_files

    assert isinstance(experiment.denoiser, TrainedUNet)
    images = real_images(store, experiment, SUBSET)
    experiment.denoiser.check(images.shape[2])
    net, done = train_unet(experiment.denoiser, images, report=report, checkpoint=checkpoint, world=world)
    if world.rank == 0:
        for name, data in unet_files(net).items():
            write_bytes(folder / DENOISER / name, data)
        notes = {"history": done.history, "steps": done.step, "seconds": done.seconds}
        write_bytes(folder / TRAINED, canonical(notes | {"images": done.step * experiment.denoiser.batch_size}))


def guide_of(store: Store, experiment: Experiment) -> PlacedGuide | None:
    """The noisy classifier that an experiment's method works with, and where its stage left it."""
    guide = experiment.guide
    return None if guide is None else (guide, store.folder(store.nodes(experiment)["guide"]))


def fit_guide(
    store: Store, experiment: Experiment, folder: Path, report: Report, checkpoint: Checkpoint, world: World
) -> None:
    """Train the noisy classifier on exactly the images that the classifier may see, and leave it in the folder."""
    from safetensors.torch import save

    from synthaug.diffusion.guide_net import train_guide

    guide, dataset, listing = experiment.guide, experiment.dataset, store.open(experiment.dataset)
    assert guide is not None
    labels = np.array([entry.label for entry in subset(listing, dataset, experiment.seed)])
    train = real_images(store, experiment, SUBSET), labels
    val = split_arrays(store.home, dataset, "val", image_size(store, experiment))
    placed = denoiser_of(store, experiment) if guide.needs_denoiser else None
    net, done = train_guide(
        guide, train, val, len(listing.classes), placed[0].load(placed[1]) if placed else None,
        report=report, checkpoint=checkpoint, world=world,
    )  # fmt: skip
    if world.rank == 0:
        write_bytes(folder / GUIDE, save(net.state_dict()))
        notes = {"history": done.history, "steps": done.step, "seconds": done.seconds}
        notes |= {"images": done.step * guide.batch_size}
        notes |= {"denoiser_calls": done.step * guide.batch_size} if placed else {}
        write_bytes(folder / TRAINED, canonical(notes))


def adapters_of(store: Store, experiment: Experiment) -> tuple[Adapter, ...]:
    """Everything that the backbone is fine-tuned by."""
    if not experiment.tuning:
        return ()
    nodes = store.nodes(experiment)
    files = [store.folder(nodes[name]) / FILE for name in stages_of(experiment)]
    return tuple(zip(experiment.tuning, files, strict=True))


def fit_adapter(
    store: Store, experiment: Experiment, stage: str, folder: Path, report: Report, checkpoint: Checkpoint, world: World
) -> None:
    """Learn the adapter of one stage and leave it in the folder; of several workers, the first writes."""
    from safetensors.torch import save

    from synthaug.diffusion.tuning import Example, tune

    number = stages_of(experiment).index(stage)
    finetune, chain = experiment.tuning[number], experiment.tuning[: number + 1]
    backbone, listing, kind = experiment.generator, store.open(experiment.dataset), experiment.dataset.kind_word
    assert backbone is not None
    table = suffixes.read(finetune.suffixes) if finetune.suffixes is not None else None
    names = [f"{word} {kind}".strip() for word in words_after(chain, listing.words)]
    examples = [
        Example(
            decode_image(sample.image), names[sample.target], tokens_of(chain, sample.target),
            table.of_image(sample.id) if table else None,
        )
        for sample in listing.samples(subset(listing, experiment.dataset, experiment.seed))
    ]  # fmt: skip
    learned, done = tune(
        finetune, backbone.for_tuning(), adapters_of(store, experiment)[:number], examples, listing.words,
        seed=experiment.seed, report=report, checkpoint=checkpoint, world=world,
    )  # fmt: skip
    if world.rank == 0:
        write_bytes(folder / FILE, save(learned))
        notes = {"history": done.history, "steps": done.step, "seconds": done.seconds}
        write_bytes(folder / TRAINED, canonical(notes | {"images": done.step * finetune.batch_size}))
