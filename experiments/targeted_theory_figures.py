"""The two figures of targeted_theory.py."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.planted import DEMO
from synthaug.evaluate.stats import mean_interval


def draw_ways(ways: dict[str, Any]) -> str:
    """GD and SAM above, Upsample and Generate below: the mean of seeds, and its interval as a band."""
    sam, arms = ways["SAM demo True"], ways["noisy, batch 0, both True"]
    above = {("GD" if r == 0 else f"SAM, rho {r * DEMO.init:.2g}"): sam[r] for r in (0.0, 0.3, 1.0)}
    below = {name: arms[name] for name in ("original", "Upsample 3", "Generate 3")}
    figure, axes = subplots(2, 4)
    keys = (
        ("fast feature", "slow feature", "noise", "noise of fast items"),
        ("slow feature", "noise", "training loss", "test loss"),
    )
    for row, lines, names in zip(axes, (above, below), keys, strict=True):
        for axis, name in zip(row, names, strict=True):
            for number, (label, way) in enumerate(lines.items()):
                at = np.arange(0, len(way[name]), len(way[name]) // 10)
                band(axis, 10 * at, np.array([mean_interval(each) for each in way[name].numpy()[at]]), label, number)
            axis.set(title=name.replace("noise", "noise of slow items") if name == "noise" else name, xlabel="step")
        row[0].legend(frameon=False, fontsize=7)
    return svg(figure)


def draw_tolerance(swept: dict[str, Any], qs: Sequence[float]) -> str:
    """Generate minus Upsample over the generator's noise; dashed where first order says that they are equal."""
    figure, axes = subplots(1, 3)
    for axis, name in zip(axes[0], ("one step, l = 1/2", "noise", "test loss"), strict=True):
        for number, (k, row) in enumerate(swept.items()):
            scale = max(abs(each[0]) for each in row[name]["difference"])
            band(axis, np.array(qs), np.array(row[name]["difference"]) / scale, f"k = {k}", number)
            axis.axvline(row["first order"], color=f"C{number}", linestyle="--", linewidth=0.8)
        axis.axhline(0, color="black", linewidth=0.6)
        title = {"one step, l = 1/2": "noise after one step", "noise": "noise at the end"}.get(name, name)
        axis.set(title=title, xlabel="q", ylim=(-1.2, 1.2))
    axes[0][0].set_ylabel("Generate - Upsample, scaled")
    axes[0][0].legend(frameon=False, fontsize=7)
    return svg(figure)


def subplots(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure((2.6 * columns, 2.5 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.title.set_fontsize(8)
    return figure, axes


def band(axis: Any, x: np.ndarray, rows: np.ndarray, label: str, number: int) -> None:
    axis.plot(x, rows[:, 0], color=f"C{number}", label=label, linewidth=1.4)
    axis.fill_between(x, rows[:, 1], rows[:, 2], color=f"C{number}", alpha=0.15, linewidth=0)


def svg(figure: Any) -> str:
    """As text, the same bytes each time."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "targeted_theory", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
