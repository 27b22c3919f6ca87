"""`supernet search`: the best subnets under a budget, on images held out of training."""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from supernet_jax import choices, costs, progress, results
from supernet_jax.choices import Arch
from supernet_jax.commands import common
from supernet_jax.errors import UserError
from supernet_jax.experiment import Run
from supernet_jax.report import front as report
from supernet_jax.search import Budget, History, Searcher, evolution, pareto_front, random_search
from supernet_jax.search import run as run_search

EXAMPLES = """
supernet search runs/digits --high 300000
supernet search runs/digits --algorithm random --evaluations 500
supernet search runs/digits --cost parameters --high 50000"""
COSTS: dict[str, Callable] = {"macs": costs.macs, "parameters": costs.parameters}
UNITS = {"macs": "MACs", "parameters": "parameters"}
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
    """macs | parameters"""
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
    common.one_of("--cost", arguments.cost, COSTS)
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
    results.write_json(path, result)
    report.draw(arguments.run / "front.png", result)
    _print(result)
    print(f"wrote {path} and {arguments.run / 'front.png'}")
    print(f"next: supernet extract {arguments.run} --arch front:0 --out network")


def find(opened: Run, arguments: Arguments) -> dict[str, Any]:
    """Runs the search, or goes on with an interrupted one of the same settings.

    Returns:
        The result as JSON values: the front, all that was scored, and where it came from.
    """
    identity = _identity(opened, arguments)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = opened.folder / "searches"
    folder.mkdir(exist_ok=True)
    space = opened.experiment.space
    cost = COSTS[arguments.cost](space)
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
            _searcher(space.menu, cost, arguments),
            score,
            cost=cost,
            key=jax.random.key(arguments.seed),
            evaluations=arguments.evaluations,
            state_file=folder / f"{digest}.npz",
            identity=identity,
            on_progress=on_progress,
        )
    records = scorer(choices.unstack(choices.unpack(space.menu, found.archs)))
    return {
        "run": str(opened.folder),
        **identity,
        "unit": UNITS[arguments.cost],
        "evaluations": len(records),
        "front": [records[i] for i in pareto_front(found.scores, found.costs)],
        "all": [[record[arguments.cost], record["accuracy"]] for record in records],
    }


def _searcher(menu: Any, cost: Callable, arguments: Arguments) -> Searcher:
    unit = UNITS[arguments.cost]
    budget = Budget(arguments.low, arguments.high, unit)
    if arguments.algorithm == "random":
        return random_search(menu, cost=cost, budget=budget, batch=arguments.population)
    low = max(arguments.low, float(cost(choices.smallest(menu))))
    high = min(arguments.high, float(cost(choices.largest(menu))))
    return evolution(
        menu,
        cost=cost,
        budget=budget,
        step=max(1.0, (high - low) / arguments.bins),
        population=arguments.population,
        mutations=arguments.mutations,
        crossovers=arguments.crossovers,
        mutation_rate=arguments.mutation_rate,
    )


def _identity(opened: Run, arguments: Arguments) -> dict[str, Any]:
    """All that tells this search from another, except for how long it goes on."""
    settings = dataclasses.asdict(arguments)
    for name in ("run", "config", "evaluations"):
        del settings[name]
    settings["high"] = None if math.isinf(arguments.high) else arguments.high
    return {**settings, **results.conditions(opened, SPLIT)}


def _print(result: dict[str, Any]) -> None:
    table = rich.table.Table("front", "MACs", "parameters", "accuracy", box=None)
    for i, entry in enumerate(result["front"]):
        cells = f"{entry['macs']:,}", f"{entry['parameters']:,}", f"{entry['accuracy']:.2%}"
        table.add_row(f"front:{i}", *cells)
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['evaluations']} subnets scored on {result['images']} images held out of training"
    )
