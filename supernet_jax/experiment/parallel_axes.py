"""Parallel coordinates with Matplotlib: an upright axis for each objective, better at the top."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # whose import takes time that a training need not

LOG_FROM = 20.0  # ratio of largest to smallest from which a logarithmic axis shows more


class Axis(NamedTuple):
    """An objective: its name with its unit, and whether more of it is better."""

    name: str
    more: bool


def draw(ax: "Axes", axes: Sequence[Axis], chosen: np.ndarray, others: np.ndarray) -> None:
    """Draws a line for each subnet.

    Args:
        ax: Matplotlib axes to draw into.
        axes: at least two.
        chosen: values of the front, `[N, axes]`; NaN where one is not known.
        others: values of what else was scored, `[M, axes]`, drawn pale below the front.
    """
    both = np.concatenate([chosen, others])
    places = np.arange(len(axes))
    heights = np.stack([_height(a, both[:, i]) for i, a in enumerate(axes)], axis=-1)
    if len(others):
        ax.plot(places, heights[len(chosen) :].T, color="0.85", linewidth=0.6, zorder=1)
    ax.plot(places, heights[: len(chosen)].T, ".-", color="tab:blue", linewidth=1.2, zorder=3)
    for i, axis in enumerate(axes):
        known = np.sort(both[np.isfinite(both[:, i]), i])
        ends = [_shown(known[0]), _shown(known[-1])] if known.size else ["", ""]
        worst, best = ends if axis.more else ends[::-1]
        ax.axvline(i, color="0.4", linewidth=0.8, zorder=2)
        name = f"{axis.name}\n{'more' if axis.more else 'less'} is better"
        for y, text, side in ((1.03, best, "bottom"), (-0.03, worst, "top")):
            ax.text(i, y, text, ha="center", va=side, fontsize="small")
        ax.text(i, -0.11, name, ha="center", va="top", fontsize="small", parse_math=False)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlim(-0.2, len(axes) - 0.8)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _shown(value: float) -> str:
    """A number with a prefix from 1,000 on: thousandths of a unit need none."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(places=2)(value) if value >= 1000 else f"{value:.4g}"


def _height(axis: Axis, values: np.ndarray) -> np.ndarray:
    """From 0 for the worst to 1 for the best; in the middle where all are equal."""
    known = values[np.isfinite(values)]
    if not known.size:
        return values
    if known.min() > 0 and known.max() / known.min() >= LOG_FROM:
        values, known = np.log(values), np.log(known)
    spread = known.max() - known.min()
    up = (values - known.min()) / spread if spread > 0 else np.where(np.isnan(values), values, 0.5)
    return up if axis.more else 1 - up
