"""What a search wanted and how it did, as `search.json` of this or an older version says it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from supernet_jax.reporting.tolerant_json import mapping, number, share
from supernet_jax.tasks import Metric

UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "ms", "loss": "nats"}
DIRECTIONS = {"max": 1, "min": -1}
MEASURED = "measured_ms"  # of a record of a front that was measured


class Budget(NamedTuple):
    """A cost of a search, its unit, and the least and the most that it may be; None is no bound."""

    cost: str
    unit: str
    low: float | None
    high: float | None


class Objective(NamedTuple):
    """What was to be large (sign 1) or small (-1): a metric or a cost, and its unit."""

    name: str
    unit: str
    sign: int


class Goal(NamedTuple):
    """What a search was for.

    Attributes:
        budgets: one for each of its costs; the first is what its front is sorted by.
        objectives: measured ones first.
    """

    budgets: tuple[Budget, ...] = ()
    objectives: tuple[Objective, ...] = ()

    @property
    def first(self) -> str:
        """The first cost."""
        return self.budgets[0].cost if self.budgets else "macs"

    @property
    def units(self) -> dict[str, str]:
        """Units of all costs and objectives by name."""
        named = {one.name: one.unit for one in self.objectives}
        return {one.cost: one.unit for one in self.budgets} | named

    def is_of(self, metric: Metric, cost: str) -> bool:
        """Whether it weighs a metric against a cost and nothing else: its front is a staircase."""
        better = 1 if metric.higher_is_better else -1
        signs = {one.name: one.sign for one in self.objectives}
        return signs == {metric.name: better, cost: -1}


def measured(value: Any, metric: Metric) -> float | None:
    """A value of a metric, or None: shares are in [0, 1]."""
    return share(value) if metric.unit == "%" else number(value)


def goal(result: Mapping[str, Any], metric: Metric) -> Goal:
    """Budgets and objectives; an older version's are its one cost, and that and the metric."""
    said = result.get("budgets")
    costs: dict[str, Budget] = {}
    for one in map(mapping, said if isinstance(said, list) else [result]):
        name = str(one.get("cost", "macs"))
        unit = str(one.get("unit", UNITS.get(name, "")))
        costs.setdefault(name, Budget(name, unit, number(one.get("low")), number(one.get("high"))))
    units = UNITS | {name: one.unit for name, one in costs.items()} | {metric.name: metric.unit}
    budgets = tuple(costs.values())
    signs = {metric.name: 1 if metric.higher_is_better else -1, Goal(budgets).first: -1}
    if isinstance(wanted := result.get("objectives"), list):
        pairs = [(one.get("name"), str(one.get("direction"))) for one in map(mapping, wanted)]
        signs = {str(name): DIRECTIONS[way] for name, way in pairs if way in DIRECTIONS}
    objectives = [Objective(name, units.get(name, ""), sign) for name, sign in signs.items()]
    return Goal(budgets, tuple(objectives))


def scored(result: Mapping[str, Any], metric: Metric, goal: Goal) -> list[dict[str, float]]:
    """Costs and metric of all that was scored, by name; those without a metric are left out."""
    names = [goal.first, metric.name, *(one.cost for one in goal.budgets[1:])]
    rows = result.get("all")
    found = []
    for row in rows if isinstance(rows, list) else []:
        known = dict(zip(names, row, strict=False)) if isinstance(row, list) else {}
        if measured(known.get(metric.name), metric) is not None:
            values = {name: number(value) for name, value in known.items()}
            found.append({name: value for name, value in values.items() if value is not None})
    return found


def headed(name: str, unit: str) -> str:
    """A name with its unit, as heads of columns and axes have it."""
    if name.lower() == unit.lower():
        return unit
    return f"{name}, {unit}" if unit else name


def wanted(goal: Goal) -> str:
    """Objectives and budgets in a sentence."""
    sizes = {1: "largest", -1: "smallest"}
    best = [f"the {sizes[one.sign]} {_called(one.name, one.unit)}" for one in goal.objectives]
    allowed = [text for one in goal.budgets if (text := _allowed(one))]
    parts = [
        f"its {name}{' was' if len(of) == 1 else 's were'} {_listed(of)}"
        for name, of in (("objective", best), ("budget", allowed))
        if of
    ]
    return f"I{'; '.join(parts)[1:]}." if parts else ""


def _called(name: str, unit: str) -> str:
    return unit if name.lower() == unit.lower() else name


def _allowed(one: Budget) -> str:
    name, ends = _called(one.cost, one.unit), [one.low, one.high]
    low, high = ("" if end is None else f"{end:,.15g}" for end in ends)
    unit = "" if name == one.unit or not one.unit else f" {one.unit}"
    if low and high:
        return f"{name} from {low} to {high}{unit}"
    return f"{name} of at {'least' if low else 'most'} {low or high}{unit}" if low or high else ""


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1])] * (len(texts) > 1) + list(texts[-1:]))


def searcher(result: Mapping[str, Any]) -> str:
    """Who searched."""
    return str(result.get("searcher", result.get("algorithm", "?")))  # as older versions call it


def compared(result: Mapping[str, Any]) -> str:
    """How the searcher did beside random search, in a sentence."""
    name, random = searcher(result), result.get("random")
    if random is None and name == "random":
        return "The searcher was random search itself, so there is nothing to compare it with."
    if random is None:
        return (
            "No random search was made beside it (it was left out by --no-baseline, or an older "
            "version searched), so whether the searcher beat one is not known."
        )
    own, other = (number(mapping(one).get("hypervolume")) for one in (result, random))
    count = number(mapping(random).get("evaluations"))
    if own is None or other is None:
        return "How the searcher did beside random search cannot be read."
    many = "" if count is None else f" of {count:,.0f} subnets"
    verdict = "" if own > other else ": the searcher did not beat random search"
    return (
        f"The front of {name} dominates {own:.1%} of the volume that both fronts span, that of a "
        f"random search{many} {other:.1%}{verdict}."
    )


def raced(result: Mapping[str, Any], metric: Metric) -> str:
    """What the races of a search read, in a sentence; "" if there were none."""
    shares, race = [], mapping(result.get("race"))
    for one in (race, mapping(mapping(result.get("random")).get("race"))):
        seen, full = number(one.get("images_seen")), number(one.get("images_of_full_evaluation"))
        if seen and full:
            shares.append(f"{seen:,.0f} of {full:,.0f} {metric.examples} ({seen / full:.1%})")
    dropped = race.get("dropped")
    if not shares or not isinstance(dropped, list):
        return ""
    return (
        f"With races the search read {', and the random one beside it '.join(shares)}: "
        f"{len(dropped):,} subnets were dropped before they had seen all. What is known of these "
        "is an estimate, and on no front."
    )


def timed(result: Mapping[str, Any]) -> list[str]:
    """How the latency table agrees with the networks of the front, where they were measured."""
    found = mapping(result.get("measured"))
    count, error, spread = (number(found.get(k)) for k in ("networks", "median_error", "spread"))
    if count is None or error is None:
        return []
    tau, noise = number(found.get("kendall")), ""
    if spread is not None:
        noise = f"; their own timings spread by {spread:.1%}"
    ranked = "" if tau is None else f", and Kendall's tau is {tau:.3f}"
    said = [
        f"Table against measurement: {count:,.0f} networks of the front were measured "
        f"({found.get('where', '?')}), and differ from the latency table by {error:.1%} (median)"
        f"{ranked}{noise}."
    ]
    if isinstance(elsewhere := found.get("elsewhere"), list) and elsewhere:
        other = "; ".join(map(str, elsewhere))
        said.append(f"The table was measured under other conditions: {other}.")
    return said
