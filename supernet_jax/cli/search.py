"""`supernet search`: the best subnets under a budget, on images held out of training."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from supernet_jax.cli import shared
from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.costs import Cost
from supernet_jax.experiment import results
from supernet_jax.experiment.run import Run
from supernet_jax.reporting import front_png
from supernet_jax.runtime import progress
from supernet_jax.searching import Budget, History, Searcher, evolution, pareto_front, random_search
from supernet_jax.searching import run as run_search
from supernet_jax.storage import files

EXAMPLES = """
supernet search runs/digits --high 300000
supernet search runs/digits --algorithm random --evaluations 500
supernet search runs/digits --cost parameters --high 50000
supernet search runs/digits --cost latency:latency.json --high 0.5
supernet search runs/digits --high 300000 --out small.json"""
COSTS: dict[str, Callable] = {"macs": costs.macs, "parameters": costs.parameters}
UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "ms"}
LATENCY = "latency:"
STATE = 2  # version of what a search asks for, so that one of another version is not gone on with
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
    out: pathlib.Path | None = None
    """write the result to this JSON file and its picture beside it (default: search.json and
    front.png of the run folder, those of the last search)"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""


def run(arguments: Arguments) -> None:
    """Searches, and writes the result and a picture of the front."""
    if not arguments.cost.startswith(LATENCY):
        shared.one_of("--cost", arguments.cost, [*COSTS, f"{LATENCY}FILE"])
    shared.one_of("--algorithm", arguments.algorithm, ("evolution", "random"))
    for name, value, low in (
        ("--evaluations", arguments.evaluations, 1),
        ("--population", arguments.population, 1),
        ("--mutations", arguments.mutations, 0),
        ("--crossovers", arguments.crossovers, 0),
        ("--mutations + --crossovers", arguments.mutations + arguments.crossovers, 1),
        ("--bins", arguments.bins, 1),
        ("--seed", arguments.seed, 0),
    ):
        shared.at_least(name, value, low)
    if not 0 < arguments.mutation_rate <= 1:
        raise UserError(
            f"--mutation-rate is {arguments.mutation_rate}, but must be above 0 and at most 1"
        )
    path, picture = _places(arguments)
    opened = shared.open_run(arguments.run, arguments.config)
    result = find(opened, arguments)
    if arguments.out is not None and files.is_writable(opened.folder):
        _places(arguments)  # they were free when this began; what is known is not computed again
    files.write_json(path, result)
    front_png.draw(picture, result)
    _print(result)
    print(f"wrote {path} and {picture}")
    which = "front:0 --out network" if arguments.out is None else f"{path} --out networks"
    print(f"next: supernet extract {shlex.quote(str(arguments.run))} --arch {which}")


def _places(arguments: Arguments) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the result and its picture are written.

    Raises:
        UserError: with `--out`, something is there already, or nothing can be written there.
    """
    out = arguments.out
    if out is None:
        return arguments.run / shared.SEARCH_FILE, arguments.run / "front.png"
    if out.suffix != ".json":
        raise UserError(f"--out is {out}, but the result is JSON; end it in .json")
    for path in (out, out.with_suffix(".png")):
        shared.check_writable("--out", path)
    return out, out.with_suffix(".png")


def find(opened: Run, arguments: Arguments) -> dict[str, Any]:
    """Runs the search, or goes on with an interrupted one of the same settings.

    Returns:
        The result as JSON values: the front, all that was scored, and where it came from.

    Raises:
        UserError: nothing can be kept in the run's folder, and there is no other place; no subnet
            has a loss that is a number.
    """
    keep = shared.keeps_results(opened, arguments.out)
    space = opened.experiment.space
    spent = _spent(space, arguments.cost)
    identity = _identity(opened, arguments, spent)
    scorer = results.Scorer(opened, SPLIT, what="", keep=keep)
    with progress.bar("searching", arguments.evaluations, unit="subnet") as advance:
        scored = 0

        def score(archs: Arch) -> np.ndarray:
            records = scorer(choices.unstack(archs))
            return np.asarray([_score(record) for record in records])

        def on_progress(history: History) -> None:
            nonlocal scored
            numbers = history.scores[~np.isnan(history.scores)]
            note = f"best {numbers.max():.2%}" if len(numbers) else "no loss is a number"
            advance(len(history.scores) - scored, note)
            scored = len(history.scores)

        found = run_search(
            _searcher(space, spent, arguments),
            score,
            cost=spent.cost,
            key=jax.random.key(arguments.seed),
            evaluations=arguments.evaluations,
            state_file=_state_file(opened, identity) if keep else None,
            identity=identity,
            on_progress=on_progress,
        )
    records = scorer(choices.unstack(choices.unpack(space.menu, found.archs)))
    if spent.key not in COSTS:  # those are in every record
        records = [
            {**record, spent.key: float(value)}
            for record, value in zip(records, found.costs, strict=True)
        ]
    broken = sum(record["loss"] is None for record in records)
    results.require_numbers(len(records), broken)
    return {
        "run": str(opened.folder),
        **identity,
        "unit": UNITS[spent.key],
        "evaluations": len(records),
        "not_a_number": broken,
        "front": [records[i] for i in pareto_front(found.scores, found.costs)],
        "all": [
            [record[spent.key], None if record["loss"] is None else record["accuracy"]]
            for record in records
        ],
    }


def _score(record: dict[str, Any]) -> float:
    """Accuracy, NaN of a subnet whose loss is not a number: it is on no front."""
    return math.nan if record["loss"] is None else record["accuracy"]


def _state_file(opened: Run, identity: dict[str, Any]) -> pathlib.Path:
    """Where the search is kept. One that an older version began is left alone, and that is said."""
    folder = opened.folder / "searches"
    old, own = (folder / f"{_digest(value)}.npz" for value in (identity, [STATE, identity]))
    if os.path.lexists(old) and not os.path.lexists(own):
        print(
            f"supernet: note: {old} was begun by a version that scored some networks more than "
            "once; the search begins anew, and what was evaluated is not computed again",
            file=sys.stderr,
        )
    return own


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


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
    table = latency_table.read(path)
    source = {
        "file": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "measured": latency_table.provenance(table),
    }
    return _Spent("latency", costs.latency(space, table), 1e-6, {"latency_table": source})


def _searcher(space: Space, spent: _Spent, arguments: Arguments) -> Searcher:
    menu, cost, normal = space.menu, spent.cost, functools.partial(elastic_space.normal, space)
    budget = Budget(arguments.low, arguments.high, UNITS[spent.key])
    if arguments.algorithm == "random":
        batch = arguments.population
        return random_search(menu, cost=cost, budget=budget, batch=batch, normal=normal)
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
        normal=normal,
    )


def _identity(opened: Run, arguments: Arguments, spent: _Spent) -> dict[str, Any]:
    """All that tells this search from another, except for how long it goes on."""
    settings = dataclasses.asdict(arguments)
    for name in ("run", "config", "evaluations", "out"):
        del settings[name]
    for name in ("low", "high"):
        settings[name] = None if math.isinf(settings[name]) else settings[name]
    settings["cost"] = spent.key
    return {**settings, **spent.source, **results.conditions(opened, SPLIT)}


def _print(result: dict[str, Any]) -> None:
    timed = result["cost"] == "latency"
    table = rich.table.Table("front", *["ms"] * timed, "MACs", "parameters", "accuracy", box=None)
    for i, entry in enumerate(result["front"]):
        cells = [f"{entry['macs']:,}", f"{entry['parameters']:,}", f"{entry['accuracy']:.2%}"]
        milliseconds = [str(entry["latency"])] if timed else []  # such that it can be a bound
        table.add_row(f"front:{i}", *milliseconds, *cells)
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['evaluations']} subnets scored on {result['images']} images held out of training"
    )
    if result["not_a_number"]:
        print(f"the loss of {result['not_a_number']} of them is not a number; they are on no front")
    if timed:
        source = result["latency_table"]
        print(f"milliseconds from {source['file']}: {source['measured']}")
