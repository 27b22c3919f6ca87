"""How a learning sampler moved the probabilities of options: a small chart for each decision.

Shape letters: `T` steps at which probabilities were written.
"""

from collections.abc import Mapping

import numpy as np

from supernet_jax.reporting.charts import svg_axes, svg_plot
from supernet_jax.reporting.charts.downsample import columns
from supernet_jax.reporting.charts.svg_axes import Scale
from supernet_jax.reporting.charts.svg_plot import Labels, Line, px
from supernet_jax.reporting.html import NOTHING, Html, tag
from supernet_jax.reporting.metrics_history import Moves

SHOWN = 64  # decisions that are drawn
WIDTH, LEFT, RIGHT = 330.0, 96.0, 42.0
ROW, GAP, FOOT = 15.0, 4.0, 18.0  # of an option, above it, and for the steps below
LETTERS = 13  # of an option's name that fit at the left
POINTS, HOVERED = 12_000, 1_500  # on all charts together
TOPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # probabilities that may be as high as a row


def charts(moves: Moves) -> list[Html]:
    """The charts, and above them how to read them; nothing where no probability was written."""
    known = {
        decision: options
        for decision, options in moves.values.items()
        if any(np.isfinite(values).any() for values in options.values())
    }
    if not known:
        return []
    drawn = dict(list(known.items())[:SHOWN])
    top = _top(drawn)
    few = len(drawn) < len(known) + moves.more
    left_out = f" Of {len(known) + moves.more:,} decisions the first {SHOWN} are drawn."
    said = (
        "How likely the sampler made each option of each decision. A row is an option, and as high "
        f"as a probability of {top:g}; its last probability is at the right. The dashed line is "
        "chance, at which all options are alike. Blue is what is likeliest now: together these "
        f"options are the arch argmax.{left_out if few else ''}"
    )
    rows = sum(map(len, drawn.values()))
    points = int(np.clip(POINTS // rows, 16, 150))
    hovered = int(np.clip(HOVERED // len(drawn), 8, 50))
    each = [
        _decision(name, moves.steps, options, top=top, points=points, hovered=hovered)
        for name, options in drawn.items()
    ]
    return [
        tag("p", said),
        tag("div", *_undecided(moves.steps, known), class_="charts"),
        tag("div", *each, class_="charts small"),
    ]


def _top(drawn: Mapping[str, Mapping[str, np.ndarray]]) -> float:
    """The probability that is as high as a row: the least of `TOPS` above all."""
    most = max(np.nanmax(v) for o in drawn.values() for v in o.values() if np.isfinite(v).any())
    return next(top for top in TOPS if most <= top)


def _undecided(steps: np.ndarray, known: Mapping[str, Mapping[str, np.ndarray]]) -> list[Html]:
    """How far decisions are open, by their entropies."""
    open_ = []
    for options in known.values():
        p = np.array(list(options.values()))  # [O, T]
        if len(p) > 1:
            terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), p)
            open_.append(-terms.sum(0) / np.log(len(p)))
    if not open_ or not np.isfinite(open_).any():
        return []
    data = columns(np.tile(steps, len(open_)), np.concatenate(open_), most=svg_plot.COLUMNS)
    note = (
        "The entropy of a decision's probabilities, as a share of the largest that it can have: 1 "
        "where all options are alike, 0 where one is certain. Mean and range over the decisions."
    )
    labels = Labels("How open decisions are", "step", "entropy", note)
    return [svg_plot.lines([Line("entropy", "c0", data)], labels, log=False)]


def _decision(
    name: str,
    steps: np.ndarray,
    options: Mapping[str, np.ndarray],
    *,
    top: float,
    points: int,
    hovered: int,
) -> Html:
    """The chart of one decision: a row for each option.

    Args:
        name: of the decision.
        steps: `[T]`.
        options: by name, `[T]`.
        top: the probability that is as high as a row.
        points: of each row at most.
        hovered: places at most that say their values.
    """
    height = len(options) * (ROW + GAP) + FOOT
    x = svg_axes.fit(steps, LEFT, WIDTH - RIGHT, pad=0.0)
    last = {option: _last(values) for option, values in options.items()}
    likeliest = max(last, key=lambda option: last[option])
    parts: list[Html] = []
    for i, (option, values) in enumerate(options.items()):
        y = Scale(0.0, top, (i + 1) * (ROW + GAP), (i + 1) * (ROW + GAP) - ROW)
        kind = "c0" if option == likeliest else "scored"
        parts += _row(option, columns(steps, values, most=points), x, y, kind=kind)
        parts += [
            tag(
                "path",
                d=f"M{px(x.start)} {px(y.at(1 / len(options)))}H{px(x.stop)}",
                class_="chance",
            )
            if 1 / len(options) <= top
            else NOTHING,
            tag("text", f"{last[option]:.3f}", x=px(WIDTH - RIGHT + 5), y=px(y.start - 3)),
        ]
    ends = [(x.start, "", steps[0]), (x.stop, "end", steps[-1])]
    parts += [
        tag("text", f"step {step:,.0f}", x=px(at), y=px(height - 4), class_=where or None)
        for at, where, step in (ends if steps[-1] > steps[0] else ends[:1])
    ]
    parts += _hovers(steps, options, x, height - FOOT, hovered)
    drawing = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=f"{name}: probability of each option over step; last {_spoken(last)}",
    )
    return svg_plot.figure(Labels(name, "", ""), [], drawing)


def _last(values: np.ndarray) -> float:
    """The last that is a number; 0 where none is."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else 0.0


def _row(option: str, data: svg_plot.Columns, x: Scale, y: Scale, *, kind: str) -> list[Html]:
    """An option's name, and its probability as an area."""
    name = option if len(option) <= LETTERS else f"{option[: LETTERS - 1]}…"
    parts = [
        tag(
            "text",
            tag("title", option),
            name,
            x=px(LEFT - 6),
            y=px(y.start - 3),
            class_="end",
        ),
        tag("path", d=f"M{px(x.start)} {px(y.start)}H{px(x.stop)}", class_="grid"),
    ]
    if data.x.size:
        at, mean = x.at(data.x), y.at(data.mean)
        if len(at) == 1:  # one step, which is all there is to see
            at, mean = np.array([x.start, x.stop]), np.repeat(mean, 2)
        curve = "L".join(f"{px(a)} {px(m)}" for a, m in zip(at, mean, strict=True))
        area = f"M{px(at[0])} {px(y.start)}L{curve}L{px(at[-1])} {px(y.start)}z"
        parts.append(tag("path", d=area, class_=f"bar {kind}"))
    return parts


def _hovers(
    steps: np.ndarray,
    options: Mapping[str, np.ndarray],
    x: Scale,
    height: float,
    most: int,
) -> list[Html]:
    """Invisible strips that say the probabilities of all options at a step."""
    shown = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).astype(int))
    at = np.asarray(x.at(steps[shown]), np.float64)
    edges = np.r_[x.start, (at[1:] + at[:-1]) / 2, x.stop]
    return [
        tag(
            "rect",
            tag(
                "title",
                "\n".join([f"step {steps[i]:,.0f}", *(f"{o} {v[i]:.3f}" for o, v in known)]),
            ),
            x=px(edges[place]),
            y="0",
            width=px(edges[place + 1] - edges[place]),
            height=px(height),
            class_="hover",
        )
        for place, i in enumerate(shown)
        for known in [[(o, v) for o, v in options.items() if np.isfinite(v[i])]]
    ]


def _spoken(last: Mapping[str, float]) -> str:
    return ", ".join(f"{option} {value:.3f}" for option, value in last.items())
