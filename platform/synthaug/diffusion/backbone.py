"""Backbone: which text-to-image model makes the images, and in which arithmetic. Loading it gives a Pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from synthaug.diffusion.steps import Loop, levels, part_of, rows, scheduler_of
from synthaug.diffusion.tokens import add_tokens, check_tokens
from synthaug.settings import Count, UserError, settings
from synthaug.weights import Weights, files_of

if TYPE_CHECKING:
    from synthaug.diffusion.finetune import Adapter
    from synthaug.diffusion.pipeline import Pipeline as Pipeline

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@settings
class AddedLoRA(Weights):
    """A LoRA that changes how the model samples, such as LCM's for few steps; fused when the model is loaded."""

    MARK: ClassVar[str] = "pytorch_lora_weights.safetensors"
    SORT: ClassVar[str] = "LoRA"
    WAYS_OUT: ClassVar[str] = (
        "name the folder of a downloaded one (backbone.lora=/path/to/lora), or take nano:lcm, which fits nano:sd only"
    )

    def weight_files(self) -> list[Path]:
        return [self.folder() / self.MARK]


@settings
class Backbone(Weights):
    """What makes images. Every field may change their bytes."""

    MARK: ClassVar[str] = "model_index.json"
    SORT: ClassVar[str] = "diffusers pipeline"
    WAYS_OUT: ClassVar[str] = (
        "name the folder of a downloaded one (--set backbone=/path/to/model), "
        "or take the embedded one, which knows only letters and digits (--set backbone=nano:sd)"
    )
    PARTS: ClassVar[str] = "--include '*.json' --include '*.txt' --include '*/*model.safetensors'"

    # All of these are in the key: each may change the bits of an image.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    micro_batch: Count = 64
    channels_last: bool = False
    compile: bool = False
    scheduler: str | None = None  # a class of diffusers; None: what the method was published with
    sliced: bool = False  # a consistency model's few steps cut to fit a strength, as diffusers does it
    resolution: Annotated[int, Field(ge=8)] | None = None  # None: the model's own
    threads: Count = 1  # on CPU, where sums differ in bits between thread counts
    lora: AddedLoRA | None = None

    def for_tuning(self) -> Backbone:
        """What fine-tuning sees of it: how it will be sampled makes no other adapter."""
        # Training has a precision and batches of its own, and LCM's LoRA is added after it.
        return Backbone(self.model, self.revision, resolution=self.resolution, threads=self.threads)

    def weight_files(self) -> list[Path]:
        root = self.folder()
        return [root / "model_index.json", *(file for part in _PARTS for file in files_of(root / part))]

    def calls(self, loop: Loop, strength: float = 1.0) -> int:
        """The denoiser rows that an image costs which goes through `strength` of a loop."""
        name = scheduler_of(loop.scheduler, self.scheduler)
        if loop.guidance > 1 and _told_guidance(self):  # told so in the one row that a step takes without guidance
            loop = replace(loop, guidance=1.0)
        # Where all steps cost the same it does not matter where they lie, and a million rows read no file.
        config = self._schedule() if loop.uneven else {}
        return rows(loop, name, part_of(name, loop.steps, strength, self.sliced), config)

    def start(self, loop: Loop, strength: float) -> float:
        """The noise level, a share of the schedule, at which `strength` of a loop begins: few steps hit no strength."""
        name = scheduler_of(loop.scheduler, self.scheduler)
        return levels(name, part_of(name, loop.steps, strength, self.sliced), self._schedule())[0]

    def _schedule(self) -> dict[str, Any]:
        """How the model's own scheduler is configured, of which any other takes what it knows."""
        config: dict[str, Any] = json.loads((self.folder() / "scheduler" / "scheduler_config.json").read_text())
        return config

    def check_prompts(self, prompts: Mapping[str, Sequence[str]]) -> None:
        """Refuse a prompt of which the text encoder would not see the end, and one without any of the learned tokens
        that it is mapped to; needs the tokenizer only."""
        from transformers import CLIPTokenizer

        folder = self.folder()
        positions = json.loads((folder / "text_encoder" / "config.json").read_text())["max_position_embeddings"]
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        # a learned token is one token, where its letters may be many
        add_tokens(tokenizer, list(dict.fromkeys(token for tokens in prompts.values() for token in tokens)))
        check_tokens(tokenizer, positions, prompts)

    def load(self, device: str | None = None, adapters: Sequence[Adapter] = ()) -> Pipeline:
        """The model in memory, fine-tuned by `adapters`, on the first GPU unless told otherwise."""
        if self.compile and not any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise UserError("compile=true needs a C compiler (cc, gcc or clang), and there is none; use compile=false")
        folder = self.folder()

        # Only now, after all that can be wrong: it takes seconds to import.
        from synthaug.diffusion.pipeline import Pipeline

        return Pipeline(self, folder, device, adapters)


@cache  # a million rows ask
def _told_guidance(backbone: Backbone) -> bool:
    """Whether the network was distilled with its guidance as an input, as a full LCM (Luo et al. 2023) was."""
    config = backbone.folder() / "unet" / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("time_cond_proj_dim") is not None
