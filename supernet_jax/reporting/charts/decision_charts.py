"""What decisions do to the metric: how much each matters, and subnets coloured by their options.

Shape letters: `N` subnets.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from supernet_jax.elastic import choices, code_names
from supernet_jax.errors import UserError
from supernet_jax.experiment import arch_picture, importance
from supernet_jax.experiment.importance import Importance, Part
from supernet_jax.reporting import run_space
from supernet_jax.reporting.charts import importance_chart, subnet_charts, svg_axes, svg_plot
from supernet_jax.reporting.charts.svg_plot import Labels, px
from supernet_jax.reporting.html import Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_space import Known
from supernet_jax.searching import encoding
from supernet_jax.tasks import Metric

PANELS, DOTS = 9, 600  # that are drawn, and dots in each
LEAST = 10  # subnets, of which colours tell something
WIDTH, HEIGHT = 300.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 8.0, 6.0, 36.0
CLASSES = len(arch_picture.COLOURS)  # of colours, in style.css


def charts(facts: Facts, types: Mapping[str, type]) -> list[Html]:
    """The charts, or why there are none; nothing where no subnet was evaluated."""
    fronts = ([facts.search] if facts.search else []) + facts.races
    scored, tested, _ = subnet_charts.current(facts.evaluated, fronts)
    subnets = scored or tested
    if not subnets:
        return []
    try:
        known = run_space.read(run_space.space(facts, types), subnets)
    except UserError as error:
        return [tag("p", f"Not known for this run: {error}.", class_="soft")]
    if not known.subnets:
        return [tag("p", "No evaluated arch is of this run's space.", class_="soft")]
    values = np.array([one.value for one in known.subnets])
    found: Importance | None = None
    try:
        found = importance.of_subnets(known.space, known.archs, values)
        first = tag("div", importance_chart.chart(found, facts.metric.name), class_="charts wide")
    except UserError as error:
        first = tag("p", f"How much each decision matters is not known: {error}.", class_="soft")
    if len(known.subnets) < LEAST:
        return [first]
    return [first, *_coloured(known, found, facts.metric, of=len(subnets))]


class _Coloured(NamedTuple):
    """What gives the dots of a panel their colours.

    Attributes:
        name: of the panel.
        classes: names of its colours, in their order.
        which: of the classes each subnet has, int `[N]`; -1 for one that it does not concern.
        ordered: whether classes go from small to large.
    """

    name: str
    classes: tuple[str, ...]
    which: np.ndarray
    ordered: bool


def _coloured(known: Known, found: Importance | None, metric: Metric, *, of: int) -> list[Html]:
    """A small chart for each decision, or several of one name, that is worth one.

    Args:
        known: subnets that may be drawn.
        found: how much parts matter, or None.
        metric: of the run.
        of: how many subnets there are in all.
    """
    rows, encode = np.asarray(choices.pack(known.archs)), encoding.encoder(known.space)
    parts = importance.parts(known.space)
    order = range(len(parts)) if found is None else found.order()
    several = [i for i in order if len(parts[i].decisions) > 1]
    panels: list[_Coloured] = []
    for i in (*several, *(i for i in order if i not in several)):
        one = _classes(known, parts[i], rows, encode)
        if one is not None:
            panels.append(one)
        if len(panels) == PANELS:
            break
    if not panels:
        return []
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:DOTS])
    better = "above" if metric.higher_is_better else "below"
    said = (
        "Each dot is an evaluated subnet, in the colour of what it has of the decision: one that "
        f"lies {better} the others at equal MACs is a good choice there. Of decisions of one name "
        "the colour is the mean over those that count."
    )
    if len(drawn) < of:
        said += f" {len(drawn):,} of {of:,} are drawn, at random."
    if len(panels) < len(parts):
        by = f"the first {len(panels)}" if found is None else "those that matter most"
        said += f" Of {len(parts)} charts {by} are shown."
    macs = np.array([one.macs for one in known.subnets])[drawn]
    values = np.array([one.value for one in known.subnets])[drawn]
    values = values * subnet_charts.percent(metric)
    each = [_panel(one._replace(which=one.which[drawn]), macs, values, metric) for one in panels]
    return [tag("p", said, class_="note"), tag("div", *each, class_="charts small dots")]


def _classes(
    known: Known, part: Part, rows: np.ndarray, encode: encoding.Encode
) -> _Coloured | None:
    """The colours of a part; None where all subnets have the same."""
    space, paths = known.space, choices.paths(known.space.menu)
    numbers = np.full(len(rows), np.nan)
    columns = []
    for place in part.decisions:
        options = choices.get(space.menu, paths[place]).values
        named = code_names.option_names(space, paths[place])
        if named != tuple(map(str, options)):
            return None if len(part.decisions) > 1 else _named(part.name, named, rows[:, place])
        own = np.asarray(options, np.float64)[rows[:, place]]
        columns.append(np.where(importance.counts(space, rows, place, encode), own, np.nan))
    there = np.sum(np.isfinite(columns), axis=0)
    total = np.nansum(columns, axis=0)
    numbers = np.divide(total, there, out=numbers, where=there > 0)
    name = part.name if len(part.decisions) == 1 else f"{part.name}: mean"
    return _numbered(name, numbers)


def _named(name: str, options: Sequence[str], which: np.ndarray) -> _Coloured | None:
    """Options without an order; the rarest are one class where there are too many."""
    used, many = np.unique(which, return_counts=True)
    if len(used) < 2:
        return None
    common = sorted(used[np.argsort(-many, kind="stable")][:CLASSES].tolist())
    place = {option: i for i, option in enumerate(common)}
    classes = tuple(options[i] for i in common)
    return _Coloured(name, classes, np.array([place.get(i, -1) for i in which.tolist()]), False)


def _numbered(name: str, numbers: np.ndarray) -> _Coloured | None:
    """Numbers by themselves, or in ranges where they are too many."""
    there = np.isfinite(numbers)
    distinct = np.unique(numbers[there])
    if len(distinct) < 2:
        return None
    if len(distinct) <= CLASSES:
        which = np.searchsorted(distinct, numbers)
        classes = tuple(svg_axes.told_apart(distinct.tolist()))
    else:
        edges = np.linspace(distinct[0], distinct[-1], CLASSES + 1)
        which = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, CLASSES - 1)
        ends = [f"{edge:.3g}" for edge in edges]
        classes = tuple(f"{a} to {b}" for a, b in itertools.pairwise(ends))
    return _Coloured(name, classes, np.where(there, which, -1), True)


def _panel(one: _Coloured, macs: np.ndarray, values: np.ndarray, metric: Metric) -> Html:
    x = svg_axes.fit(macs, LEFT, WIDTH - RIGHT, log=svg_axes.wants_log(macs))
    y = svg_axes.fit(values, HEIGHT - BOTTOM, TOP, pad=0.06)
    at = [f"M{px(a)} {px(b)}h0" for a, b in zip(x.at(macs), y.at(values), strict=True)]
    dots, keys = [], []
    for i, name in ((-1, "does not count" if one.ordered else "others"), *enumerate(one.classes)):
        own = np.flatnonzero(one.which == i)
        if not len(own):
            continue
        kind = _kind(i, one)
        best = values[own].max() if metric.higher_is_better else values[own].min()
        mean = f"mean {values[own].mean():.4g}, best {best:.4g}"
        said = f"{one.name} {name}: {len(own):,} subnets, {mean}"
        path = "".join(at[place] for place in own)
        dots.append(tag("path", tag("title", said), d=path, class_=f"spots {kind}"))
        keys.append((name, kind, "circle"))
    labels = Labels(one.name, "MACs", subnet_charts.headed_metric(metric))
    drawing = svg_plot.frame(x, y, labels, join(*dots), size=(WIDTH, HEIGHT), about=3)
    return svg_plot.figure(labels, keys, drawing)


def _kind(place: int, one: _Coloured) -> str:
    """The CSS class of a class of colours."""
    if place < 0:
        return "scored"
    return f"s{arch_picture.shade(place, len(one.classes))}" if one.ordered else f"c{place}"
