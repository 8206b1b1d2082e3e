"""Pictures that people look at: galleries of real and made images, confusion matrices, curves."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthaug.data.sample import decode_image, resize_image
from synthaug.evaluate.base import Curve


def gallery(lines: Sequence[Sequence[bytes]], tile: int = 64) -> np.ndarray:
    """A row of encoded images for each line: a real one, then its variants."""
    tile = max(tile, 128) if len(lines) < 6 else tile
    rows = []
    for line in lines:
        tiles = [_framed(resize_image(decode_image(data), tile), first=n == 0) for n, data in enumerate(line)]
        rows.append(np.concatenate(tiles, 1))
    return np.concatenate(rows, 0)


def tiles(rows: Sequence[Sequence[bytes]], tile: int = 48) -> np.ndarray:
    """Rows of encoded images, which need not be equally long."""
    width = max((len(row) for row in rows), default=1)
    white = np.full((tile + 4, tile + 4, 3), 255, np.uint8)
    shown = [
        [_framed(resize_image(decode_image(data), tile), first=False)[:, : tile + 4] for data in row] for row in rows
    ]
    return np.concatenate([np.concatenate([*row, *[white] * (width - len(row))], 1) for row in shown] or [white], 0)


def _framed(pixels: np.ndarray, first: bool) -> np.ndarray:
    """A tile with a margin; the real image gets a wider gap to its right."""
    return np.pad(pixels, ((2, 2), (2, 10 if first else 2), (0, 0)), constant_values=255)


def confusion(matrix: Sequence[Sequence[int]], cell: int = 24) -> np.ndarray:
    """True classes down, predictions across, the share of the true class as darkness."""
    counts = np.asarray(matrix, float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = max(1, min(cell, 960 // len(share)))
    grey = (255 * (1 - share)).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(grey, cell, 0), cell, 1)[..., None], 3, 2)


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour for each name, the same in every figure; after ten they come again."""
    return {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(names))}


def curves(lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]], of: Mapping[str, str], ylabel: str) -> str:
    """A thin line for each run and a thick one for their mean; as an inline SVG."""
    axes = _figure(6.4, 3.4)
    for name, runs in lines.items():
        colour = of[name]
        for run in runs:
            axes.plot(*zip(*run, strict=True), color=colour, alpha=0.2, linewidth=0.8)
        if runs and len({len(run) for run in runs}) == 1:
            mean = np.mean(np.array(runs, float), 0)
            axes.plot(mean[:, 0], mean[:, 1], color=colour, linewidth=2, label=name)
    return _svg(axes, "optimiser step", ylabel)


def bars(gains: Mapping[str, Sequence[float]], of: Mapping[str, str], classes: Sequence[str], ylabel: str) -> str:
    """Per class one bar for each name; as an inline SVG."""
    axes = _figure(max(6.4, min(24, 0.25 * len(classes) * len(gains))), 3.0)
    width = 0.8 / max(1, len(gains))
    for number, (name, values) in enumerate(gains.items()):
        axes.bar(np.arange(len(values)) + number * width, values, width, label=name, color=of[name])
    axes.set_xticks(
        np.arange(len(classes)) + 0.4 - width / 2, classes, fontsize=7, rotation=45 if len(classes) > 15 else 0
    )
    axes.axhline(0, color="black", linewidth=0.6)
    return _svg(axes, "", ylabel)


def scatter(
    dots: Mapping[str, tuple[float, float, float | None]], front: Sequence[str], of: Mapping[str, str], xlabel: str,
    ylabel: str,
) -> str:  # fmt: skip
    """Dots at (x, y) with half an interval in y, the front joined; as an SVG."""
    axes = _figure(6.4, 3.8)
    axes.plot(*zip(*[dots[name][:2] for name in front], strict=True), color="grey", linewidth=1, zorder=0)
    for name, (x, y, half) in dots.items():
        axes.errorbar(x, y, yerr=half, fmt="o", color=of[name], markersize=5, linewidth=1)
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7)
    across = [x for x, _, _ in dots.values()]
    if max(across) > 5 * min(across):
        axes.set_xscale("log")
    return _svg(axes, xlabel, ylabel, legend=False)


def heat(
    means: Mapping[tuple[int, int], float], texts: Mapping[tuple[int, int], str], columns: Sequence[float],
    rows: Sequence[float], xlabel: str, ylabel: str,
) -> str:  # fmt: skip
    """Numbers in cells (row, column), which need not all be there; as an SVG."""
    axes = _figure(1.2 + 0.9 * len(columns), 1.0 + 0.55 * len(rows))
    grid = np.full((len(rows), len(columns)), np.nan)
    for place, value in means.items():
        grid[place] = value
    low, high = np.nanmin(grid), np.nanmax(grid)
    axes.imshow(grid, cmap="viridis", origin="lower", aspect="auto", vmin=low, vmax=max(high, low + 1e-9))
    for (row, column), text in texts.items():
        dark = grid[row, column] < (low + high) / 2
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows], fontsize=8)
    return _svg(axes, xlabel, ylabel, legend=False)


def plot(curve: Curve) -> str:
    """What an evaluation found along an axis; as an SVG. `y` is one line of numbers, or several by name."""
    axes = _figure(4.8, 3.2)
    lines = curve["y"] if isinstance(curve["y"], dict) else {"": curve["y"]}
    for name, values in lines.items():
        axes.plot(curve["x"], values, label=name, linewidth=1.5)
    return _svg(axes, curve["label"][0], curve["label"][1], legend=len(lines) > 1)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _svg(axes: Any, xlabel: str, ylabel: str, legend: bool = True) -> str:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if legend:
        axes.legend(frameon=False, fontsize=8)
    out = io.StringIO()
    axes.figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def decoded(picture: str) -> np.ndarray:
    """An image that came as base64 text."""
    return decode_image(base64.b64decode(picture))


def png(pixels: np.ndarray) -> str:
    """An image as a PNG in base64."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
