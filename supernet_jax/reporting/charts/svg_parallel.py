"""Parallel coordinates as inline SVG: an upright axis for each objective, better at the top.

Inselberg, The plane with parallel coordinates, 1985: a subnet is a line from axis to axis, and
where lines of a front cross, one objective is paid for with another.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from supernet_jax.reporting.charts import svg_axes, svg_plot
from supernet_jax.reporting.charts.svg_axes import Scale
from supernet_jax.reporting.charts.svg_plot import Labels, px
from supernet_jax.reporting.html import NOTHING, Html, tag

AXES = 8  # that are drawn
SIDE, TOP, BOTTOM = 62.0, 36.0, 32.0  # pixels around the axes
APART = 76.0  # pixels between axes, at least
LETTER = 5.2  # pixels of one in the name of an axis


@dataclasses.dataclass(frozen=True)
class Axis:
    """An objective: its name with its unit, and whether more of it is better."""

    name: str
    more: bool


@dataclasses.dataclass(frozen=True)
class Threads:
    """Subnets that look alike.

    Attributes:
        name: in the legend.
        kind: CSS class.
        rows: a value for each axis, or None, where the line of a subnet has a gap.
        titles: what each says when hovered; without any, all are one path that says nothing.
    """

    name: str
    kind: str
    rows: Sequence[Sequence[float | None]]
    titles: Sequence[str] = ()


def parallel(axes: Sequence[Axis], groups: Sequence[Threads], labels: Labels) -> Html:
    """A chart of parallel coordinates.

    Args:
        axes: at least two, of which `AXES` are drawn.
        groups: later ones lie on top.
        labels: title and note; the axes are named by themselves.
    """
    axes = axes[:AXES]
    width = max(svg_plot.WIDTH, 2 * SIDE + APART * (len(axes) - 1))
    at = np.linspace(SIDE, width - SIDE, len(axes))
    values = [
        np.array([[np.nan if v is None else v for v in row[: len(axes)]] for row in group.rows])
        for group in groups
        if group.rows
    ]
    scales = [
        _scale(axis, column) for axis, column in zip(axes, np.concatenate(values).T, strict=True)
    ]
    letters = int(min(at[1] - at[0], 2 * SIDE) / LETTER)
    parts = [
        part for a, x, y in zip(axes, at, scales, strict=True) for part in _axis(a, x, y, letters)
    ]
    lines = [(group, _paths(group, at, scales)) for group in groups if group.rows]
    for group, paths in lines:
        drawn = paths if group.titles else ["".join(paths)]
        parts += [tag("path", d=path, class_=f"line {group.kind}") for path in drawn]
    for group, paths in lines:  # wide and unseen, on top: a thin line is hard to hover
        parts += [
            tag("path", tag("title", title), d=path, class_="hit")
            for path, title in zip(paths if group.titles else [], group.titles, strict=True)
        ]
    said = ", ".join(f"{axis.name} ({_better(axis)})" for axis in axes)
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:g} {svg_plot.HEIGHT:g}",
        role="img",
        aria_label=f"{labels.title}: a line for each subnet over the axes {said}",
    )
    names = [(group.name, group.kind, "") for group in groups if group.rows]
    return svg_plot.figure(labels, names, drawing)


def _scale(axis: Axis, values: np.ndarray) -> Scale:
    low, high = svg_plot.HEIGHT - BOTTOM, TOP
    ends = (low, high) if axis.more else (high, low)
    return svg_axes.fit(values, *ends, log=svg_axes.wants_log(values), pad=0.0)


def _better(axis: Axis) -> str:
    return f"{'more' if axis.more else 'less'} is better"


def _axis(axis: Axis, x: float, y: Scale, letters: int) -> Iterator[Html]:
    """The axis with its name, its ends and its direction."""
    low, high = svg_axes.told_apart([y.low, y.high])
    top, bottom = (high, low) if axis.more else (low, high)
    name = axis.name if len(axis.name) <= letters else f"{axis.name[: letters - 1]}…"
    whole = f"{axis.name}: {_better(axis)}{', logarithmic' if y.log else ''}"
    yield tag("path", d=f"M{px(x)} {px(TOP)}V{px(svg_plot.HEIGHT - BOTTOM)}", class_="axis")
    rows = [(TOP - 22, name), (TOP - 7, top)]
    rows += [(svg_plot.HEIGHT - BOTTOM + 13, bottom), (svg_plot.HEIGHT - 5, _better(axis))]
    for place, text in rows:
        title = tag("title", whole) if text is name else NOTHING
        yield tag("text", title, text, x=px(x), y=px(place), class_="middle")


def _paths(group: Threads, at: np.ndarray, scales: Sequence[Scale]) -> list[str]:
    """Data of a path for each row; a value that stands alone between gaps is a short stroke."""
    paths = []
    for row in group.rows:
        runs: list[list[str]] = [[]]
        for x, scale, value in zip(at, scales, row[: len(at)], strict=True):
            if value is None or not np.isfinite(value):
                runs.append([])
            else:
                runs[-1].append(f"{px(x)} {px(scale.at(value))}")
        paths.append("".join(f"M{'L'.join(run)}{'h4' * (len(run) == 1)}" for run in runs if run))
    return paths
