"""How the embedded CLIP is trained: glyphs and sentences about them, and pictures that show no character."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from synthaug.data import glyphs
from synthaug.nano import captions
from synthaug.nano.train import Average, load_glyphs, optimise
from synthaug.settings import seed_of

NOTHING = len(glyphs.CLASSES)  # the label of a picture that shows no character
SCALE = 100.0  # of the logits: what CLIP learned, and what its users take
# GIF's prompts, which draw a domain and an adjective each. The empty one leaves two spaces, as in its code.
_DOMAINS = ("an image of", "a real-world photo of", "a cartoon image of", "an oil painting of", "a sketch of")
_ADJECTIVES = (
    "", "colorful", "stylized", "high-contrast", "low-contrast", "posterized", "solarized", "sheared", "bright", "dark",
)  # fmt: skip
_EMPTY = ("nothing", "noise", "a texture", "a pattern", "a blank wall", "a scribble", "a background")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training, on one core."""

    glyphs: int = 36_000
    steps: int = 4_000
    batch: int = 160
    rate: float = 1e-3
    threads: int = 1
    seed: int = 0


def kind(word: str) -> str:
    """What sort of character it is."""
    return "digit" if word.isdigit() else "letter"


def sentence(label: int, rng: np.random.Generator) -> str:
    """One of the ways to say what a picture shows."""
    u = rng.random()
    if label == NOTHING:
        frame = "a photo of {}" if u < 0.5 else "{}"
        return frame.format(_EMPTY[rng.integers(len(_EMPTY))])
    word = glyphs.CLASSES[label]
    if u < 0.5:  # what judges ask: CLIP-Multi, GIF, CLIP-Binary with the kind
        plain = ("a photo of a {}", "this is a photo of a {}", "a photo of a {}, a type of {kind}")
        return plain[rng.integers(len(plain))].format(word, kind=kind(word))
    if u < 0.75:
        return captions.TEMPLATES[rng.integers(len(captions.TEMPLATES))].format(word)
    domain = _DOMAINS[rng.integers(len(_DOMAINS))]
    adjective = _ADJECTIVES[rng.integers(len(_ADJECTIVES))]
    return f"{domain} {adjective} {word}"


def question(label: int, rng: np.random.Generator) -> tuple[str, str, float]:
    """A sentence, its denial, and which is true of a picture: 1, 0, or 0.5 where neither is."""
    own = label != NOTHING and rng.random() < 0.5  # else the answer would nearly always be no
    asked = label if own else int(rng.integers(len(glyphs.CLASSES)))
    word, yes = glyphs.CLASSES[asked], "a photo of a {}"
    if rng.random() < 0.6:
        return yes.format(word), f"a photo with no {word}", float(asked == label)
    # UniDiffDA's fine-grained CLIP-Binary, whose denial names the kind.
    sort = kind(word)
    same_sort = label != NOTHING and kind(glyphs.CLASSES[label]) == sort
    asks_sort = rng.random() < 0.3
    truth = float(same_sort)
    if same_sort and not asks_sort and asked != label:
        truth = 0.5  # a 3 is no "7, a type of digit", and "a photo with no digit" is false of it as well
    return yes.format(sort if asks_sort else f"{word}, a type of {sort}"), f"a photo with no {sort}", truth


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Grey glyphs (B1HW in [0, 1]) moved, blurred, tinted, faded and made noisy."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(x), *shape, generator=generator)

    moves = torch.eye(2, 3) + 0.1 * torch.randn(len(x), 2, 3, generator=generator)
    moves[:, :, :2] *= uniform(0.9, 1.25, 1, 1)  # of where pixels are fetched: above 1 shrinks
    grid = F.affine_grid(moves, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    # to 8 x 8 pixels and back, which is what the digits of the package are
    blurred = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="bilinear")
    x = torch.where(uniform(0, 1, 1, 1, 1) < 0.3, blurred, x)
    coloured = uniform(0, 1, 1, 1, 1) < 0.25
    ink, paper = (uniform(0, 1, 3, 1, 1) for _ in range(2))  # B x 3 x 1 x 1
    ink = torch.where(coloured, ink, uniform(0.7, 1.1, 1, 1, 1))
    paper = torch.where(coloured, paper, 0.0)
    amount = 0.1 * uniform(0, 1, 1, 1, 1) ** 2  # squared, so that most pictures have little noise
    x = paper + (ink - paper) * x + amount * torch.randn(x.shape, generator=generator)  # grey noise: one for 3 channels
    # Half of all contrast, and brighter: what a model sees that gets pixels without their normalisation.
    faded = torch.where(uniform(0, 1, 1, 1, 1) < 0.2, 0.48 + 0.27 * x, x)
    return faded.clamp(0, 1)


def empty(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures without a character: shuffled glyphs, noise of some grain, one grey."""
    # The same strokes in another order, cut where the vision model cuts its patches: no patch gives it away.
    tiles = x.unfold(2, 8, 8).unfold(3, 8, 8).reshape(len(x), 16, 8, 8)  # B x 1 x 32 x 32 as sixteen tiles
    order = torch.rand(len(x), 16, generator=generator).argsort(1)
    tiles = tiles[torch.arange(len(x))[:, None], order].reshape(len(x), 4, 4, 8, 8)
    shuffled = tiles.transpose(2, 3).reshape(x.shape)  # rows, columns, height, width: tiles side by side again
    pictures = [shuffled, shuffled]  # two lots of seven
    for side in (1, 3, 6, 12, 32):  # 1: one grey
        grain = torch.rand(len(x), 1, side, side, generator=generator)
        pictures.append(F.interpolate(grain, size=x.shape[2:], mode="bilinear"))
    chosen = torch.randint(len(pictures), (len(x),), generator=generator)
    return torch.stack(pictures)[chosen, torch.arange(len(x))]


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """0.9 million parameters: 17 tokens of width 128 for an image, up to 77 of width 64 for a text."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 64, "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "image_size": glyphs.SIZE, "patch_size": 8, "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 4, "num_attention_heads": 4, "projection_dim": 64, "hidden_act": "gelu",
    }  # fmt: skip
    init = math.log(SCALE)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64, logit_scale_init_value=init))


def contrast(logits: Tensor, labels: Tensor) -> Tensor:
    """CLIP's loss where pictures and sentences of one label all belong together (the targets of SupCon)."""
    same = (labels[:, None] == labels).float()
    target = same / same.sum(1, keepdim=True)  # symmetric in `same`, so it serves both directions
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(folder: Path, budget: Budget) -> None:
    """Train, average the weights and save them as float16 safetensors with tokenizer and preprocessor."""
    torch.set_num_threads(budget.threads)
    torch.manual_seed(seed_of("nano:clip", "initialisation", budget.seed))
    tokenizer = captions.tokenizer()
    model = new_clip(tokenizer)
    model.logit_scale.requires_grad_(False)  # at 100, which users of CLIP take whatever the model says
    average = Average(model)
    turns = np.arange(1, budget.steps + 1) / budget.steps
    rates = budget.rate * np.minimum(turns * 20, 1) * np.cos(0.5 * math.pi * turns) ** 2
    learned = [p for p in model.parameters() if p.requires_grad]
    optimise(learned, _losses(model, tokenizer, budget), rates.tolist(), average)
    shipped: CLIPModel = copy.deepcopy(average.shadow)
    shipped.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": glyphs.SIZE, "width": glyphs.SIZE}
    CLIPImageProcessor(size={"shortest_edge": glyphs.SIZE}, crop_size=side).save_pretrained(folder)


def _losses(model: CLIPModel, tokenizer: CLIPTokenizer, budget: Budget) -> Iterator[Tensor]:
    """Pictures against sentences, and each picture against one sentence and its denial."""
    pixels, labels = load_glyphs(range(budget.glyphs), budget.seed)
    grey = (pixels[:, :1] + 1) / 2
    generator = torch.Generator().manual_seed(seed_of("nano:clip", "batches", budget.seed))
    rng = np.random.default_rng(seed_of("nano:clip", "captions", budget.seed))
    processor = CLIPImageProcessor()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    for step in range(budget.steps):
        rows = torch.randint(len(grey), (budget.batch,), generator=generator)
        x, y = grey[rows], labels[rows]
        bare = budget.batch // 8  # pictures without a character; rows are in random order already
        x, y = torch.cat([empty(x[:bare], generator), x[bare:]]), y.clone()
        y[:bare] = NOTHING
        image = model.get_image_features((augment(x, generator) - mean) / std).pooler_output
        questions = [question(label, rng) for label in y.tolist()]
        sentences = [sentence(label, rng) for label in y.tolist()]
        claims, denials, truths = zip(*questions, strict=True)
        said, yes, no = _read(model, tokenizer, [*sentences, *claims, *denials]).chunk(3)  # B x 64 each
        image = F.normalize(image, dim=1)
        scale = SCALE ** min(1.0, 0.65 + 0.5 * step / budget.steps)  # 20 at first, CLIP's 100 for the last third
        # CLIP-Binary's softmax over two sentences is the sigmoid of the difference of their logits.
        answers = scale * (image * (yes - no)).sum(1)
        truth = torch.tensor(truths)
        known = truth != 0.5
        binary = F.binary_cross_entropy_with_logits(answers[known], truth[known])
        yield contrast(scale * image @ said.T, y) + binary


def _read(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Features of unit length; a text that comes again is read once."""
    unique = list(dict.fromkeys(texts))
    ids = tokenizer(unique, padding=True, return_tensors="pt").input_ids  # to the longest: attention is causal
    features = F.normalize(model.get_text_features(ids).pooler_output, dim=1)
    place = {text: i for i, text in enumerate(unique)}
    return features[torch.tensor([place[text] for text in texts])]
