"""`supernet search`: the best subnets under a budget, on images held out of training."""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from supernet_jax import choices, costs, latency, progress, results
from supernet_jax.choices import Arch
from supernet_jax.commands import common
from supernet_jax.costs import Cost
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run
from supernet_jax.network import Space
from supernet_jax.report import front as report
from supernet_jax.search import Budget, History, Searcher, evolution, pareto_front, random_search
from supernet_jax.search import run as run_search
from supernet_jax.storage import files

EXAMPLES = """
supernet search runs/digits --high 300000
supernet search runs/digits --algorithm random --evaluations 500
supernet search runs/digits --cost parameters --high 50000
supernet search runs/digits --cost latency:latency.json --high 0.5"""
COSTS: dict[str, Callable] = {"macs": costs.macs, "parameters": costs.parameters}
UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "ms"}
LATENCY = "latency:"
SPLIT = "held-out"  # taken from the training images; the test split is never searched on


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search for the best subnets under a budget, on images held out of training."""

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    low: float = 0.0
    """smallest cost allowed"""
    high: float = math.inf
    """largest cost allowed"""
    cost: str = "macs"
    """macs | parameters | latency:FILE, a table of `supernet latency`, in milliseconds"""
    algorithm: str = "evolution"
    """evolution | random"""
    evaluations: int = 512
    """subnets to evaluate in all"""
    population: int = 128
    """random subnets to begin with (evolution)"""
    mutations: int = 32
    """mutated subnets per generation (evolution)"""
    crossovers: int = 32
    """crossed subnets per generation (evolution)"""
    mutation_rate: float = 0.2
    """probability that a decision of a mutant changes (evolution)"""
    bins: int = 64
    """cost bins; the best subnet of each is a parent (evolution)"""
    seed: int = 0
    """of the search"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""


def run(arguments: Arguments) -> None:
    """Searches, and writes the result and a picture of the front."""
    if not arguments.cost.startswith(LATENCY):
        common.one_of("--cost", arguments.cost, [*COSTS, f"{LATENCY}FILE"])
    common.one_of("--algorithm", arguments.algorithm, ("evolution", "random"))
    for name, value, low in (
        ("--evaluations", arguments.evaluations, 1),
        ("--population", arguments.population, 1),
        ("--mutations", arguments.mutations, 0),
        ("--crossovers", arguments.crossovers, 0),
        ("--mutations + --crossovers", arguments.mutations + arguments.crossovers, 1),
        ("--bins", arguments.bins, 1),
        ("--seed", arguments.seed, 0),
    ):
        common.at_least(name, value, low)
    if not 0 < arguments.mutation_rate <= 1:
        raise UserError(
            f"--mutation-rate is {arguments.mutation_rate}, but must be above 0 and at most 1"
        )
    opened = common.open_run(arguments.run, arguments.config)
    result = find(opened, arguments)
    path = arguments.run / common.SEARCH_FILE
    files.write_json(path, result)
    report.draw(arguments.run / "front.png", result)
    _print(result)
    print(f"wrote {path} and {arguments.run / 'front.png'}")
    print(f"next: supernet extract {arguments.run} --arch front:0 --out network")


def find(opened: Run, arguments: Arguments) -> dict[str, Any]:
    """Runs the search, or goes on with an interrupted one of the same settings.

    Returns:
        The result as JSON values: the front, all that was scored, and where it came from.
    """
    spent = _spent(opened.experiment.space, arguments.cost)
    identity = _identity(opened, arguments, spent)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = opened.folder / "searches"
    folder.mkdir(exist_ok=True)
    space = opened.experiment.space
    scorer = results.Scorer(opened, SPLIT, what="")
    with progress.bar("searching", arguments.evaluations, unit="subnet") as advance:
        scored = 0

        def score(archs: Arch) -> np.ndarray:
            records = scorer(choices.unstack(archs))
            return np.asarray([record["accuracy"] for record in records])

        def on_progress(history: History) -> None:
            nonlocal scored
            advance(len(history.scores) - scored, f"best {np.nanmax(history.scores):.2%}")
            scored = len(history.scores)

        found = run_search(
            _searcher(space.menu, spent, arguments),
            score,
            cost=spent.cost,
            key=jax.random.key(arguments.seed),
            evaluations=arguments.evaluations,
            state_file=folder / f"{digest}.npz",
            identity=identity,
            on_progress=on_progress,
        )
    records = scorer(choices.unstack(choices.unpack(space.menu, found.archs)))
    if spent.key not in COSTS:  # those are in every record
        records = [
            {**record, spent.key: round(float(value), 6)}
            for record, value in zip(records, found.costs, strict=True)
        ]
    return {
        "run": str(opened.folder),
        **identity,
        "unit": UNITS[spent.key],
        "evaluations": len(records),
        "front": [records[i] for i in pareto_front(found.scores, found.costs)],
        "all": [[record[spent.key], record["accuracy"]] for record in records],
    }


class _Spent(NamedTuple):
    """What a search has a budget of.

    Attributes:
        key: under which results hold it.
        cost: of archs.
        least: width of the narrowest bin that makes sense.
        source: what else tells the search from others.
    """

    key: str
    cost: Cost
    least: float
    source: dict[str, Any]


def _spent(space: Space, name: str) -> _Spent:
    """The cost that an option names.

    Raises:
        UserError: a latency table that is missing, broken, unfinished or of other blocks.
    """
    if name in COSTS:
        return _Spent(name, COSTS[name](space), 1.0, {})
    path = pathlib.Path(name.removeprefix(LATENCY))
    table = latency.read(path)
    source = {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "measured": latency.provenance(table),
    }
    return _Spent("latency", costs.latency(space, table), 1e-6, {"latency_table": source})


def _searcher(menu: Any, spent: _Spent, arguments: Arguments) -> Searcher:
    cost, budget = spent.cost, Budget(arguments.low, arguments.high, UNITS[spent.key])
    if arguments.algorithm == "random":
        return random_search(menu, cost=cost, budget=budget, batch=arguments.population)
    low = max(arguments.low, float(cost(choices.smallest(menu))))
    high = min(arguments.high, float(cost(choices.largest(menu))))
    return evolution(
        menu,
        cost=cost,
        budget=budget,
        step=max(spent.least, (high - low) / arguments.bins),
        population=arguments.population,
        mutations=arguments.mutations,
        crossovers=arguments.crossovers,
        mutation_rate=arguments.mutation_rate,
    )


def _identity(opened: Run, arguments: Arguments, spent: _Spent) -> dict[str, Any]:
    """All that tells this search from another, except for how long it goes on."""
    settings = dataclasses.asdict(arguments)
    for name in ("run", "config", "evaluations"):
        del settings[name]
    settings["high"] = None if math.isinf(arguments.high) else arguments.high
    settings["cost"] = spent.key
    return {**settings, **spent.source, **results.conditions(opened, SPLIT)}


def _print(result: dict[str, Any]) -> None:
    timed = result["cost"] == "latency"
    table = rich.table.Table("front", *["ms"] * timed, "MACs", "parameters", "accuracy", box=None)
    for i, entry in enumerate(result["front"]):
        cells = [f"{entry['macs']:,}", f"{entry['parameters']:,}", f"{entry['accuracy']:.2%}"]
        milliseconds = [f"{entry['latency']:.4g}"] if timed else []
        table.add_row(f"front:{i}", *milliseconds, *cells)
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['evaluations']} subnets scored on {result['images']} images held out of training"
    )
    if timed:
        source = result["latency_table"]
        print(f"milliseconds from {source['file']}: {source['measured']}")
