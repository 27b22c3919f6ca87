"""The front, the ranking and the extracted networks, as charts and tables."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from supernet_jax.reporting import svg_axes, svg_plot
from supernet_jax.reporting.html import NOTHING, Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Front, Network, Pair, Subnet
from supernet_jax.reporting.svg_plot import Labels, Points
from supernet_jax.reporting.tolerant_json import mapping, notation, number, share

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


def front(facts: Facts) -> list[Html]:
    """The front and everything that was scored, drawn; the chosen subnets in a table."""
    fronts = ([facts.search] if facts.search else []) + facts.races
    if not facts.evaluated and not any(f.chosen for f in fronts):
        return [tag("p", "No subnet was evaluated yet.", class_="soft")]
    scored, tested, left = _current(facts.evaluated, fronts)
    said = [tag("p", f"{f.source}: {f.said}.", class_="soft") for f in fronts]
    groups, notes = _groups(scored, tested, fronts, facts.networks)
    if left:
        notes.append(f"{left:,} evaluations of other checkpoints or conditions are not drawn.")
    drawn = NOTHING
    if any(len(group.x) for group in groups):
        labels = Labels("Accuracy over MACs", "MACs", "accuracy, %", " ".join(notes))
        drawn = tag("div", svg_plot.scatter(groups, labels), class_="charts wide")
    return [*said, drawn, _chosen(fronts, scored, tested)]


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
    networks: Sequence[Network],
) -> tuple[list[Points], list[str]]:
    notes = []
    shown = _spread(scored)
    if len(shown) < len(scored):
        notes.append(f"{len(shown):,} of {len(scored):,} scored subnets are drawn, spread out.")
    groups = [_points("scored, held-out", "scored", "circle", 2.4, shown)]
    for one in fronts:
        raced = one.source.startswith("races/")
        dropped = _spread(one.others)
        if dropped:
            notes.append("Accuracies of subnets that dropped out of a race are estimates.")
            groups.append(_points("dropped out of a race", "dropped", "triangle", 2.4, dropped))
        split = one.chosen[0].split if one.chosen else ""
        name = f"front of a race, {split}" if raced else f"front of the search, {split}"
        if one.cost != "macs":
            notes.append(f"The search was for {one.cost}, not MACs: its front is not joined.")
        kind, joined = ("race" if raced else "front"), ("steps" if one.cost == "macs" else "")
        groups.append(_points(name, kind, "circle", 3.6, one.chosen, joined))
    known = {s.arch for s in tested}
    extra = [
        s._replace(accuracy=s.test, split="test")
        for f in fronts
        for s in f.chosen
        if s.test is not None and s.arch not in known
    ]
    groups.append(_points("test", "tested", "diamond", 3.6, [*_spread(tested), *extra]))
    groups.append(_taken_out(networks))
    return groups, notes


def _taken_out(networks: Sequence[Network]) -> Points:
    """Extracted networks on the test split."""
    known = [
        (number(n.description["macs"]), share(mapping(n.description["accuracy"]).get("test")), n)
        for n in networks
    ]
    drawn = [(m, a, n) for m, a, n in known if m is not None and m > 0 and a is not None]
    return Points(
        "extracted, test",
        "network",
        "square",
        3.4,
        [m for m, _, _ in drawn],
        [100 * a for _, a, _ in drawn],
        [f"{n.folder.name}: {a:.2%} test\n{m:,.0f} MACs" for m, a, n in drawn],
    )


def _points(
    name: str, kind: str, shape: str, size: float, subnets: Sequence[Subnet], joined: str = ""
) -> Points:
    return Points(
        name,
        kind,
        shape,
        size,
        [s.macs for s in subnets],
        [100 * s.accuracy for s in subnets],
        [_title(s) for s in subnets],
        joined,
    )


def _title(s: Subnet) -> str:
    images = "" if s.images is None else f" of {s.images:,.0f} images"
    seen = "" if s.seen is None else f", after {s.seen:,.0f} of them"
    parameters = "" if s.parameters is None else f", {s.parameters:,.0f} parameters"
    return f"{s.accuracy:.2%} {s.split}{images}{seen}\n{s.macs:,.0f} MACs{parameters}\n{s.arch}"


def _spread(subnets: Sequence[Subnet]) -> list[Subnet]:
    """At most `MOST` of them: the best of each of as many ranges of MACs, then the others."""
    if len(subnets) <= MOST:
        return list(subnets)
    by_cost = sorted(subnets, key=lambda s: s.macs)
    parts = np.array_split(np.arange(len(by_cost)), MOST // 2)
    best = [max(part, key=lambda i: by_cost[i].accuracy) for part in parts]
    worst = [min(part, key=lambda i: by_cost[i].accuracy) for part in parts]
    return [by_cost[i] for i in sorted({*best, *worst})]


def _chosen(fronts: Sequence[Front], scored: Sequence[Subnet], tested: Sequence[Subnet]) -> Html:
    """The table of the fronts; without one, of the best scored."""
    on_test = {s.arch: s.accuracy for s in tested}
    rows = [(f"{_short(f)}:{i}", s) for f in fronts for i, s in enumerate(f.chosen)]
    caption = "Chosen subnets"
    if not rows:
        best = sorted(scored or tested, key=lambda s: -s.accuracy)[:20]
        rows = [(str(i), s) for i, s in enumerate(best, 1)]
        caption = "The best that were evaluated"
    if not rows:
        return NOTHING
    timed = any(s.milliseconds is not None for _, s in rows)
    heads = ["from", "accuracy, %", "on", "test, %", "MACs", *["ms"] * timed, "parameters"]
    heads += ["calibration", "arch"]
    return join(
        tag("p", tag("strong", caption)), table(heads, list(_rows(rows, on_test, timed=timed)))
    )


def _short(front: Front) -> str:
    return "race" if front.source.startswith("races/") else "front"


def _rows(
    rows: Sequence[tuple[str, Subnet]], on_test: dict[str, float], *, timed: bool
) -> Iterator[list[Cell]]:
    for place, (name, s) in enumerate(rows):
        test = on_test.get(s.arch, s.test)
        images = "" if s.images is None else f"{s.images:,.0f} "
        milliseconds = [_number(s.milliseconds, ".4g")] if timed else []
        yield [
            Cell(name, float(place)),
            _number(100 * s.accuracy, ".2f"),
            Cell(f"{images}{s.split}"),
            _number(None if test is None else 100 * test, ".2f"),
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


def networks(found: Sequence[Network]) -> Html:
    """A table of extracted networks."""
    heads = ["network", "test, %", "held-out, %", "MACs", "parameters", "pixels"]
    heads += ["checkpoint", "logits differ by", "folder", "arch"]
    return table(heads, [_network(network) for network in found])


def _network(network: Network) -> list[Cell]:
    d: Any = network.description
    test, held_out = (share(d["accuracy"].get(split)) for split in ("test", "held-out"))
    return [
        Cell(network.folder.name),
        _number(None if test is None else 100 * test, ".2f"),
        _number(None if held_out is None else 100 * held_out, ".2f"),
        _number(number(d["macs"])),
        _number(number(d["parameters"])),
        _number(number(d["resolution"])),
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
    low, high = chosen[0], max(chosen, key=lambda s: s.accuracy)
    return (
        f"The front goes from {low.accuracy:.2%} at {svg_axes.short(low.macs)} MACs to "
        f"{high.accuracy:.2%} at {svg_axes.short(high.macs)} MACs ({low.split})."
    )
