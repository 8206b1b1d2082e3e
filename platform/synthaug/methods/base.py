"""Method: how images are made. A new method is one file with one subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from synthaug.data import suffixes
from synthaug.data.listing import Entry, Listing
from synthaug.data.published import PHOTO
from synthaug.data.sample import Label, Sample, encode_image, image_sort
from synthaug.diffusion.backbone import Backbone
from synthaug.diffusion.finetune import Adapter, Finetune
from synthaug.diffusion.guide import Guide, PlacedGuide
from synthaug.diffusion.pixel_models import DenoiserModel, PlacedDenoiser
from synthaug.settings import UserError, seed_of, settings

if TYPE_CHECKING:
    import numpy as np

    from synthaug.clip import Clip, Scorer
    from synthaug.data.suffixes import Suffixes
    from synthaug.diffusion.backbone import Pipeline
    from synthaug.diffusion.denoiser import NetDenoiser
    from synthaug.diffusion.guide_net import GuideNet

T = TypeVar("T")
STABLE_DIFFUSION = Backbone(model="stable-diffusion-v1-5/stable-diffusion-v1-5")


@dataclass(frozen=True)
class Context:
    """What a plan may know of the data set beside the sample itself."""

    seed: int
    words: tuple[str, ...]  # what the classes are called in prompts: learned tokens after textual inversion
    prompts: tuple[str, ...]  # of several one is drawn for each image
    super_class: str
    peers: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  # ids of all sources by class
    names: tuple[str, ...] = ()  # what the classes are called for people
    can_mirror: bool = True
    _tables: dict[str | None, Suffixes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def everybody(self) -> tuple[str, ...]:
        """The ids of all sources."""
        return tuple(id for ids in self.peers.values() for id in ids)  # cached: asked for each row of a plan

    def table(self, file: str | None) -> Suffixes:
        """A table of suffixes (data/suffixes.py)."""
        # Kept here and not in the process: the next stage has a context of its own, and sees a file that has changed.
        if file not in self._tables:
            self._tables[file] = suffixes.read(file)
        return self._tables[file]

    @property
    def own_prompts(self) -> bool:
        """Whether the data set says more than that there is a photo of something."""
        return self.prompts != (PHOTO,)

    def text(self, label: int, seed: int | None, *, super_class: bool = False) -> str:
        """The prompt of a class, with the word for its kind ("bird") if wanted and known; without a seed the first."""
        kind = self.super_class if super_class else ""
        prompt = self.prompts[0] if seed is None else pick(self.prompts, seed, "prompt")
        return prompt.format(f"{self.words[label]} {kind}".strip())


class Models:
    """The models of a process, loaded when a method first asks. `context` is what the data set is like; `earlier` gives
    what the method's stage before made of a source."""

    def __init__(
        self, backbone: Backbone | None, adapters: Sequence[Adapter] = (), denoiser: PlacedDenoiser | None = None,
        guide: PlacedGuide | None = None,
    ) -> None:  # fmt: skip
        self.backbone, self.adapters, self.placed, self.placed_guide = backbone, tuple(adapters), denoiser, guide
        # Set for each shard: the models outlive it, and serve the stages of other data sets as well.
        self.context = Context(0, (), (PHOTO,), "")
        self.earlier: Callable[[str], np.ndarray] | None = None
        self._kept: dict[Hashable, Any] = {}

    @cached_property
    def pipeline(self) -> Pipeline:
        if self.backbone is None:
            said = "this method asks for the pipeline of a backbone and names none"
            raise UserError(f"{said}; set `backbone` on its class, or --set backbone=MODEL")
        return self.backbone.load(adapters=self.adapters)

    def load(self) -> None:
        """Have the backbone's pipeline in memory now."""
        _ = self.pipeline

    @cached_property
    def denoiser(self) -> NetDenoiser:
        """The experiment's denoiser of images in [-1, 1]."""
        assert self.placed is not None, "this experiment names no denoiser"
        model, folder = self.placed
        return model.load(folder)

    @property
    def asks_labels(self) -> bool:
        """Whether that denoiser can be asked for a class."""
        assert self.placed is not None, "this experiment names no denoiser"
        return self.placed[0].labels

    @property
    def in_pixels(self) -> bool:
        """Whether that denoiser works on pixels, and not in the latents of the pipeline."""
        assert self.placed is not None, "this experiment names no denoiser"
        return self.placed[0].space is None

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """That of one of its images or latents."""
        size = self.denoiser.net.config.sample_size
        return (3, size, size) if self.in_pixels else self.pipeline.codec.shape

    @cached_property
    def guide(self) -> GuideNet:
        """The method's noisy classifier, on the denoiser's device."""
        assert self.placed_guide is not None, "this method names no guide"
        guide, folder = self.placed_guide
        return guide.load(folder, str(self.denoiser.net.device))

    def scorer(self, clip: Clip) -> Scorer:
        """A CLIP model on the pipeline's device, if there is a pipeline."""
        return self.kept(clip, lambda: clip.load(None if self.backbone is None else str(self.pipeline.device)))

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What a method keeps as long as these models are."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    @property
    def counters(self) -> dict[str, int]:
        """What the loaded models have done so far."""
        # `vars`, because to ask for a cached property is to load the model
        counted = Counter({"unet_calls": self.denoiser.rows} if "denoiser" in vars(self) else {})
        # of a denoiser of latents both are there: it is asked, and the pipeline's own is not
        counted.update(self.pipeline.counters if "pipeline" in vars(self) else {})
        return dict(counted)


@dataclass(frozen=True)
class Row:
    """One image to make: planned without a model, so that it can be shown, counted and repeated."""

    source: str
    source_class: int
    target: int  # the class that is asked for, which Diff-Mix draws
    variant: int
    prompt: str
    strength: float  # the share of the schedule that is noised: what a row costs hangs on it
    seed: int
    partner: str = ""  # another source that goes into it
    later: str = ""  # the prompt of the second part of the way, where a method changes it


def own_class(sample: Sample, variant: int, context: Context, *, strength: float = 0.0) -> Row:
    """The plain plan: the sample's own class, and a seed that depends on nothing but seed, image and variant."""
    # No setting of the method goes in: neighbouring strengths and other methods share their noise, and so are paired.
    seed = seed_of(context.seed, "generate", sample.id, variant)
    return Row(sample.id, sample.target, sample.target, variant, context.text(sample.target, seed), strength, seed)


def unprompted(sample: Sample, variant: int, context: Context) -> Row:
    """The same for a method that says nothing to a model."""
    seed = seed_of(context.seed, "generate", sample.id, variant)
    return Row(sample.id, sample.target, sample.target, variant, "", 0.0, seed)


def pick(choices: Sequence[T], seed: int, *purpose: str) -> T:
    """One of the choices, by a seed of a row."""
    # a seed for each purpose: else the adjective of an image would tell its domain
    return choices[seed_of(seed, *purpose) % len(choices)]


@settings
class Maker(ABC):
    """Makes something of each source image, row by row; its hyper-parameters are its fields."""

    version: ClassVar[int] = 1
    # of what a definition is about: JPEG would be a second change, after that of the definition
    lossless: ClassVar[bool] = False

    @property
    def needs_denoiser(self) -> bool:
        """Whether it works with the experiment's denoiser."""
        return False

    @property
    def together(self) -> int:
        """How many variants of a source are made in one go, because they depend on one another."""
        return 1

    @property
    def latest(self) -> float:
        """The latest time of DiffAug's schedule at which the denoiser is asked."""
        return 0.0

    def sources(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Those of the images of which something is made, in their order; of most methods all."""
        return entries

    def plan(self, sample: Sample, variant: int, context: Context) -> Row:
        """What will be made of a sample as variant number `variant` (from 1), decided without a model."""
        return own_class(sample, variant, context)

    def check(self, own: Listing, names: Sequence[str], k: int) -> None:  # noqa: B027
        """Refuse what cannot be made of a data set, before anything runs; `names` are its classes' words."""

    def check_denoiser(self, model: DenoiserModel) -> None:  # noqa: B027
        """Refuse a denoiser that it cannot work with as it is set."""

    @abstractmethod
    def generate(
        self, rows: Sequence[Row], images: Sequence[np.ndarray], models: Models
    ) -> tuple[Sequence[np.ndarray], Sequence[Label]]:
        """The images (uint8 HWC) and soft labels of the rows, made from their source images."""

    def calls(self, row: Row, backbone: Backbone | None) -> int:
        """The denoiser rows that making a row costs; the same for all rows of one strength."""
        return 0

    def begins(self, row: Row, backbone: Backbone | None) -> float | None:
        """The noise level at which the edit of a row begins, if it is one: with few steps not that of its strength."""
        return None

    @property
    def costs_differ(self) -> bool:
        """Whether rows of one variant may cost differently, so that each must be planned to know what all cost."""
        return False

    def encode(self, made: np.ndarray) -> bytes:
        """What is stored of one result."""
        return encode_image(made, lossless=self.lossless)  # Diff-II's inversions are no images


@settings
class Method(Maker):
    """A way to make images. Raise `version` when its output changes.

    `backbone` is the model it was published with (None for a method that needs none), `finetune` how that one is
    fitted to the data set first.
    """

    backbone: ClassVar[Backbone | None] = STABLE_DIFFUSION
    finetune: ClassVar[tuple[Finetune, ...]] = ()

    @property
    def before(self) -> Maker | None:
        """What must be made of every source first (a stage of its own, shared by whoever asks for the same)."""
        return None

    @property
    def guided_by(self) -> Guide | None:
        """The classifier of noisy images that must be trained first (a stage of its own)."""
        return None

    def notes(self) -> list[str]:
        """What people should know of these settings before anything runs."""
        return []


def check_row(maker: Maker, sample: Sample, variant: int, row: Any) -> Row:
    """A row that a maker planned; refused where it is of something else than was asked for."""
    if isinstance(row, Row) and row.source == sample.id and row.variant == variant:
        return row
    shown = f"variant {row.variant} of {row.source!r}" if isinstance(row, Row) else f"{type(row).__name__}, no Row"
    raise UserError(f"{type(maker).__name__}.plan, variant {variant} of {sample.id!r}: it returned {shown}")


def check_made(maker: Maker, rows: Sequence[Row], made: Any, classes: int) -> tuple[Sequence[np.ndarray], list[Label]]:
    """What a method gave for some rows, its labels as they are stored; refused where images or labels are none: they
    would be trained on silently."""
    name = type(maker).__name__
    if not (isinstance(made, tuple) and len(made) == 2):
        raise UserError(f"{name}.generate returned {type(made).__name__}, not a pair: images, labels")
    images, labels = made
    for what, found in (("images", images), ("labels", labels)):
        if not hasattr(found, "__len__") or len(found) != len(rows):
            count = len(found) if hasattr(found, "__len__") else type(found).__name__
            raise UserError(f"{name}.generate returned {count} {what} for {len(rows)} rows")
    checked: list[Label] = []
    for row, image, label in zip(rows, images, labels, strict=True):
        try:
            _check_image(image)
            checked.append(_checked_label(label, classes))
        except UserError as error:
            raise UserError(f"{name}.generate, variant {row.variant} of {row.source!r}: {error}") from None
    return images, checked


def check_encoded(maker: Maker, rows: Sequence[Row], encoded: Sequence[Any]) -> None:
    """Refuse what a method would store of its images where it is none that can be opened again."""
    for row, data in zip(rows, encoded, strict=True):
        try:
            image_sort(data)
        except Exception:  # whatever Pillow makes of it
            shown = f"{len(data)} bytes of no image" if isinstance(data, bytes) else type(data).__name__
            said = f"{type(maker).__name__}.encode, variant {row.variant} of {row.source!r}: it returned {shown}"
            raise UserError(f"{said}, not the bytes of an image file, as encode_image makes them") from None


def _check_image(image: Any) -> None:
    import numpy as np

    if not isinstance(image, np.ndarray):
        raise UserError(f"{type(image).__name__} is no array")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} of {' x '.join(map(str, image.shape))}"
        raise UserError(f"an image is uint8 of height x width x 3, not {found}")


def _checked_label(label: Any, classes: int) -> Label:
    try:
        given = [(number, weight) for number, weight in label]  # once: an iterator is empty afterwards
        pairs = tuple((int(number), float(weight)) for number, weight in given)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"a label is (class, weight) pairs, not {label!r:.60}") from None
    for (asked, _), (number, _) in zip(given, pairs, strict=True):
        if asked != number:  # cut to a whole number it would be another class
            raise UserError(f"class {asked!r} of a label is no whole number")
        if not 0 <= number < classes:
            raise UserError(f"class {number} of a label is none of 0 to {classes - 1}")
    total = sum(weight for _, weight in pairs)
    if not abs(total - 1) < 1e-6:
        raise UserError(f"the weights of a label sum to {total:g}")
    if any(weight < 0 for _, weight in pairs):
        raise UserError("a weight of a label is negative")
    return pairs
