"""What a search limits and what it wants: budgets and objectives, as people write them.

A budget is `NAME:LOW..HIGH`, either end left out for no bound; an objective is `NAME:min` or
`NAME:max`. Names are those of costs (the library's, `latency:FILE`, and parts of the user's own),
and of what is measured: the metric of the task, and `loss`.
"""

import dataclasses
import hashlib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.costs import Cost
from supernet_jax.evaluation.latency_table import Table
from supernet_jax.searching import Budget, Costs
from supernet_jax.storage import files, typed_json, user_code
from supernet_jax.storage.paths import expanded

LATENCY = costs.Latency.name
RECORDED = (costs.Macs.name, costs.Parameters.name)  # every record has them
COSTS: dict[str, Any] = {  # by name, what needs no settings
    vars(kind)["name"]: kind
    for kind in vars(costs).values()
    if hasattr(kind, "build") and kind is not costs.Latency
}
DIRECTIONS = {"min": -1, "max": 1}
LOSS = "loss"
# Names that records have for something else.
RESERVED = ("arch", "space", "checkpoint", "split", "images", "data", "calibration", "dtype")


class Priced(NamedTuple):
    """A cost that a search looks at.

    Attributes:
        name: under which results hold it.
        unit: what it counts.
        cost: of archs.
        low: the least that is allowed, or None.
        high: the most, or None.
        aim: -1 if less is better, 1 if more is, 0 if only the budget counts.
        source: JSON values that tell it from others of its name.
        table: whose milliseconds they are, or None.
    """

    name: str
    unit: str
    cost: Cost
    low: float | None
    high: float | None
    aim: int
    source: dict[str, Any]
    table: Table | None = None

    def as_json(self) -> dict[str, Any]:
        """All but the function."""
        return {
            "cost": self.name,
            "unit": self.unit,
            "low": self.low,
            "high": self.high,
            "aim": self.aim,
            **self.source,
        }


class Goal(NamedTuple):
    """What a search is for.

    Attributes:
        measured: names of the scores, as records have them, and 1 if more is better, else -1.
        priced: the costs.
    """

    measured: tuple[tuple[str, int], ...]
    priced: tuple[Priced, ...]

    @property
    def costs(self) -> Costs:
        """Costs, budgets and aims, as searchers take them."""
        return Costs(
            tuple(one.cost for one in self.priced),
            tuple(
                Budget(
                    -math.inf if one.low is None else one.low,
                    math.inf if one.high is None else one.high,
                    one.unit,
                )
                for one in self.priced
            ),
            tuple(one.aim for one in self.priced),
        )


def goal(
    space: Space,
    budgets: Mapping[str, tuple[float | None, float | None]],
    objectives: Iterable[str] = (),
    own: Sequence[Any] = (),
) -> Goal:
    """The goal of a search.

    Args:
        space: that is searched.
        budgets: the least and the most of each cost, by its name; without any, MACs without bounds.
        objectives: `NAME:min` or `NAME:max`; without any, the task's metric and, as small as can
            be, each cost that has a budget.
        own: costs beside the library's: parts with `name`, `unit` and `build`, or latency tables.

    Raises:
        UserError: a name that is not known or that results need for something else, a budget upside
            down or that nothing finite is in, an objective without a direction or twice; a latency
            table that is missing, broken, unfinished or of other blocks.
    """
    metric = space.task.metric
    named = {LATENCY if isinstance(part, Table) else user_code.name_of(part): part for part in own}
    given: dict[str, Any] = {str(name): ends for name, ends in budgets.items()}
    if not given and not objectives:
        given = {"macs": (None, None)}
    wanted = _directions(objectives)
    measured = {
        name: wanted.pop(name)
        for name in list(wanted)
        if name in (metric.name, LOSS) and name not in given
    }
    if not objectives:
        measured = {metric.name: 1 if metric.higher_is_better else -1}
        wanted = dict.fromkeys(given, -1)
    priced = [_cost(space, name, named, [metric.name, LOSS]) for name in {**given, **wanted}]
    if not measured:
        raise UserError(
            f"no objective is measured, so nothing needs a search; add one of {metric.name}:"
            f"{'max' if metric.higher_is_better else 'min'} and {LOSS}:min"
        )
    found: list[Priced] = []
    for name, (key, unit, cost, source, table) in zip({**given, **wanted}, priced, strict=True):
        low, high = _bounds(key, given.get(name, (None, None)))
        if key in [one.name for one in found]:
            raise UserError(f"there are two budgets of {key}; give it one, as {key}:LOW..HIGH")
        found.append(Priced(key, unit, cost, low, high, wanted.get(name, 0), source, table))
    return Goal(tuple(measured.items()), tuple(found))


def _bounds(name: str, ends: Any) -> tuple[float | None, float | None]:
    """Both ends of a budget, None for an end that bounds nothing."""
    pair = tuple(ends) if isinstance(ends, Iterable) and not isinstance(ends, str) else ()
    if len(pair) != 2 or not all(end is None or isinstance(end, numbers.Real) for end in pair):
        raise UserError(
            f"the budget of {name} is {ends!r}; give the least and the most, None for no bound, as "
            "(None, 300e6)"
        )
    least = -math.inf if pair[0] is None else float(pair[0])
    most = math.inf if pair[1] is None else float(pair[1])
    if not least <= most or least == math.inf or most == -math.inf:
        raise UserError(
            f"the budget of {name} goes from {least} to {most}; it needs two numbers, the lower "
            "one first"
        )
    return None if least == -math.inf else least, None if most == math.inf else most


def read_budgets(texts: Iterable[str]) -> dict[str, tuple[float | None, float | None]]:
    """Budgets as `NAME:LOW..HIGH`.

    Raises:
        UserError: one is written otherwise.
    """
    found: dict[str, tuple[float | None, float | None]] = {}
    for text in texts:
        name, colon, bounds = text.rpartition(":")
        low, dots, high = bounds.partition("..")
        try:
            if not (colon and dots and name):
                raise ValueError
            ends = [float(end) if end.strip() else None for end in (low, high)]
        except ValueError:
            raise UserError(
                f"the budget {text!r} cannot be read; write NAME:LOW..HIGH with either end or "
                "both, as macs:..300e6 or parameters:1e6..5e6"
            ) from None
        if name in found:
            raise UserError(f"there are two budgets of {name}; give it one, as {name}:LOW..HIGH")
        found[name] = (ends[0], ends[1])
    return found


def _directions(objectives: Iterable[str]) -> dict[str, int]:
    """Names and directions of `NAME:min` and `NAME:max`."""
    found: dict[str, int] = {}
    for text in map(str, [objectives] if isinstance(objectives, str) else objectives):
        name, _, direction = text.rpartition(":")
        if direction not in DIRECTIONS or not name:
            bare = name or text.strip(":") or "NAME"
            raise UserError(
                f"the objective {text!r} has no direction; write {bare}:min if less is better, "
                f"{bare}:max if more is"
            )
        if name in found:
            raise UserError(f"{name} is an objective twice; give it once")
        found[name] = DIRECTIONS[direction]
    return found


def _cost(
    space: Space, name: str, own: Mapping[str, Any], measured: Sequence[str]
) -> tuple[str, str, Cost, dict[str, Any], Table | None]:
    """Name in results, unit, cost, source and table of the cost that a name stands for."""
    if name.startswith(f"{LATENCY}:"):
        path = expanded(name.removeprefix(f"{LATENCY}:"))
        return _latency(space, latency_table.read(path), files.read_bytes(path), str(path))
    table = own.get(name)
    if isinstance(table, costs.Latency):
        return _cost(space, f"{LATENCY}:{table.table}", {}, measured)
    if isinstance(table, Table):
        content = files.dumps(dataclasses.asdict(table)).encode()
        return _latency(space, table, content, "a table in memory")
    if name in own:
        return name, *_own(space, name, own[name], measured), None
    if name in COSTS:
        part = COSTS[name]()
        return name, part.unit, part.build(space), _source(part), None
    known = list(dict.fromkeys([*COSTS, f"{LATENCY}:FILE", *own]))
    also = f" (measured: {', '.join(measured)}; those are objectives)" if name in measured else ""
    raise UserError(
        f"there is no cost {name!r}, only {', '.join(known)}{also}; one of your own is a part of "
        f"`costs` in a config file, given with --config{near(name, known)}"
    )


def _own(
    space: Space, name: str, part: Any, measured: Sequence[str]
) -> tuple[str, Cost, dict[str, Any]]:
    """Unit, cost and source of a part, which may be the user's own."""
    kind = type(part).__name__
    if not (dataclasses.is_dataclass(part) and hasattr(part, "unit") and hasattr(part, "build")):
        raise UserError(
            f"the cost {name} is a {kind}; a cost is a frozen dataclass with `name`, `unit` and "
            "`build(space)`"
        )
    another = name in COSTS and not isinstance(part, COSTS[name])
    if another or name in (*measured, *RESERVED):
        raise UserError(
            f"the cost {kind} has the name {name!r}, which means something else in results; give "
            "it another `name`"
        )
    with user_code.blamed(part, f"{kind}.build(space)"):
        cost = part.build(space)
    if not callable(cost):
        raise UserError(
            f"{kind}.build(space) returns a {type(cost).__name__}; it must return a function of "
            "archs"
        )
    if not isinstance(cost, costs.BlockCost):  # which is the library's, and is looked into
        cost = user_code.watched(part, f"the cost {name}", cost)
    return str(part.unit), cost, _source(part)


def _source(part: Any) -> dict[str, Any]:
    """What tells a cost from others of its name: its settings."""
    described = typed_json.to_json(part)
    return {"settings": described} if len(described) > 1 else {}


def _latency(
    space: Space, table: Table, content: bytes, where: str
) -> tuple[str, str, Cost, dict[str, Any], Table]:
    source = {
        "file": where,
        "sha256": hashlib.sha256(content).hexdigest(),
        "measured": latency_table.provenance(table),
    }
    return LATENCY, "ms", costs.latency(space, table), {"latency_table": source}, table
