"""What happens to images in a computer: contrast, colours, small bends, large pixels, JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from synthaug.evaluate.corruptions.dice import Corruption, Dice, each
from synthaug.evaluate.corruptions.lines import along, box, gaussian


def contrast(images: Tensor, dice: Dice, factor: float) -> Tensor:
    """Towards the mean colour."""
    return torch.lerp(images.mean((2, 3), keepdim=True), images, factor)


def brightness(images: Tensor, dice: Dice, more: float) -> Tensor:
    """More value in HSV: hue and saturation stay, so all channels grow by one factor; black becomes grey."""
    value = images.amax(1, keepdim=True)  # V of HSV
    lighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (lighter / value.clamp(min=1e-6)), lighter)


def saturate(images: Tensor, dice: Dice, factor: float, more: float) -> Tensor:
    """Another saturation in HSV. Grey counts as red, so where `more` is not 0 it reddens (as in the published sets)."""
    value = images.amax(1, keepdim=True)
    # S = depth / V, and a channel is V (1 - S share): only S is changed, hue is in the shares
    below = value - images
    depth = below.amax(1, keepdim=True)
    grey = torch.tensor([0.0, 1.0, 1.0], device=images.device)[:, None, None].expand_as(images)
    share = torch.where(depth > 0, below / depth.clamp(min=1e-6), grey)  # of the saturation, how much each loses
    return value * (1 - share * (depth / value.clamp(min=1e-6) * factor + more).clamp(0, 1))


def elastic_transform(images: Tensor, dice: Dice, alpha: float, sigma: float, slack: float) -> Tensor:
    """Three points move by up to `slack`, then each pixel by up to `alpha` times what a blur leaves of noise."""
    # the strengths are published in pixels, as parts of 32 or 244
    images = tilt(images, dice.uniform(3, 2, low=-slack, high=slack))
    high, wide = images.shape[2:]
    moves = alpha * along(dice.uniform(2, high, wide, low=-1), gaussian(sigma, truncate=3, mirrored=True))
    size = torch.tensor([wide, high], device=images.device)
    # pixels (x, y) to grid_sample's [-1, 1], whose ends are the outer edges of the border pixels
    places = ((grid(images) + moves.permute(0, 2, 3, 1)) * 2 + 1) / size - 1
    return grid_sample(images, places, padding_mode="reflection", align_corners=False)


def tilt(images: Tensor, moves: Tensor) -> Tensor:
    """The affine map that takes three points around the middle to moved ones (B 3 2, x first); borders are mirrored."""
    high, wide = images.shape[2:]
    around = torch.tensor([[1, 1], [1, -1], [-1, -1]]) * (min(high, wide) // 3)
    points = (torch.tensor([wide // 2, high // 2]) + around).to(images).expand_as(moves)
    # [x' y' 1] A = [x y]: solved for the map from moved to old points, which is the one a sampler needs
    moved = torch.cat([points + moves, torch.ones_like(moves[..., :1])], 2)  # B 3 3
    back = torch.linalg.solve(moved, points)  # B 3 2
    places = torch.einsum("hwi,bij->bhwj", grid(images), back[:, :2]) + back[:, None, None, 2]
    # here the ends are the centres of the border pixels, about which the image is mirrored
    places = places * 2 / torch.tensor([wide - 1, high - 1], device=images.device) - 1
    return grid_sample(images, places, padding_mode="reflection", align_corners=True)


def grid(images: Tensor) -> Tensor:
    """The coordinates of all pixels: H W 2, x first."""
    row, column = (torch.arange(size, device=images.device, dtype=images.dtype) for size in images.shape[2:])
    return torch.stack(torch.meshgrid(column, row, indexing="xy"), 2)


def pixelate(images: Tensor, dice: Dice, scale: float) -> Tensor:
    """Fewer pixels, then as many as before."""
    small = along(images, lambda size: box(int(size * scale))(size))
    high, wide = images.shape[2:]
    # the same filter enlarging, where it covers one pixel, the nearest
    up, across = (box(size)(int(size * scale)).to(images) for size in (high, wide))
    return up @ small @ across.T


def jpeg_compression(images: Tensor, dice: Dice, quality: float) -> Tensor:
    """Through Pillow's JPEG, image by image."""
    # B H W C in whole levels, which is what the images were before they were scaled
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    packed = np.stack([_through_jpeg(image, int(quality)) for image in pixels])
    return torch.from_numpy(packed).to(images.device).permute(0, 3, 1, 2) / 255


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


CORRUPTIONS = {
    "contrast": Corruption(contrast, each(0.75, 0.5, 0.4, 0.3, 0.15), each(0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": Corruption(brightness, each(0.05, 0.1, 0.15, 0.2, 0.3), each(0.1, 0.2, 0.3, 0.4, 0.5)),
    "saturate": Corruption(
        saturate,
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "elastic_transform": Corruption(
        elastic_transform,
        ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
        ((488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)),
    ),
    "pixelate": Corruption(pixelate, each(0.95, 0.9, 0.85, 0.75, 0.65), each(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(jpeg_compression, each(80, 65, 58, 50, 40), each(25, 18, 15, 10, 7)),
}
