"""guided-diffusion's network, written here once more from its description."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Original:
    """The UNet under the names of its state dict; a weight that is asked for the first time is drawn."""

    def __init__(
        self, mult: tuple[float, ...] = (1, 2, 2), attention: tuple[int, ...] = (2, 4), layers: int = 1, *,
        width: int = 32, head: int = 16, heads: int | None = None, resamples: bool = True, scale_shift: bool = True,
        classes: int | None = None, out: int = 6, new_order: bool = False, dtype: torch.dtype = torch.float64,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.channels = [int(factor * width) for factor in mult]
        self.attention, self.layers, self.width, self.head, self.heads = attention, layers, width, head, heads
        self.resamples, self.scale_shift, self.classes, self.out = resamples, scale_shift, classes, out
        self.new_order, self.dtype, self.device = new_order, dtype, device
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            if self.device == "meta":
                self.state[name] = torch.empty(shape, device="meta")
            else:
                drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
                self.state[name] = (drawn / max(1, math.prod(shape[1:])) ** 0.5).to(self.dtype)
        return self.state[name]

    def layer(self, name: str, x: Tensor, out: int, kernel: tuple[int, ...] = (), stride: int = 1) -> Tensor:
        """A linear layer, or a convolution of so many dimensions."""
        weight, bias = self.weight(f"{name}.weight", out, x.shape[1], *kernel), self.weight(f"{name}.bias", out)
        if len(kernel) == 2:
            return F.conv2d(x, weight, bias, stride, padding=kernel[0] // 2)
        return F.conv1d(x, weight, bias) if kernel else x @ weight.T + bias

    def norm(self, name: str, x: Tensor) -> Tensor:
        """32 groups, each with mean 0 and variance 1 over its channels and places."""
        grouped = x.reshape(len(x), 32, -1)
        variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        gain, shift = (self.weight(f"{name}.{part}", x.shape[1]).reshape(shape) for part in ("weight", "bias"))
        return x * gain + shift

    def block(self, name: str, x: Tensor, emb: Tensor, out: int, resample: str = "") -> Tensor:
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resample == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        elif resample == "down":
            h, x = ((v[..., ::2, :] + v[..., 1::2, :]) / 2 for v in (h, x))
            h, x = ((v[..., ::2] + v[..., 1::2]) / 2 for v in (h, x))
        h = self.layer(f"{name}.in_layers.2", h, out, (3, 3))
        told = self.layer(f"{name}.emb_layers.1", F.silu(emb), (1 + self.scale_shift) * out)[..., None, None]
        if self.scale_shift:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + told[:, :out]) + told[:, out:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + told)
        h = self.layer(f"{name}.out_layers.3", F.silu(h), out, (3, 3))
        return h + (x if x.shape[1] == out else self.layer(f"{name}.skip_connection", x, out, (1, 1)))

    def attend(self, name: str, x: Tensor) -> Tensor:
        flat, out, c = x.flatten(2), [], self.head if self.heads is None else x.shape[1] // self.heads
        qkv = self.layer(f"{name}.qkv", self.norm(f"{name}.norm", flat), 3 * x.shape[1], (1,))
        for head in range(x.shape[1] // c):
            starts = [i * x.shape[1] + head * c if self.new_order else (3 * head + i) * c for i in range(3)]
            q, k, v = (qkv[:, start : start + c] for start in starts)
            share = (q.transpose(1, 2) @ k / math.sqrt(c)).softmax(-1)  # row: who looks
            out.append(v @ share.transpose(1, 2))
        return x + self.layer(f"{name}.proj_out", torch.cat(out, 1), x.shape[1], (1,)).reshape(x.shape)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = t[:, None].float() * frequencies
        emb = self.layer("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype), 4 * self.width)
        emb = self.layer("time_embed.2", F.silu(emb), 4 * self.width)
        if self.classes is not None:
            emb = emb + self.weight("label_emb.weight", self.classes, 4 * self.width)[y]
        kept, number, scale = [self.layer("input_blocks.0.0", x, self.channels[0], (3, 3))], 1, 1
        for level, channels in enumerate(self.channels):
            for _ in range(self.layers):
                h = self.block(f"input_blocks.{number}.0", kept[-1], emb, channels)
                kept.append(self.attend(f"input_blocks.{number}.1", h) if scale in self.attention else h)
                number += 1
            if level + 1 < len(self.channels):
                name = f"input_blocks.{number}.0"
                if self.resamples:
                    kept.append(self.block(name, kept[-1], emb, channels, "down"))
                else:
                    kept.append(self.layer(f"{name}.op", kept[-1], channels, (3, 3), stride=2))
                number, scale = number + 1, 2 * scale
        h = self.block("middle_block.0", kept[-1], emb, kept[-1].shape[1])
        h = self.block("middle_block.2", self.attend("middle_block.1", h), emb, h.shape[1])
        number = 0
        for level, channels in reversed(list(enumerate(self.channels))):
            for i in range(self.layers + 1):
                h = self.block(f"output_blocks.{number}.0", torch.cat([h, kept.pop()], 1), emb, channels)
                parts = 1
                if scale in self.attention:
                    h, parts = self.attend(f"output_blocks.{number}.1", h), 2
                if level and i == self.layers:
                    name, scale = f"output_blocks.{number}.{parts}", scale // 2
                    if self.resamples:
                        h = self.block(name, h, emb, channels, "up")
                    else:
                        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                        h = self.layer(f"{name}.conv", h, channels, (3, 3))
                number += 1
        return self.layer("out.2", F.silu(self.norm("out.0", h)), self.out, (3, 3))


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def drawn(original: Original, size: int = 8) -> dict[str, Tensor]:
    """The weights of a network, drawn by asking it once."""
    y = None if original.classes is None else torch.tensor([0])
    original(noise(1, 3, size, size, dtype=original.dtype), torch.tensor([1]), y)
    return original.state
