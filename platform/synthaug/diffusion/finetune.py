"""Fine-tuning a backbone to a data set: textual inversion (one new word a class) and DreamBooth-LoRA, as settings."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from synthaug.data.dataset import Dataset
from synthaug.diffusion.tokens import add_tokens
from synthaug.settings import ContentOf, Count, settings

if TYPE_CHECKING:
    from torch import Tensor

# What an image of a class may be called while it is learned: the 27 templates of textual inversion
# (imagenet_templates_small).
TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}", "a photo of a clean {}",
    "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}", "a photo of the cool {}",
    "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}",
    "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}", "a rendition of the {}",
    "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}",
    "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}", "a photo of the large {}",
    "a photo of a cool {}", "a photo of a small {}",
)  # fmt: skip


@settings
class Finetune(ABC):
    """One way to fit a backbone to the images of a data set. Raise `version` when what it learns changes.

    `suffixes` is a table of suffixes (see methods/prompts.py): each image is then described as "a photo of a ...,
    <its suffix>" (suffix-enrich). `precision` is that of the frozen parts; what is learned stays in float32. On
    a GPU bf16 is four times as fast. `micro_batch` images of a batch are in memory at once (None: all), fewer where
    that is too much; `checkpointing` computes the UNet twice to keep less of it. Both change nothing but rounding.
    """

    version: ClassVar[int] = 1
    clip: ClassVar[float | None] = None  # of the gradient's norm

    # UniDiffDA's batch and weight decay; steps and rate as far as a subclass names none.
    steps: Count = 1000
    batch_size: Count = 64
    lr: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    precision: Literal["fp32", "bf16"] = "fp32"
    suffixes: ContentOf[str | None] = None
    micro_batch: Count | None = None
    checkpointing: bool = False

    def of(self, dataset: Dataset) -> Finetune:
        """The same as far as a data set allows it."""
        return self

    def words(self, words: Sequence[str]) -> tuple[str, ...]:
        """What the classes are called in prompts from now on."""
        return tuple(words)

    def tokens(self, label: int) -> tuple[str, ...]:
        """The tokens that it adds to the tokenizer for a class."""
        return ()

    @abstractmethod
    def attach(self, pipe: Any, learned: dict[str, Tensor]) -> None:
        """Put what was learned into a diffusers pipeline."""


@settings(key="synthaug.diffusion.personalize:TextualInversion")
class TextualInversion(Finetune):
    """One new word a class, all classes together, everything else frozen (Gal et al. 2022; DA-Fusion).

    `init` is the word that each begins as, or "name" for the class's own words; `mirror` shows half of the images
    mirrored, where the data set says that they are still of their class.
    """

    # UniDiffDA: 2,000 steps on natural images, 500 on medical ones. The rate is 5e-4 as it was run: the script declares
    # scale_lr and never applies it.
    steps: Count = 2000
    vectors: Count = 1
    init: str = "the"
    mirror: bool = True

    def of(self, dataset: Dataset) -> TextualInversion:
        return dataclasses.replace(self, mirror=self.mirror and dataset.can_mirror)

    def words(self, words: Sequence[str]) -> tuple[str, ...]:
        return tuple(" ".join(self.tokens(label)) for label in range(len(words)))

    def tokens(self, label: int) -> tuple[str, ...]:
        return (f"<class-{label}>", *(f"<class-{label}-{vector}>" for vector in range(1, self.vectors)))

    def attach(self, pipe: Any, learned: dict[str, Tensor]) -> None:
        ids = add_tokens(pipe.tokenizer, list(learned))
        # mean_resizing would draw random rows, which are overwritten at once
        pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
        rows = pipe.text_encoder.get_input_embeddings().weight.data
        for id, vector in zip(ids, learned.values(), strict=True):
            rows[id] = vector.to(rows)


@settings(key="synthaug.diffusion.personalize:LoRA")
class LoRA(Finetune):
    """Low-rank changes of the UNet's attention, learned from the images under their class's word (DreamBooth without
    an identifier or prior preservation). `crops` random squares of each image that is not one are encoded."""

    lr: Annotated[float, Field(gt=0)] = 3.2e-4  # 5e-6 scaled by the batch of 64: here scale_lr is applied
    rank: Count = 8
    alpha: Count | None = None  # None: the rank
    crops: Count = 4  # the original crops anew in each step; here latents are encoded once

    clip: ClassVar[float | None] = 1.0
    TARGETS: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")

    def attach(self, pipe: Any, learned: dict[str, Tensor]) -> None:
        fuse(pipe, dict(learned))


def fuse(pipe: Any, lora: dict[str, Tensor] | Path) -> None:
    """Add a LoRA to the weights for good, so that sampling costs what it costs without."""
    where: dict[str, Any] = {"pretrained_model_name_or_path_or_dict": lora}
    if isinstance(lora, Path):  # diffusers takes the folder and the file's name apart
        where = {"pretrained_model_name_or_path_or_dict": lora.parent, "weight_name": lora.name}
    state, alphas = pipe.lora_state_dict(**where)
    pipe.load_lora_into_unet(state, alphas, pipe.unet)
    pipe.unet.fuse_lora()
    pipe.unet.unload_lora()  # peft's wrappers, which would slow down every call


Adapter = tuple[Finetune, Path]  # how it was learned, and the safetensors file with what was


def words_after(tuning: Sequence[Finetune], words: Sequence[str]) -> tuple[str, ...]:
    """What the classes are called in prompts after several fine-tunings."""
    for finetune in tuning:
        words = finetune.words(words)
    return tuple(words)


def tokens_of(tuning: Sequence[Finetune], label: int) -> tuple[str, ...]:
    """All tokens that were learned for a class."""
    return tuple(token for finetune in tuning for token in finetune.tokens(label))
