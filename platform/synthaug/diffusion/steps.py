"""Steps: which steps of a schedule an image goes through and how many rows of the denoiser each takes. Pipeline asks
this when it loops and `show` when it counts; torch is not needed for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

GRID = 50  # noise levels that a latent consistency model was distilled on (Luo et al. 2023, skipping step 20)
INVERSE = "DDIMInverseScheduler"

# What diffusers' schedulers do, by class; tests/methods/test_calls.py compares each with the class itself.
_CONSISTENCY = ("LCMScheduler", "TCDScheduler")  # can be told at which level to begin
_SECOND_ORDER = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
_FIRST_LEFT_OUT = (  # place a step more, and leave the one without noise out
    "DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
_LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", INVERSE)  # unless configured; all others: linspace
_BETWEEN = (  # take times between those of the training, where steps do not fall on them
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", *_SECOND_ORDER,
)  # fmt: skip


def scheduler_of(published: str, asked: str | None) -> str:
    """The scheduler that runs: the one that the backbone asks for; but there is only one that goes upwards."""
    return published if asked is None or published == INVERSE else asked


class Part(NamedTuple):
    """The steps that are run: the last `run` of run + skipped, or as many from `level` down, on a consistency grid."""

    run: int
    skipped: int = 0
    level: float | None = None


def part_of(scheduler: str | None, steps: int, strength: float = 1.0, sliced: bool = False) -> Part:
    """The part of `steps` steps that an image noised `strength` of the way goes through. None is the scheduler of any
    method: none was published with a consistency model. `sliced` cuts the steps of those, too."""
    run = max(1, min(int(steps * strength), steps))  # diffusers runs none below 1 / steps: huggingface/diffusers#1867
    if scheduler not in _CONSISTENCY:
        return Part(run, steps - run)
    if sliced:
        return Part(run, steps - run, 1.0)
    # Few steps cannot be cut to fit a strength: diffusers would start four of five at level 0.8 where 0.9 was asked.
    level = max(strength, 1 / GRID)
    return Part(min(run, int(GRID * level)), 0, level)


@dataclass(frozen=True)
class Loop:
    """What all rows of a call share. Guidance is applied between the levels of `guided` only (Kynkaanniemi et al.
    2024); under `split` of the schedule a row's first prompt gives way to its later one."""

    steps: int
    guidance: float
    negative: str = ""
    scheduler: str = "DPMSolverMultistepScheduler"  # what the method was published with
    guided: tuple[float, float] = (0.0, 1.0)
    image_guidance: float | None = None  # None: the model is not shown the source
    split: float = 0.0

    @classmethod
    def instructed(cls, steps: int, guidance: float, image_guidance: float) -> Loop:
        """InstructPix2Pix (Brooks et al. 2023): from pure noise, by a model that is shown the source."""
        return cls(steps, guidance, scheduler="EulerAncestralDiscreteScheduler", image_guidance=image_guidance)

    @classmethod
    def resumed(cls, steps: int, guidance: float, split: float) -> Loop:
        """DDIM from given latents."""
        return cls(steps, guidance, scheduler="DDIMScheduler", split=split)

    @classmethod
    def inverted(cls, steps: int) -> Loop:
        """DDIM inversion, without guidance."""
        return cls(steps, 1.0, scheduler=INVERSE)

    @property
    def uneven(self) -> bool:
        """Whether steps differ in what they cost, so that it matters where they lie."""
        return self.image_guidance is None and self.guidance > 1 and self.guided != (0.0, 1.0)

    def width(self, level: float) -> int:
        """The rows that an image takes when the denoiser is asked at a noise level (a share of the schedule)."""
        if self.image_guidance is not None:
            return 3  # Brooks et al., equation 3: with both conditions, with the image, with neither
        low, high = self.guided
        return 2 if self.guidance > 1 and low <= level <= high else 1


def rows(loop: Loop, scheduler: str, part: Part, config: Mapping[str, Any]) -> int:
    """The denoiser rows that one image costs; `config` is that of the model's own scheduler."""
    return sum(map(loop.width, levels(scheduler, part, config)))


def levels(scheduler: str, part: Part, config: Mapping[str, Any]) -> list[float]:
    """The noise levels at which the denoiser is asked. Sigmas spaced in other ways (Karras' for one) change where the
    steps lie, not how many they are: for those the levels are a guess."""
    total = int(config.get("num_train_timesteps", 1000))
    if part.level is not None:
        grid = _on_grid(scheduler, part.run + part.skipped, part.level, total)
        return [float(t) / total for t in grid[part.skipped :]]
    times = _spaced(scheduler, part.run + part.skipped, total, config)
    if scheduler == "PNDMScheduler":  # as Stable Diffusion has it (skip_prk_steps): the second step is taken twice
        times[1:1] = times[1:2]
    first, *rest = times[part.skipped :]
    if scheduler in _SECOND_ORDER:  # a step asks where it ends, too, but for the last, which ends without noise
        rest = [t for t in rest for _ in range(2)]
    return [float(t) / total for t in (first, *rest)]


def _on_grid(scheduler: str, run: int, level: float, total: int) -> list[Any]:
    """`run` of the times below a level that a consistency model may be asked at, the noisiest first."""
    if scheduler == "TCDScheduler":  # may be asked at any
        grid = np.arange(int(total * level))
    else:
        grid = np.arange(1, int(GRID * level) + 1) * (total // GRID) - 1
    chosen = np.floor(np.linspace(0, len(grid), run, endpoint=False)).astype(np.int64)
    return list(grid[::-1][chosen])


def _spaced(scheduler: str, steps: int, total: int, config: Mapping[str, Any]) -> list[Any]:
    """Times of a schedule, falling; Lin et al. 2023, table 2, as diffusers rounds them."""
    spacing = config.get("timestep_spacing", "leading" if scheduler in _LEADING else "linspace")
    count = steps + 1 if scheduler in _FIRST_LEFT_OUT else steps
    times: np.ndarray
    if spacing == "trailing":
        return list(np.arange(total, 0, -total / steps).round() - 1)
    if spacing == "leading":
        times = np.arange(count) * (total // count) + int(config.get("steps_offset", 0))
    elif scheduler in _BETWEEN:
        times = np.linspace(0, total - 1, count, dtype=np.float32)
    else:
        times = np.linspace(0, total - 1, count).round()
    return list(times[::-1][:steps])
