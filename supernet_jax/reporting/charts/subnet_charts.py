"""The front, the ranking and the extracted networks, as charts and tables."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from supernet_jax.reporting.charts import svg_axes, svg_parallel, svg_plot
from supernet_jax.reporting.charts.svg_plot import Labels, Points
from supernet_jax.reporting.html import NOTHING, Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Front, Network, Pair, Subnet
from supernet_jax.reporting.search_goal import MEASURED, headed, measured
from supernet_jax.reporting.tolerant_json import mapping, notation, number
from supernet_jax.tasks import Metric

MOST = 800  # points of one kind that say their arch
CHART = "front-chart"  # id of the chart of the front
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


def percent(metric: Metric) -> float:
    """What values are multiplied by where they are shown."""
    return 100.0 if metric.unit == "%" else 1.0


def headed_metric(metric: Metric, name: str = "") -> str:
    """The head of a column of values, or the name of an axis, with the unit."""
    name = name or metric.name
    return f"{name}, {metric.unit}" if metric.unit else name


def _value(value: float | None, metric: Metric) -> Cell:
    form = ".2f" if metric.unit == "%" else ".4g"
    return _number(None if value is None else percent(metric) * value, form)


def front(facts: Facts, beside: Html = NOTHING) -> list[Html]:
    """The front and everything that was scored, drawn; the chosen subnets in a table.

    Args:
        facts: of the run.
        beside: what stands beside the chart of the front.
    """
    fronts = ([facts.search] if facts.search else []) + facts.races
    if not facts.evaluated and not any(f.chosen for f in fronts):
        return [tag("p", "No subnet was evaluated yet.", class_="soft")]
    scored, tested, left = current(facts.evaluated, fronts)
    said = [tag("p", f"{f.source}: {' '.join(f.said)}", class_="soft") for f in fronts]
    groups, notes = _groups(scored, tested, fronts, facts)
    if left:
        notes.append(f"{left:,} evaluations of other checkpoints or conditions are not drawn.")
    drawn = NOTHING
    if any(len(group.x) for group in groups):
        title = f"{facts.metric.name.capitalize()} over MACs"
        labels = Labels(title, "MACs", headed_metric(facts.metric), " ".join(notes))
        drawn = tag("div", svg_plot.scatter(groups, labels), class_="charts wide", id=CHART)
    drawn = tag("div", drawn, beside, class_="with-picker") if beside.text else drawn
    weighed = _weighed(facts.search, facts.metric) if facts.search else NOTHING
    timed = _timed(facts.search, facts.metric) if facts.search else NOTHING
    return [*said, drawn, weighed, timed, _chosen(fronts, scored, tested, facts.metric)]


def _weighed(front: Front, metric: Metric) -> Html:
    """The front over its objectives, where it has more of them than a scatter chart has axes."""
    objectives = front.goal.objectives
    if len(objectives) <= 2 or not front.chosen:
        return NOTHING
    axes = [svg_parallel.Axis(headed(one.name, one.unit), one.sign > 0) for one in objectives]
    names = [one.name for one in objectives]
    rows = [_values(s, metric) for s in front.chosen[:MOST]]
    others = front.scored[:: max(1, -(-len(front.scored) // (MOST // 2)))]
    groups = [
        svg_parallel.Threads(name, kind, [_row(row, names, metric) for row in rows], titles)
        for name, kind, rows, titles in (
            ("scored", "faint", others, []),
            (
                "front of the search",
                "front",
                rows,
                [hover_title(s, metric) for s in front.chosen[:MOST]],
            ),
        )
    ]
    notes = ["Each line is a subnet; better is at the top of every axis."]
    if any(name not in values for values in others for name in names):
        notes.append("Lines have gaps where the file of the search does not say an objective.")
    if len(others) < len(front.scored):
        notes.append(f"{len(others):,} of {len(front.scored):,} scored subnets are drawn.")
    if len(rows) < len(front.chosen):
        notes.append(f"{len(rows):,} of {len(front.chosen):,} subnets of the front are drawn.")
    if len(axes) > svg_parallel.AXES:
        notes.append(f"Of {len(axes)} objectives the first {svg_parallel.AXES} are drawn.")
    labels = Labels("The front over all objectives", "", "", " ".join(notes))
    return tag("div", svg_parallel.parallel(axes, groups, labels), class_="charts wide")


def _timed(front: Front, metric: Metric) -> Html:
    """What the latency table says of the front over what was measured, if it was."""
    pairs = [
        (s.values[MEASURED], s.values["latency"], s)
        for s in front.chosen[:MOST]
        if MEASURED in s.values and "latency" in s.values
    ]
    if not pairs:
        return NOTHING
    x, y, subnets = zip(*pairs, strict=True)
    titles = [hover_title(s, metric) for s in subnets]
    group = Points("front of the search", "front", "circle", 3.6, x, y, titles)
    note = "The dashed line is where both are equal."
    labels = Labels("Latency: table against measurement", "measured, ms", "table, ms", note)
    return tag("div", svg_plot.scatter([group], labels, diagonal=True), class_="charts wide")


def _values(s: Subnet, metric: Metric) -> dict[str, float]:
    """All that is known of a subnet, by name."""
    known = {"macs": s.macs, "parameters": s.parameters, metric.name: s.value}
    return {**s.values, **{name: value for name, value in known.items() if value is not None}}


def _row(values: Mapping[str, float], names: Sequence[str], metric: Metric) -> list[float | None]:
    """Values in the order of the names, as they are shown."""
    scale = {metric.name: percent(metric)}
    return [scale.get(n, 1.0) * values[n] if n in values else None for n in names]


def current(
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
    shown = spread_out(scored, metric)
    if len(shown) < len(scored):
        notes.append(f"{len(shown):,} of {len(scored):,} scored subnets are drawn, spread out.")
    points = functools.partial(points_of, metric)
    groups = [points("scored, held-out", "scored", "circle", 2.4, shown)]
    for one in fronts:
        raced = one.source.startswith("races/")
        dropped = spread_out(one.others, metric)
        if dropped:
            notes.append("Accuracies of subnets that dropped out of a race are estimates.")
            groups.append(points("dropped out of a race", "dropped", "triangle", 2.4, dropped))
        split = one.chosen[0].split if one.chosen else ""
        name = f"front of a race, {split}" if raced else f"front of the search, {split}"
        stairs = one.goal.is_of(metric, "macs")
        if one.goal.first != "macs":
            notes.append(f"The search was for {one.goal.first}, not MACs: its front is not joined.")
        elif not stairs:
            said = f"The search did not weigh {metric.name} against MACs alone"
            notes.append(f"{said}: its front is not joined.")
        kind, joined = ("race" if raced else "front"), ("steps" if stairs else "")
        if one.random:
            beside = spread_out(one.random, metric)
            groups.append(
                points("front of random search", "by-chance", "triangle", 3.0, beside, joined)
            )
        groups.append(points(name, kind, "circle", 3.6, one.chosen, joined))
    of_test = with_tests_of(fronts, spread_out(tested, metric))
    groups.append(points("test", "tested", "diamond", 3.6, of_test))
    groups.append(_taken_out(facts.networks, metric))
    return groups, notes


def with_tests_of(fronts: Sequence[Front], tested: Sequence[Subnet]) -> list[Subnet]:
    """Subnets on the test split, and those whose value there only their front says."""
    known = {s.arch for s in tested}
    extra = [
        s._replace(value=s.test, split="test")
        for f in fronts
        for s in f.chosen
        if s.test is not None and s.arch not in known
    ]
    return [*tested, *extra]


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
        [percent(metric) * a for _, a, _ in drawn],
        [f"{n.folder.name}: {metric.shown(a)} test\n{m:,.0f} MACs" for m, a, n in drawn],
    )


def _of_split(network: Network, split: str, metric: Metric) -> float | None:
    """What a folder says of a network on a split, in the metric of the run."""
    return measured(mapping(network.description.get(metric.name)).get(split), metric)


def points_of(
    metric: Metric,
    name: str,
    kind: str,
    shape: str,
    size: float,
    subnets: Sequence[Subnet],
    joined: str = "",
) -> Points:
    """Subnets in a chart of the metric over MACs; the other arguments are those of `Points`."""
    return Points(
        name,
        kind,
        shape,
        size,
        [s.macs for s in subnets],
        [percent(metric) * s.value for s in subnets],
        [hover_title(s, metric) for s in subnets],
        joined,
    )


def hover_title(s: Subnet, metric: Metric) -> str:
    """What the point of a subnet says when it is hovered."""
    images = "" if s.images is None else f" of {s.images:,.0f} {metric.examples}"
    seen = "" if s.seen is None else f", after {s.seen:,.0f} of them"
    parameters = "" if s.parameters is None else f", {s.parameters:,.0f} parameters"
    known = (metric.name, "macs", "parameters")
    others = "".join(f", {name} {v:,.6g}" for name, v in s.values.items() if name not in known)
    return (
        f"{metric.shown(s.value)} {s.split}{images}{seen}\n"
        f"{s.macs:,.0f} MACs{parameters}{others}\n{s.arch}"
    )


def spread_out(subnets: Sequence[Subnet], metric: Metric) -> list[Subnet]:
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
    rows = [(f"{_short(f)}:{s.place}", s) for f in fronts for s in f.chosen]
    caption = "Chosen subnets"
    if not rows:
        best = sorted(scored or tested, key=lambda s: -metric.score(s.value))[:20]
        rows = [(str(i), s) for i, s in enumerate(best, 1)]
        caption = "The best that were evaluated"
    if not rows:
        return NOTHING
    units = {"latency": "ms"} if any("latency" in s.values for _, s in rows) else {}
    units |= {name: unit for f in fronts for name, unit in f.goal.units.items()}
    shown = {metric.name, "macs", "parameters"}
    units = {name: unit for name, unit in units.items() if name not in shown}
    heads = [
        "from",
        headed_metric(metric),
        "on",
        headed_metric(metric, "test"),
        "MACs",
        "parameters",
    ]
    costs = [headed(name, unit) for name, unit in units.items()]
    if any(MEASURED in s.values for _, s in rows):
        units[MEASURED] = "ms"
        costs.append("measured, ms")
    heads += [*costs, "calibration", "arch"]
    return join(
        tag("p", tag("strong", caption)),
        table(heads, list(_rows(rows, on_test, metric, list(units)))),
    )


def _short(front: Front) -> str:
    return "race" if front.source.startswith("races/") else "front"


def _rows(
    rows: Sequence[tuple[str, Subnet]],
    on_test: dict[str, float],
    metric: Metric,
    names: Sequence[str],
) -> Iterator[list[Cell]]:
    for place, (name, s) in enumerate(rows):
        test = on_test.get(s.arch, s.test)
        images = "" if s.images is None else f"{s.images:,.0f} "
        yield [
            Cell(name, float(place)),
            _value(s.value, metric),
            Cell(f"{images}{s.split}"),
            _value(test, metric),
            _number(s.macs),
            _number(s.parameters),
            *(_number(s.values.get(name), ",.6g") for name in names),
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
    heads = ["network", *(headed_metric(metric, split) for split in ("test", "held-out"))]
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
    low, high = min(chosen, key=lambda s: s.macs), max(chosen, key=lambda s: metric.score(s.value))
    return (
        f"The front goes from {metric.shown(low.value)} at {svg_axes.short(low.macs)} MACs to "
        f"{metric.shown(high.value)} at {svg_axes.short(high.macs)} MACs ({low.split})."
    )
