"""The front, the ranking and the extracted networks, as charts and tables."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from supernet_jax.reporting import svg_axes, svg_plot
from supernet_jax.reporting.html import NOTHING, Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Front, Network, Pair, Subnet, measured
from supernet_jax.reporting.svg_plot import Labels, Points
from supernet_jax.reporting.tolerant_json import mapping, notation, number
from supernet_jax.tasks import Metric

MOST = 800  # points of one kind that say their arch
KINDS = ("c0", "c1", "c2", "c3", "c4")
SHAPES = tuple(svg_plot.SHAPES)


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        shown: its text.
        value: what it is sorted by; None for the text itself.
        kind: CSS class: n for numbers, arch.
    """

    shown: str
    value: float | str | None = None
    kind: str = ""


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """A table that a click on a head sorts, where scripts run."""
    kinds = [cell.kind for cell in rows[0]] if rows else [""] * len(heads)
    top = [
        tag("th", head, scope="col", class_="n" if kind == "n" else None)
        for head, kind in zip(heads, kinds, strict=True)
    ]
    body = [tag("tr", *(_cell(cell) for cell in row)) for row in rows]
    inner = tag("table", tag("thead", tag("tr", *top)), tag("tbody", *body))
    return tag("div", inner, class_="table", tabindex="0")


def _cell(cell: Cell) -> Html:
    shown = tag("code", cell.shown) if cell.kind == "arch" else cell.shown
    return tag("td", shown, class_=cell.kind or None, data_v=cell.value)


def _number(value: float | None, form: str = ",.0f") -> Cell:
    return Cell("", "", "n") if value is None else Cell(f"{value:{form}}", repr(value), "n")


def _percent(metric: Metric) -> float:
    """What values are multiplied by where they are shown."""
    return 100.0 if metric.unit == "%" else 1.0


def _headed(metric: Metric, name: str = "") -> str:
    """The head of a column of values, or the name of an axis."""
    name = name or metric.name
    return f"{name}, {metric.unit}" if metric.unit else name


def _value(value: float | None, metric: Metric) -> Cell:
    form = ".2f" if metric.unit == "%" else ".4g"
    return _number(None if value is None else _percent(metric) * value, form)


def front(facts: Facts) -> list[Html]:
    """The front and everything that was scored, drawn; the chosen subnets in a table."""
    fronts = ([facts.search] if facts.search else []) + facts.races
    if not facts.evaluated and not any(f.chosen for f in fronts):
        return [tag("p", "No subnet was evaluated yet.", class_="soft")]
    scored, tested, left = _current(facts.evaluated, fronts)
    said = [tag("p", f"{f.source}: {f.said}.", class_="soft") for f in fronts]
    groups, notes = _groups(scored, tested, fronts, facts)
    if left:
        notes.append(f"{left:,} evaluations of other checkpoints or conditions are not drawn.")
    drawn = NOTHING
    if any(len(group.x) for group in groups):
        title = f"{facts.metric.name.capitalize()} over MACs"
        labels = Labels(title, "MACs", _headed(facts.metric), " ".join(notes))
        drawn = tag("div", svg_plot.scatter(groups, labels), class_="charts wide")
    return [*said, drawn, _chosen(fronts, scored, tested, facts.metric)]


def _current(
    evaluated: Sequence[Subnet], fronts: Sequence[Front]
) -> tuple[list[Subnet], list[Subnet], int]:
    """Held-out and test results of one checkpoint, and how many others there are.

    It is that of the first front, or else the newest.
    """
    own = [s for s in evaluated if s.split in ("held-out", "test")]
    of_front = [s.checkpoint for f in fronts for s in f.chosen if s.checkpoint is not None]
    newest = max((s.checkpoint or 0 for s in own), default=0)
    shown = of_front[0] if of_front else newest
    of_fronts = {s.conditions for f in fronts for s in f.chosen}
    parts = []
    for split in ("held-out", "test"):
        now = [s for s in own if s.split == split and (s.checkpoint or 0) == shown]
        # Under several conditions: those of a front, else the most common.
        count: dict[str, int] = {}
        for s in now:
            count[s.conditions] = count.get(s.conditions, 0) + 1
        best = max(count, key=lambda c: (c in of_fronts, count[c]), default="")
        parts.append([s for s in now if s.conditions == best])
    return parts[0], parts[1], len(evaluated) - len(parts[0]) - len(parts[1])


def _groups(
    scored: Sequence[Subnet],
    tested: Sequence[Subnet],
    fronts: Sequence[Front],
    facts: Facts,
) -> tuple[list[Points], list[str]]:
    notes, metric = [], facts.metric
    shown = _spread(scored, metric)
    if len(shown) < len(scored):
        notes.append(f"{len(shown):,} of {len(scored):,} scored subnets are drawn, spread out.")
    points = functools.partial(_points, metric)
    groups = [points("scored, held-out", "scored", "circle", 2.4, shown)]
    for one in fronts:
        raced = one.source.startswith("races/")
        dropped = _spread(one.others, metric)
        if dropped:
            notes.append("Accuracies of subnets that dropped out of a race are estimates.")
            groups.append(points("dropped out of a race", "dropped", "triangle", 2.4, dropped))
        split = one.chosen[0].split if one.chosen else ""
        name = f"front of a race, {split}" if raced else f"front of the search, {split}"
        if one.cost != "macs":
            notes.append(f"The search was for {one.cost}, not MACs: its front is not joined.")
        kind, joined = ("race" if raced else "front"), ("steps" if one.cost == "macs" else "")
        groups.append(points(name, kind, "circle", 3.6, one.chosen, joined))
    known = {s.arch for s in tested}
    extra = [
        s._replace(value=s.test, split="test")
        for f in fronts
        for s in f.chosen
        if s.test is not None and s.arch not in known
    ]
    groups.append(points("test", "tested", "diamond", 3.6, [*_spread(tested, metric), *extra]))
    groups.append(_taken_out(facts.networks, metric))
    return groups, notes


def _taken_out(networks: Sequence[Network], metric: Metric) -> Points:
    """Extracted networks on the test split."""
    known = [(number(n.description["macs"]), _of_split(n, "test", metric), n) for n in networks]
    drawn = [(m, a, n) for m, a, n in known if m is not None and m > 0 and a is not None]
    return Points(
        "extracted, test",
        "network",
        "square",
        3.4,
        [m for m, _, _ in drawn],
        [_percent(metric) * a for _, a, _ in drawn],
        [f"{n.folder.name}: {metric.shown(a)} test\n{m:,.0f} MACs" for m, a, n in drawn],
    )


def _of_split(network: Network, split: str, metric: Metric) -> float | None:
    """What a folder says of a network on a split, in the metric of the run."""
    return measured(mapping(network.description.get(metric.name)).get(split), metric)


def _points(
    metric: Metric,
    name: str,
    kind: str,
    shape: str,
    size: float,
    subnets: Sequence[Subnet],
    joined: str = "",
) -> Points:
    return Points(
        name,
        kind,
        shape,
        size,
        [s.macs for s in subnets],
        [_percent(metric) * s.value for s in subnets],
        [_title(s, metric) for s in subnets],
        joined,
    )


def _title(s: Subnet, metric: Metric) -> str:
    images = "" if s.images is None else f" of {s.images:,.0f} {metric.examples}"
    seen = "" if s.seen is None else f", after {s.seen:,.0f} of them"
    parameters = "" if s.parameters is None else f", {s.parameters:,.0f} parameters"
    return (
        f"{metric.shown(s.value)} {s.split}{images}{seen}\n{s.macs:,.0f} MACs{parameters}\n{s.arch}"
    )


def _spread(subnets: Sequence[Subnet], metric: Metric) -> list[Subnet]:
    """At most `MOST` of them: the best of each of as many ranges of MACs, then the others."""
    if len(subnets) <= MOST:
        return list(subnets)
    by_cost = sorted(subnets, key=lambda s: s.macs)
    parts = np.array_split(np.arange(len(by_cost)), MOST // 2)
    score = lambda i: metric.score(by_cost[i].value)  # noqa: E731
    best, worst = ([pick(part, key=score) for part in parts] for pick in (max, min))
    return [by_cost[i] for i in sorted({*best, *worst})]


def _chosen(
    fronts: Sequence[Front], scored: Sequence[Subnet], tested: Sequence[Subnet], metric: Metric
) -> Html:
    """The table of the fronts; without one, of the best scored."""
    on_test = {s.arch: s.value for s in tested}
    rows = [(f"{_short(f)}:{i}", s) for f in fronts for i, s in enumerate(f.chosen)]
    caption = "Chosen subnets"
    if not rows:
        best = sorted(scored or tested, key=lambda s: -metric.score(s.value))[:20]
        rows = [(str(i), s) for i, s in enumerate(best, 1)]
        caption = "The best that were evaluated"
    if not rows:
        return NOTHING
    timed = any(s.milliseconds is not None for _, s in rows)
    heads = ["from", _headed(metric), "on", _headed(metric, "test"), "MACs", *["ms"] * timed]
    heads += ["parameters", "calibration", "arch"]
    return join(
        tag("p", tag("strong", caption)),
        table(heads, list(_rows(rows, on_test, metric, timed=timed))),
    )


def _short(front: Front) -> str:
    return "race" if front.source.startswith("races/") else "front"


def _rows(
    rows: Sequence[tuple[str, Subnet]], on_test: dict[str, float], metric: Metric, *, timed: bool
) -> Iterator[list[Cell]]:
    for place, (name, s) in enumerate(rows):
        test = on_test.get(s.arch, s.test)
        images = "" if s.images is None else f"{s.images:,.0f} "
        milliseconds = [_number(s.milliseconds, ".4g")] if timed else []
        yield [
            Cell(name, float(place)),
            _value(s.value, metric),
            Cell(f"{images}{s.split}"),
            _value(test, metric),
            _number(s.macs),
            *milliseconds,
            _number(s.parameters),
            Cell(s.calibration),
            Cell(s.arch, None, "arch"),
        ]


def ranking(pairs: Sequence[Pair]) -> list[Html]:
    """Accuracy inherited against stand-alone, per method, with Kendall's tau."""
    methods = list(dict.fromkeys(pair.method for pair in pairs))
    groups, rows = [], []
    for i, method in enumerate(methods):
        own = [pair for pair in pairs if pair.method == method]
        taus = kendall(own)
        tau = f"tau {np.mean(taus):.3f}" if taus else "too few for tau"
        groups.append(
            Points(
                f"{method}: {tau}",
                KINDS[i % len(KINDS)],
                SHAPES[i % len(SHAPES)],
                3.2,
                [100 * pair.alone for pair in own],
                [100 * pair.inherited for pair in own],
                [_pair_title(pair) for pair in own],
            )
        )
        spread = f"{min(taus):.3f} to {max(taus):.3f}" if len(taus) > 1 else ""
        rows.append(
            [
                Cell(method),
                _number(float(len(own))),
                _number(float(len({pair.seed for pair in own}))),
                _number(float(np.mean(taus)) if taus else None, ".3f"),
                Cell(spread),
            ]
        )
    note = "The dashed line is where both are equal; what counts is the order, not the distance."
    labels = Labels(
        "Inherited against stand-alone accuracy", "trained alone, %", "inherited, %", note
    )
    drawn = tag("div", svg_plot.scatter(groups, labels, diagonal=True), class_="charts wide")
    heads = ["method", "subnets", "seeds", "Kendall tau", "over seeds"]
    return [drawn, table(heads, rows)]


def kendall(pairs: Sequence[Pair]) -> list[float]:
    """Kendall's tau-b of each seed, where it has an order: two distinct values on either side.

    Ranks are compared within a seed, because a seed is one supernet.
    """
    taus = []
    for seed in dict.fromkeys(pair.seed for pair in pairs):
        inherited = [pair.inherited for pair in pairs if pair.seed == seed]
        alone = [pair.alone for pair in pairs if pair.seed == seed]
        if len(set(inherited)) > 1 and len(set(alone)) > 1:
            taus.append(float(scipy.stats.kendalltau(inherited, alone).statistic))
    return taus


def _pair_title(pair: Pair) -> str:
    macs = "" if pair.macs is None else f", {pair.macs:,.0f} MACs"
    return (
        f"{pair.method}, seed {pair.seed}\ninherited {pair.inherited:.2%}, alone {pair.alone:.2%}"
        f"{macs}\n{pair.arch}"
    )


def networks(found: Sequence[Network], metric: Metric) -> Html:
    """A table of extracted networks."""
    heads = ["network", *(_headed(metric, split) for split in ("test", "held-out"))]
    heads += ["MACs", "parameters", "pixels", "checkpoint", "logits differ by", "folder", "arch"]
    return table(heads, [_network(network, metric) for network in found])


def _network(network: Network, metric: Metric) -> list[Cell]:
    d: Any = network.description
    return [
        Cell(network.folder.name),
        *(_value(_of_split(network, split, metric), metric) for split in ("test", "held-out")),
        _number(number(d["macs"])),
        _number(number(d["parameters"])),
        _number(number(d.get("resolution"))),
        _number(number(d["source"].get("checkpoint"))),
        _number(number(d["proof"]["difference"]), ".1e"),
        Cell(str(network.folder)),
        Cell(notation(d["arch"]), None, "arch"),
    ]


def best(facts: Facts) -> str:
    """The front in a sentence, or nothing."""
    if facts.search is None or not facts.search.chosen:
        return ""
    chosen = facts.search.chosen
    metric = facts.metric
    low, high = chosen[0], max(chosen, key=lambda s: metric.score(s.value))
    return (
        f"The front goes from {metric.shown(low.value)} at {svg_axes.short(low.macs)} MACs to "
        f"{metric.shown(high.value)} at {svg_axes.short(high.macs)} MACs ({low.split})."
    )
