"""Weights: a model by name or folder, where it lies on this machine and which of its files decide what it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import model_validator

from synthaug.settings import NotKeyed, UserError, settings

_WEIGHTS = (".safetensors", ".bin")  # in the order in which from_pretrained looks for them
_TEXTS = (".json", ".txt")
# what people are surprised by, of the models that they take first
TAKES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "5.5 GB of disk, 4.3 GB of memory for weights in fp32, half in bf16",
    "openai/clip-vit-base-patch32": "0.6 GB of disk and of memory",
}
_EMBEDDED = Path(__file__).parent / "nano" / "weights"  # package data, beside what trains it


@settings
class Weights(ABC):
    """A model from the Hugging Face cache, a folder or the embedded ones; a bare string names it. The key holds what
    the model is, not where it lies."""

    MARK: ClassVar[str]  # the file that every folder of this sort has
    PLACES: ClassVar[tuple[str, ...]] = (".",)  # where in the folder it may be
    SORT: ClassVar[str]  # what it is, for messages
    WAYS_OUT: ClassVar[str]
    PARTS: ClassVar[str] = ""  # of a repository of the hub, as options of `hf download`: what is read of it

    model: NotKeyed[str]
    revision: NotKeyed[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _embedded(self) -> Weights:
        # those of a folder or of the hub are looked up when they are used: it may be another machine that has them
        if self.model.startswith("nano:"):
            embedded(self.model)
        return self

    def folder(self) -> Path:
        """Where the model lies on this machine; never asks the network."""
        folder = locate(self.model, self.revision, self.WAYS_OUT, self.PARTS)
        if not any((folder / place / self.MARK).is_file() for place in self.PLACES):
            raise UserError(f"{folder} holds no {self.SORT} (it has no {self.MARK}); {self.WAYS_OUT}")
        return folder

    @abstractmethod
    def weight_files(self) -> list[Path]:
        """The files whose content decides the output: weights as they are loaded, configurations, vocabularies."""

    def identity_files(self) -> dict[str, Path]:
        """Those files by the name under which they enter the key."""
        root = self.folder()
        # relative and with /, so that a key is the same in every folder and on every system
        return {path.relative_to(root).as_posix(): path for path in self.weight_files()}

    def commit(self) -> str | None:
        """The resolved revision of a model from the hub: an identity as good as its hash."""
        folder = self.folder()
        return folder.name if folder.parent.name == "snapshots" else None  # the cache's .../snapshots/<commit>


def locate(model: str, revision: str | None, ways_out: str, parts: str = "") -> Path:
    """The folder of an embedded model, of a path, or of a snapshot in the Hugging Face cache."""
    if model.startswith("nano:"):
        return embedded(model)
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else _downloaded(model, revision, ways_out, parts)


def embedded_names() -> tuple[str, ...]:
    """The embedded models that are there, such as `nano:sd`."""
    return tuple(f"nano:{folder.name}" for folder in sorted(_EMBEDDED.iterdir()) if folder.is_dir())


def embedded(name: str) -> Path:
    """The folder of an embedded model."""
    # compared with the names, not looked up as a path: `nano:../..` is a folder, too
    if name not in embedded_names():
        raise UserError(f"no embedded model {name!r}; known: {', '.join(embedded_names())}")
    return _EMBEDDED / name.removeprefix("nano:")


def _downloaded(model: str, revision: str | None, ways_out: str, parts: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # local only: `show` must answer at once, and a cluster's workers may have no network
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except HFValidationError:  # a path that is not there is no valid name on the hub
        raise UserError(f"the model {model!r} is not on this machine; {ways_out}") from None
    except LocalEntryNotFoundError:
        takes = f" ({TAKES[model]})" if model in TAKES else ""
        brings = " ".join(filter(None, ("hf download", model, parts, f"--revision {revision}" if revision else "")))
        ways = f"`{brings}` brings it, or {ways_out}"
        raise UserError(f"the model {model!r}{takes} is not on this machine; {ways}") from None


def files_of(folder: Path) -> list[Path]:
    """What `from_pretrained` reads of a folder: safetensors rather than bin, no variants, and all texts."""
    found = [path for path in sorted(folder.glob("*")) if "." not in path.stem]  # a dot: a variant
    texts = [path for path in found if path.suffix in _TEXTS]
    for suffix in _WEIGHTS:
        weights = [path for path in found if path.suffix == suffix]
        if weights:
            return weights + texts
    return texts  # a tokenizer or a scheduler
