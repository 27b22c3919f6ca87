"""How much of the metric's variance each decision makes, as bars."""

import numpy as np

from supernet_jax.experiment.importance import BARS, Importance, Part
from supernet_jax.reporting.charts import svg_axes, svg_plot
from supernet_jax.reporting.charts.svg_axes import Scale
from supernet_jax.reporting.charts.svg_plot import Labels, px
from supernet_jax.reporting.html import Html, join, tag

WIDTH, LEFT, RIGHT = 460.0, 140.0, 46.0
ROW, TOP, FOOT = 17.0, 6.0, 34.0
LETTERS = 22  # of a name that fit at the left


def chart(found: Importance, metric: str) -> Html:
    """The bars of the parts that explain most, each with its range over the cuttings.

    Args:
        found: what decisions explain.
        metric: its name.
    """
    order = found.order()[:BARS]
    shares = 100 * found.shares[:, order]
    height = TOP + ROW * len(order) + FOOT
    x = Scale(0.0, max(float(shares.max()) * 1.04, 1.0), LEFT, WIDTH - RIGHT)
    parts: list[Html] = []
    for value, text in svg_axes.labelled(x):
        at = px(x.at(value))
        parts.append(tag("path", d=f"M{at} {px(TOP)}V{px(height - FOOT)}", class_="grid"))
        parts.append(tag("text", text, x=at, y=px(height - FOOT + 14), class_="middle"))
    for row, place in enumerate(order):
        part = found.parts[place]
        parts.append(_bar(part, shares[:, row], row, x))
    label = f"share of the {metric}'s explained variance, %"
    middle = px((x.start + x.stop) / 2)
    parts.append(tag("text", label, x=middle, y=px(height - 4), class_="middle"))
    left = len(found.parts) - len(order)
    note = (
        f"From {found.subnets:,} subnets: what half of them tell explains {found.explained:.0%} of "
        "the variance of the other half. Thin lines are ranges over random halves. A decision that "
        "does nothing is near 0; grey bars are decisions of one name together."
        f"{f' {left} more explain less.' if left else ''}"
    )
    names = [("a decision", "c0", "square"), ("several", "scored", "square")]
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=f"How much each decision matters: {label}",
    )
    shown = names[: 1 + any(len(found.parts[i].decisions) > 1 for i in order)]
    return svg_plot.figure(Labels("How much each decision matters", "", "", note), shown, drawing)


def _bar(part: Part, shares: np.ndarray, row: int, x: Scale) -> Html:
    """A row: name, bar, range and number."""
    y = TOP + ROW * row + ROW / 2
    name, mean, low, high = part.name, shares.mean(), shares.min(), shares.max()
    said = f"{name}: {mean:.1f} % of the explained variance\n"
    said += f"{low:.1f} to {high:.1f} over random halves"
    short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
    start, stop = float(x.start), float(x.at(max(mean, 0.0)))
    return join(
        tag("text", tag("title", name), short, x=px(LEFT - 6), y=px(y), dy="0.35em", class_="end"),
        tag(
            "rect",
            tag("title", said),
            x=px(start),
            y=px(y - ROW / 2 + 2.5),
            width=px(max(stop - start, 0.5)),
            height=px(ROW - 5),
            rx="2",
            class_=f"bar {'c0' if len(part.decisions) == 1 else 'scored'}",
        ),
        tag("path", d=f"M{px(x.at(low))} {px(y)}H{px(x.at(high))}", class_="range"),
        tag("text", f"{mean:.1f}", x=px(x.at(max(mean, high)) + 5), y=px(y), dy="0.35em"),
    )
