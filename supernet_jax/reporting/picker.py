"""The part of the page that picks the best known network within budgets.

Sliders need a script, `picker.js`; what they pick from is in the page, as JSON. It is exact,
however many subnets were evaluated: only those that are best within some budgets can be picked.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.reporting import decision_bars, html, run_space
from supernet_jax.reporting.charts import subnet_charts, svg_axes
from supernet_jax.reporting.html import NOTHING, Html, join, tag
from supernet_jax.reporting.run_facts import Facts
from supernet_jax.reporting.run_results import Subnet
from supernet_jax.reporting.search_goal import MEASURED, UNITS, headed
from supernet_jax.searching import pareto_front
from supernet_jax.tasks import Metric

SPLIT = "held-out"  # by whose examples subnets are compared, never by those of the test split
STEPS = 200  # of a slider; beyond the last one there is no bound
SLIDERS = 8


class Cost(NamedTuple):
    """What can be bounded.

    Attributes:
        name: in records.
        label: how people call it, with its unit.
        of: how many subnets it is known of.
    """

    name: str
    label: str
    of: int


def known(facts: Facts) -> list[Subnet]:
    """The subnets that are compared: all that were measured on the held-out split as the front was,
    each once, with whatever costs are known of it.
    """
    fronts = ([facts.search] if facts.search else []) + facts.races
    scored, _, _ = subnet_charts.current(facts.evaluated, fronts)
    chosen = [s for front in fronts for s in front.chosen if s.split == SPLIT]
    same = (scored or chosen)[0].conditions if scored or chosen else ""
    found = {s.arch: s for s in scored}
    for s in chosen:
        if s.conditions == same:
            before = found.get(s.arch, s)
            found[s.arch] = before._replace(values={**before.values, **s.values})
    return list(found.values())


def costs(facts: Facts, subnets: Sequence[Subnet]) -> list[Cost]:
    """What can be bounded of some subnets; MACs first."""
    goal = facts.search.goal if facts.search else None
    names = ["macs", "parameters", *(one.cost for one in (goal.budgets if goal else ())), "latency"]
    units = UNITS | {MEASURED: "ms"} | (goal.units if goal else {})
    made = []
    for name in dict.fromkeys([*names, MEASURED]):
        count = sum(math.isfinite(cost_of(s, name)) for s in subnets)
        called = "measured latency" if name == MEASURED else name.replace("_", " ")
        label = headed(called, units.get(name, ""))
        made += [Cost(name, label, count)] if count and name != facts.metric.name else []
    return made[:SLIDERS]


def cost_of(s: Subnet, name: str) -> float:
    """A cost of a subnet; infinite where it is not known, so that it is within no bound."""
    own = {"macs": s.macs, "parameters": s.parameters}.get(name, s.values.get(name))
    return math.inf if own is None else own


def best(subnets: Sequence[Subnet], names: Sequence[str], metric: Metric) -> list[Subnet]:
    """Those that are best within some budgets of these costs, the best first.

    Of equally good ones the cheaper is better, by the costs in their order. So the first of them
    that is within budgets is the best of all subnets that are.
    """
    if not subnets:
        return []
    prices = np.array([[cost_of(s, name) for name in names] for s in subnets])
    scores = np.array([metric.score(s.value) for s in subnets])
    kept = pareto_front(np.c_[-prices, scores])
    order = np.lexsort((*prices[kept].T[::-1], -scores[kept]))
    return [subnets[i] for i in kept[order]]


def beside(facts: Facts, types: Mapping[str, type], config: str = "") -> Html:
    """The panel beside the chart, and the values that its script reads; nothing where no subnet was
    evaluated on the held-out split.

    Args:
        facts: of the run.
        types: configuration dataclasses by name.
        config: file that defines parts of the run, if it was named, for the command line.
    """
    subnets = known(facts)
    if not subnets:
        return NOTHING
    own = costs(facts, subnets)
    shown = best(subnets, [cost.name for cost in own], facts.metric)
    value = _values(facts, own, subnets, shown)
    value["command"] = _command(facts, config)
    value["bars"] = _bars(facts, types, shown, value["subnets"])
    sliders = [_slider(place, cost) for place, cost in enumerate(own)]
    button = tag("button", "Copy", type="button", id="copy")
    panel = tag(
        "aside",
        tag("div", tag("strong", "The best network with at most"), *sliders, class_="budgets"),
        tag("div", id="picked", role="status"),
        tag("div", tag("pre", tag("code", id="command")), button, id="take-out"),
        class_="picker",
        id="picker",
        aria_label="The best known network within budgets",
        hidden=True,
    )
    drawing = tag("figure", class_="chart", id="decisions", hidden=True)
    return join(panel, drawing, html.data("known", value))


def _slider(place: int, cost: Cost) -> Html:
    """A slider with the number beside it, which can be typed, too."""
    label = tag("label", cost.label, for_=f"range-{place}")
    number = tag(
        "input",
        type="text",
        inputmode="decimal",
        id=f"most-{place}",
        placeholder="no bound",
        autocomplete="off",
        spellcheck="false",
        aria_label=f"{cost.label}, at most",
    )
    slider = tag("input", type="range", id=f"range-{place}", min=0, max=STEPS, step=1, value=STEPS)
    return tag("div", label, number, slider, class_="budget")


def _values(
    facts: Facts, own: Sequence[Cost], subnets: Sequence[Subnet], shown: Sequence[Subnet]
) -> dict[str, Any]:
    """What the script reads, as JSON values."""
    metric, first = facts.metric, subnets[0]
    images = "" if first.images is None else f"{first.images:,.0f} "
    described = []
    for cost in own:
        seen = np.array([cost_of(s, cost.name) for s in subnets])
        seen = seen[np.isfinite(seen)]
        described.append(
            {
                "label": cost.label,
                "low": float(seen.min()),
                "high": float(seen.max()),
                "log": svg_axes.wants_log(seen),
                "of": cost.of,
            }
        )
    return {
        "scale": 100 if metric.unit == "%" else 1,
        "measured": f"{metric.name} on {images}{SPLIT} {metric.examples}",
        "steps": STEPS,
        "count": len(subnets),
        "costs": described,
        "subnets": [
            {
                "value": s.value,
                "shown": metric.shown(s.value),
                "costs": [c if math.isfinite(c := cost_of(s, cost.name)) else None for cost in own],
                "macs": s.macs,
                "arch": s.arch,
                "name": f"macs-{s.macs:.0f}",
            }
            for s in shown
        ],
    }


def _command(facts: Facts, config: str) -> list[str]:
    """The command line that takes an arch out, before and behind the arch."""
    more = f" --config {shlex.quote(config)}" if config else ""
    run = shlex.quote(str(facts.folder))
    return [f"supernet extract {run} --arch ", f"{more} --out networks/"]


def _bars(
    facts: Facts,
    types: Mapping[str, type],
    shown: Sequence[Subnet],
    values: Sequence[dict[str, Any]],
) -> dict[str, Any] | str:
    """What the drawing of decisions needs, or why there is none; an arch's own part is added to the
    values of its subnet.
    """
    try:
        space = run_space.space(facts, types)
        parts = decision_bars.drawn(space, [s.arch for s in shown])
        bars = decision_bars.described(space)
    except UserError as error:
        return f"Decisions are not drawn, because the space of the run is not known: {error}."
    for value, part in zip(values, parts, strict=True):
        value["bars"] = part
    return bars if bars["columns"] else "No block of the space can be smaller."
