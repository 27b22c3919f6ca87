"""Charts as inline SVG: lines with their range, scattered points, histograms.

Colours, light and dark, come from classes in `style.css`. What is hovered has a `<title>`, which
browsers show without any script.

Matplotlib, which draws `front.png`, is not used here. Its SVG has fixed colours, so that a page
cannot be light and dark, and nothing that says its values when hovered: each point would have to be
drawn by itself, under an id, and the text be rewritten. A scatter chart of 500 points is 71 kB here
with what each of them says, 106 kB there without (8 and 258 ms on two cores); three lines of 396
columns with their bands are 44 kB here and 98 kB there. Charts by a script would need a library in
the page or a network, and a report is one file that is read without either.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from supernet_jax.experiment import point_names
from supernet_jax.reporting.charts import svg_axes
from supernet_jax.reporting.charts.downsample import Columns
from supernet_jax.reporting.charts.svg_axes import Scale
from supernet_jax.reporting.html import NOTHING, Html, join, tag

WIDTH, HEIGHT = 460.0, 262.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 10.0, 10.0, 40.0
COLUMNS = int(WIDTH - LEFT - RIGHT)  # of a long series: one per pixel
HOVERED = 100  # places of a line chart that say their values
DOTTED = 40  # series of fewer points show them
MARKS = 200  # events drawn in one chart
LETTER, LINE = 4.2, 9.0  # pixels of a letter and of a line in the names of points
SHAPES = {
    "circle": "M-{0} 0a{0} {0} 0 1 0 {1} 0a{0} {0} 0 1 0 -{1} 0z",
    "diamond": "M0 -{2}L{2} 0L0 {2}L-{2} 0z",
    "triangle": "M0 -{2}L{2} {0}L-{2} {0}z",
    "square": "M-{0} -{0}h{1}v{1}h-{1}z",
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A series of a line chart.

    Attributes:
        name: in the legend, unless the y axis is called so, too.
        kind: CSS class that gives the colour.
        data: what is drawn: the mean as a line, from low to high as a band.
    """

    name: str
    kind: str
    data: Columns


@dataclasses.dataclass(frozen=True)
class Mark:
    """Something that happened at a place of the x axis: a tick with a text."""

    x: float
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Points:
    """Points of a scatter chart that look alike.

    Attributes:
        name: in the legend.
        kind: CSS class.
        shape: one of `SHAPES`.
        size: radius, pixels.
        x: `[N]`.
        y: `[N]`.
        titles: what each says when hovered.
        joined: "steps" draws the front that they are, "" only the points.
        names: written beside those of them that have room; none, or `[N]`.
    """

    name: str
    kind: str
    shape: str
    size: float
    x: Sequence[float]
    y: Sequence[float]
    titles: Sequence[str]
    joined: str = ""
    names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is written on a chart.

    Attributes:
        title: above it.
        x: name of the x axis.
        y: name of the y axis.
        note: a sentence below it, or nothing.
    """

    title: str
    x: str
    y: str
    note: str = ""


def lines(
    series: Sequence[Line], labels: Labels, *, log: bool | None = None, marks: Sequence[Mark] = ()
) -> Html:
    """A line chart.

    Args:
        series: at least one point in all.
        labels: what is written on it.
        log: whether the y axis is logarithmic; None where that shows more.
        marks: events, drawn at the foot of the chart.
    """
    ys = np.concatenate([np.r_[s.data.low, s.data.high] for s in series])
    xs = np.concatenate([s.data.x for s in series])
    x = svg_axes.fit(xs, LEFT, WIDTH - RIGHT, pad=0.01)
    y = svg_axes.fit(
        ys, HEIGHT - BOTTOM, TOP, log=svg_axes.wants_log(ys) if log is None else log, pad=0.06
    )
    drawn = [part for one in series for part in _line(one, x, y)]
    body = join(*drawn, *_hovers(series, x, labels), *_marks(marks, x))
    names = [(s.name, s.kind, "") for s in series if s.data.x.size and s.name != labels.y]
    names += list({m.kind: (m.kind, m.kind, "triangle") for m in marks}.values())
    return figure(labels, names, frame(x, y, labels, body))


def scatter(groups: Sequence[Points], labels: Labels, *, diagonal: bool = False) -> Html:
    """A scatter chart; the x axis is logarithmic where that shows more.

    Args:
        groups: at least one point in all; later ones lie on top.
        labels: what is written on it.
        diagonal: whether both axes are alike, with the line where they are equal.
    """
    xs = np.concatenate([np.asarray(g.x, np.float64) for g in groups])
    ys = np.concatenate([np.asarray(g.y, np.float64) for g in groups])
    x = svg_axes.fit(xs, LEFT, WIDTH - RIGHT, log=svg_axes.wants_log(xs) and not diagonal)
    y = svg_axes.fit(ys, HEIGHT - BOTTOM, TOP, pad=0.06)
    equal = NOTHING
    if diagonal:
        ends = np.array([max(x.low, y.low), min(x.high, y.high)])
        if ends[0] < ends[1]:
            equal = tag("path", d=_path(x.at(ends), y.at(ends)), class_="equal")
    drawn = [part for group in groups for part in _points(group, x, y)]
    body = join(equal, *drawn, *_names(groups, x, y))
    names = [(g.name, g.kind, g.shape) for g in groups if len(g.x)]
    return figure(labels, names, frame(x, y, labels, body))


def histogram(
    values: np.ndarray, labels: Labels, *, kind: str, bins: int = 40, low: float, high: float
) -> Html:
    """How often values fall into each of the bins from `low` to `high`."""
    counts, edges = np.histogram(values, bins=bins, range=(low, max(high, low + 1)))
    x = svg_axes.fit(edges, LEFT, WIDTH - RIGHT, pad=0.01)
    top = svg_axes.fit(np.r_[0, counts], HEIGHT - BOTTOM, TOP)
    y = Scale(0.0, top.high, HEIGHT - BOTTOM, TOP)
    bars = [
        tag(
            "rect",
            tag("title", f"{svg_axes.short(edges[i])} to {svg_axes.short(edges[i + 1])}: {n:,}"),
            x=px(x.at(edges[i]) + 0.5),
            y=px(y.at(float(n))),
            width=px(max(float(x.at(edges[i + 1]) - x.at(edges[i])) - 1, 0.5)),
            height=px(y.start - float(y.at(float(n)))),
            class_=f"bar {kind}",
        )
        for i, n in enumerate(counts)
        if n
    ]
    return figure(labels, [], frame(x, y, labels, join(*bars)))


def figure(labels: Labels, names: Sequence[tuple[str, str, str]], drawing: Html) -> Html:
    """A drawing with its title, its legend and its note.

    Args:
        labels: what is written around it.
        names: in the legend: text, CSS class, and one of `SHAPES`, or "" for a line.
        drawing: an `svg` element.
    """
    legend = [tag("span", _swatch(kind, shape), name, class_="key") for name, kind, shape in names]
    note = tag("p", labels.note, class_="note") if labels.note else NOTHING
    return tag(
        "figure",
        tag("figcaption", tag("strong", labels.title), *legend),
        drawing,
        note,
        class_="chart",
    )


def _swatch(kind: str, shape: str) -> Html:
    if shape:
        drawn = tag("path", d=marker(shape, 4), transform="translate(8 6)", class_=f"dot {kind}")
    else:
        drawn = tag("path", d="M0 6H16", class_=f"line {kind}")
    return tag("svg", drawn, viewBox="0 0 16 12", class_="swatch", aria_hidden="true")


def frame(
    x: Scale,
    y: Scale,
    labels: Labels,
    body: Html,
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    about: int = 5,
) -> Html:
    """Grid, ticks and names of the axes around what is drawn.

    Args:
        x: the axis below.
        y: the axis at the left.
        labels: names of the axes.
        body: what is drawn.
        size: width and height, pixels.
        about: roughly how many ticks.
    """
    width, height = size
    parts: list[Html] = []
    for value, text in svg_axes.labelled(y, about=about):
        at = px(y.at(value))
        parts.append(tag("path", d=f"M{px(x.start)} {at}H{px(x.stop)}", class_="grid"))
        parts.append(tag("text", text, x=px(x.start - 6), y=at, dy="0.35em", class_="end"))
    for value, text in svg_axes.labelled(x, about=about):
        at = px(x.at(value))
        parts.append(tag("path", d=f"M{at} {px(y.start)}v4", class_="axis"))
        parts.append(tag("text", text, x=at, y=px(y.start + 16), class_="middle"))
    middle = (y.start + y.stop) / 2
    parts += [
        tag("path", d=f"M{px(x.start)} {px(y.start)}H{px(x.stop)}", class_="axis"),
        tag("text", labels.x, x=px((x.start + x.stop) / 2), y=px(height - 6), class_="middle"),
        tag(
            "text",
            labels.y,
            transform=f"translate(11 {px(middle)}) rotate(-90)",
            class_="middle",
        ),
    ]
    return tag(
        "svg",
        *parts,
        body,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=f"{labels.title}: {labels.y} over {labels.x}",
        data_x=_written(x),
        data_y=_written(y),
    )


def _written(scale: Scale) -> str:
    """An axis for scripts that mark a place: both ends, their pixels, and whether it is
    logarithmic.
    """
    return f"{scale.low!r} {scale.high!r} {px(scale.start)} {px(scale.stop)} {int(scale.log)}"


def _line(series: Line, x: Scale, y: Scale) -> list[Html]:
    data = series.data
    if data.x.size == 0:
        return []
    at, mean = x.at(data.x), y.at(data.mean)
    parts = []
    if np.any(data.high > data.low):
        low, high = y.at(data.low), y.at(data.high)
        outline = _path(np.r_[at, at[::-1]], np.r_[high, low[::-1]]) + "z"
        parts.append(tag("path", d=outline, class_=f"band {series.kind}"))
    parts.append(tag("path", d=_path(at, mean), class_=f"line {series.kind}"))
    if len(at) <= DOTTED:
        dots = "".join(
            f"M{px(a - 2)} {px(m)}a2 2 0 1 0 4 0a2 2 0 1 0 -4 0z"
            for a, m in zip(at, mean, strict=True)
        )
        parts.append(tag("path", d=dots, class_=f"dot {series.kind}"))
    return parts


def _hovers(series: Sequence[Line], x: Scale, labels: Labels) -> list[Html]:
    """Invisible strips that say what all series are at their places."""
    places = np.unique(np.concatenate([s.data.x for s in series]))
    parts = np.array_split(places, min(HOVERED, len(places)))
    ends = np.array([(part[0], part[-1]) for part in parts])
    edges = np.r_[x.start, (x.at(ends[1:, 0]) + x.at(ends[:-1, 1])) / 2, x.stop]
    strips = []
    for i, (first, last) in enumerate(ends):
        where = f"{first:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"
        said = [f"{labels.x} {where}", *(_value(s, first, last) for s in series)]
        strips.append(
            tag(
                "rect",
                tag("title", "\n".join(one for one in said if one)),
                x=px(edges[i]),
                y=px(TOP),
                width=px(edges[i + 1] - edges[i]),
                height=px(HEIGHT - BOTTOM - TOP),
                class_="hover",
            )
        )
    return strips


def _value(series: Line, first: float, last: float) -> str:
    """Mean and range of a series over some places; nothing where it has none."""
    data = series.data
    own = (data.x >= first) & (data.x <= last)
    if not own.any():
        return ""
    low, high = data.low[own].min(), data.high[own].max()
    said = f"{series.name} {data.mean[own].mean():.4g}"
    return f"{said} ({low:.4g} to {high:.4g})" if high > low else said


def _marks(marks: Sequence[Mark], x: Scale) -> list[Html]:
    """Triangles at the foot of the chart; of those at the same pixel the first stands for all."""
    spread = {(round(float(x.at(mark.x))), mark.kind): mark for mark in reversed(marks)}
    shown = sorted(spread.items())
    shown = shown[:: max(1, -(-len(shown) // MARKS))]
    return [
        tag(
            "path",
            tag("title", mark.text),
            d=marker("triangle", 4),
            transform=f"translate({at} {px(HEIGHT - BOTTOM - 4)})",
            class_=f"dot {kind}",
        )
        for (at, kind), mark in shown
    ]


def _points(group: Points, x: Scale, y: Scale) -> list[Html]:
    at_x, at_y = x.at(np.asarray(group.x)), y.at(np.asarray(group.y))
    parts = []
    if group.joined and len(at_x) > 1:
        order = np.argsort(at_x, kind="stable")
        right = np.repeat(at_x[order], 2)[1:]
        parts.append(
            tag("path", d=_path(right, np.repeat(at_y[order], 2)[:-1]), class_=f"line {group.kind}")
        )
    parts += [
        tag(
            "path",
            tag("title", title),
            d=marker(group.shape, group.size),
            transform=f"translate({px(a)} {px(b)})",
            class_=f"dot {group.kind}",
        )
        for a, b, title in zip(at_x, at_y, group.titles, strict=True)
    ]
    return parts


def _names(groups: Sequence[Points], x: Scale, y: Scale) -> list[Html]:
    """Names of points, clear of all points that may have one."""
    named = [
        (float(x.at(a)), float(y.at(b)), name, group.kind)
        for group in groups
        if group.names
        for a, b, name in zip(group.x, group.y, group.names, strict=True)
    ]
    if not named:
        return []
    widths = [LETTER * len(name) for _, _, name, _ in named]
    others = [(x.at(np.asarray(g.x)), y.at(np.asarray(g.y))) for g in groups if not g.names]
    at = [np.concatenate([[one[i] for one in named], *(o[i] for o in others)]) for i in (0, 1)]
    free = point_names.apart(at[0], at[1], widths, height=LINE)
    return [
        tag("text", name, x=px(a + 5), y=px(b), dy="0.33em", class_=f"name {kind}")
        for (a, b, name, kind), width, is_free in zip(named, widths, free, strict=True)
        if is_free and a + 5 + width <= x.stop
    ]


def marker(name: str, size: float) -> str:
    """One of `SHAPES` around the origin, as data of a path."""
    return SHAPES[name].format(px(size), px(2 * size), px(1.3 * size))


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{px(a)} {px(b)}" for a, b in zip(x, y, strict=True))


def px(value: float | np.ndarray) -> str:
    """A pixel, to a tenth."""
    return f"{float(value):.1f}".removesuffix(".0")
