"""Backbone: which text-to-image model makes the images, and in which arithmetic. Loading it gives a Pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from synthaug.settings import NotKeyed, UserError, settings

if TYPE_CHECKING:
    from synthaug.diffusion.pipeline import Pipeline as Pipeline

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_WEIGHTS = (".safetensors", ".bin")
_TEXTS = (".json", ".txt")


@settings
class Backbone:
    """What makes images. Every field may change their bytes; the key holds what the model is, not where it lies."""

    model: NotKeyed[str]
    revision: NotKeyed[str | None] = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    micro_batch: Annotated[int, Field(ge=1)] = 64
    channels_last: bool = False
    compile: bool = False
    scheduler: str = "DPMSolverMultistepScheduler"
    resolution: Annotated[int, Field(ge=8)] | None = None  # None: the model's own
    threads: Annotated[int, Field(ge=1)] = 1  # on CPU, where sums differ in bits between thread counts

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data

    def folder(self) -> Path:
        """Where the model lies on this machine; never asks the network."""
        if self.model.startswith("nano:"):
            from synthaug import nano

            return nano.path(self.model)
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            folder = self._downloaded()
        if not (folder / "model_index.json").is_file():
            raise UserError(f"{folder} holds no diffusers pipeline (it has no model_index.json); {_WAYS_OUT}")
        return folder

    def _downloaded(self) -> Path:
        """The snapshot in the Hugging Face cache."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self.model, revision=self.revision, local_files_only=True))
        except (HFValidationError, LocalEntryNotFoundError):
            raise UserError(f"the model {self.model!r} is not on this machine; {_WAYS_OUT}") from None

    def weight_files(self) -> list[Path]:
        """The files whose content decides the images: weights as they are loaded, configurations, vocabularies."""
        root = self.folder()
        files = [root / "model_index.json"]
        for part in _PARTS:
            found = [path for path in sorted((root / part).glob("*")) if "." not in path.stem]  # a dot: a variant
            weights = next((w for suffix in _WEIGHTS if (w := [p for p in found if p.suffix == suffix])), [])
            files += weights + [path for path in found if path.suffix in _TEXTS]
        return files

    def commit(self) -> str | None:
        """The resolved revision of a model from the hub: an identity as good as its hash."""
        folder = self.folder()
        return folder.name if folder.parent.name == "snapshots" else None

    def check_prompts(self, prompts: Iterable[str]) -> None:
        """Refuse a prompt of which the text encoder would not see the end; needs the tokenizer only."""
        from transformers import CLIPTokenizer

        folder = self.folder()
        positions = json.loads((folder / "text_encoder" / "config.json").read_text())["max_position_embeddings"]
        refuse_long(CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True), positions, prompts)

    def load(self, device: str | None = None) -> Pipeline:
        """The model in memory, on the first GPU unless told otherwise."""
        if self.compile and not any(map(shutil.which, ("cc", "gcc", "clang"))):
            raise UserError("compile=true needs a C compiler (cc, gcc or clang), and there is none; use compile=false")
        folder = self.folder()

        from synthaug.diffusion.pipeline import Pipeline

        return Pipeline(self, folder, device)


def refuse_long(tokenizer: Any, positions: int, prompts: Iterable[str]) -> None:
    """A prompt with more tokens than the text encoder reads would lose its end without a word."""
    longest = min(tokenizer.model_max_length, positions)
    for prompt in dict.fromkeys(prompts):
        length = len(tokenizer(prompt, verbose=False).input_ids)
        if length > longest:
            raise UserError(f"the prompt {prompt!r} has {length} tokens, the text encoder reads {longest}")


_WAYS_OUT = (
    "name the folder of a downloaded one (--set backbone=/path/to/model), "
    "or take the embedded one, which knows only letters and digits (--set backbone=nano:sd)"
)
