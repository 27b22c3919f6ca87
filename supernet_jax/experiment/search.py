"""`sj.search`: the best subnets of a run under a budget, on images held out of training.

The state of each search lies in `searches/` of the run folder, so that it goes on after a stop.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import LOG, UserError, at_least, one_of
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.costs import Cost
from supernet_jax.evaluation.latency_table import Table
from supernet_jax.experiment import front, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.front import Front
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed, progress
from supernet_jax.searching import Budget, History, Searcher, evolution, pareto_front, random_search
from supernet_jax.searching import run as run_search
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded

COSTS: dict[str, Callable] = {"macs": costs.macs, "parameters": costs.parameters}
UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "ms"}
LATENCY = "latency:"
STATE = 2  # version of what a search asks for, so that one of another version is not gone on with
SPLIT = "held-out"  # taken from the training images; the test split is never searched on


@dataclasses.dataclass(frozen=True)
class Search:
    """The budget of a search, its algorithm, and how many subnets it evaluates."""

    low: float = 0.0
    """smallest cost that a subnet may have, in units of --cost"""
    high: float = math.inf
    """largest cost that a subnet may have; more lets larger and better subnets in"""
    cost: str = "macs"
    """what the budget limits: macs | parameters | latency:FILE of `supernet latency`, in ms"""
    algorithm: str = "evolution"
    """evolution | random, its baseline"""
    evaluations: int = 512
    """subnets to evaluate in all; more find a better front, and take longer"""
    population: int = 128
    """evolution: random subnets to begin with; more leave fewer evaluations to generations"""
    mutations: int = 32
    """evolution: mutated subnets per generation; more make fewer, larger generations"""
    crossovers: int = 32
    """evolution: crossed subnets per generation; more make fewer, larger generations"""
    mutation_rate: float = 0.2
    """evolution: probability that a decision of a mutant changes; more is a wider search"""
    bins: int = 64
    """evolution: ranges of cost; the best subnet of each is a parent, so more keep more parents"""
    seed: int = 0
    """seed of all random numbers"""

    def __post_init__(self) -> None:
        if not self.cost.startswith(LATENCY):
            one_of("--cost", self.cost, [*COSTS, f"{LATENCY}FILE"])
        Budget(self.low, self.high)  # which refuses one that is upside down
        one_of("--algorithm", self.algorithm, ("evolution", "random"))
        for name, value, low in (
            ("--evaluations", self.evaluations, 1),
            ("--population", self.population, 1),
            ("--mutations", self.mutations, 0),
            ("--crossovers", self.crossovers, 0),
            ("--mutations + --crossovers", self.mutations + self.crossovers, 1),
            ("--bins", self.bins, 1),
            ("--seed", self.seed, 0),
        ):
            at_least(name, value, low)
        if not 0 < self.mutation_rate <= 1:
            raise UserError(
                f"--mutation-rate is {self.mutation_rate}, but must be above 0 and at most 1"
            )


def search(
    run: Run | str | os.PathLike[str],
    *,
    low: float = 0.0,
    high: float = math.inf,
    cost: str | os.PathLike[str] | Table = "macs",
    algorithm: str = "evolution",
    evaluations: int = 512,
    population: int = 128,
    mutations: int = 32,
    crossovers: int = 32,
    mutation_rate: float = 0.2,
    bins: int = 64,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Front:
    """Searches, or goes on with an interrupted search of the same settings.

    The front and its picture become `search.json` and `front.png` of the run's folder.

    Args:
        run: a trained run, or its folder.
        low: smallest cost allowed, in MACs, parameters or milliseconds.
        high: largest cost allowed.
        cost: "macs", "parameters", a latency table, or the JSON file of one.
        algorithm: "evolution" or "random".
        evaluations: subnets to evaluate in all; more find a better front, and take longer.
        population: random subnets to begin with (evolution).
        mutations: mutated subnets per generation (evolution).
        crossovers: crossed subnets per generation (evolution).
        mutation_rate: probability in (0, 1] that a decision of a mutant changes (evolution).
        bins: cost bins; the best subnet of each is a parent (evolution).
        seed: of the search, at least 0.
        out: write the result to this JSON file and its picture beside it, and leave those of the
            run's last search; needed where nothing can be kept in the run's folder.

    Returns:
        The front, cheapest first; its `result` is what `search.json` holds.

    Raises:
        UserError: a setting is not allowed; no subnet is within the budget, or has a loss that is a
            number; a file cannot be read or written.
    """
    if not isinstance(cost, Table):
        cost = os.fspath(cost)
        is_file = cost.endswith(".json") and not cost.startswith(LATENCY)
        cost = f"{LATENCY}{expanded(cost)}" if is_file else cost
    settings = Search(
        low=low,
        high=high,
        cost=LATENCY if isinstance(cost, Table) else cost,
        algorithm=algorithm,
        evaluations=evaluations,
        population=population,
        mutations=mutations,
        crossovers=crossovers,
        mutation_rate=mutation_rate,
        bins=bins,
        seed=seed,
    )
    place = None if out is None else expanded(out)
    if place is not None:
        distributed.once(lambda: _check_free(place))
    run = experiment_run.opened(run)
    keep = results.are_kept(run, place)
    found = Front(run.space, _find(run, settings, _spent(run.space, cost), keep=keep))
    if place is None:
        distributed.once(lambda: found.save(run.folder / front.FILE, run.folder / front.PICTURE))
    else:
        if keep:  # it was free when this began; what is known is not computed again
            distributed.once(lambda: _check_free(place))
        distributed.once(lambda: found.save(place, place.with_suffix(".png")))
    return found


def _check_free(out: pathlib.Path) -> None:
    """Raises a `UserError` unless the result and its picture can be written there."""
    if out.suffix != ".json":
        raise UserError(f"--out is {out}, but the result is JSON; end it in .json")
    for path in (out, out.with_suffix(".png")):
        files.check_free("--out", path)


def _find(run: Run, settings: Search, spent: "_Spent", *, keep: bool) -> dict[str, Any]:
    """The result of a search as JSON values."""
    space = run.space
    identity = _identity(run, settings, spent)
    scorer = results.Scorer(run, SPLIT, what="", keep=keep)
    with progress.bar("searching", settings.evaluations, unit="subnet") as advance:
        scored = 0

        def score(archs: Arch) -> np.ndarray:
            records = scorer(choices.unstack(archs))
            return np.asarray([scorer.score(record) for record in records])

        def on_progress(history: History) -> None:
            nonlocal scored
            numbers = history.scores[~np.isnan(history.scores)]
            note = results.best_of(scorer.metric, numbers.tolist())
            advance(len(history.scores) - scored, note)
            scored = len(history.scores)

        found = run_search(
            _searcher(space, spent, settings),
            score,
            cost=spent.cost,
            key=jax.random.key(settings.seed),
            evaluations=settings.evaluations,
            state_file=_state_file(run, identity) if keep else None,
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
        "run": str(run.folder),
        **identity,
        "unit": UNITS[spent.key],
        "metric": scorer.metric._asdict(),
        "evaluations": len(records),
        "not_a_number": broken,
        "front": [records[i] for i in pareto_front(found.scores, found.costs)],
        "all": [
            [record[spent.key], None if record["loss"] is None else record[scorer.metric.name]]
            for record in records
        ],
    }


def _state_file(run: Run, identity: dict[str, Any]) -> pathlib.Path:
    """Where the search is kept. One that an older version began is left alone, and that is said."""
    folder = run.folder / "searches"
    old, own = (folder / f"{_digest(value)}.npz" for value in (identity, [STATE, identity]))
    if files.exists(old) and not files.exists(own):
        LOG.warning(
            f"note: {old} was begun by a version that scored some networks more than once; the "
            "search begins anew, and what was evaluated is not computed again"
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


def _spent(space: Space, name: str | Table) -> _Spent:
    """The cost that an option names, or of a table.

    Raises:
        UserError: a latency table that is missing, broken, unfinished or of other blocks.
    """
    if isinstance(name, str) and name in COSTS:
        return _Spent(name, COSTS[name](space), 1.0, {})
    if isinstance(name, Table):
        path, table = None, name
        content = files.dumps(dataclasses.asdict(table)).encode()
    else:
        path = expanded(name.removeprefix(LATENCY))
        table = latency_table.read(path)
        content = files.read_bytes(path)
    source = {
        "file": "a table in memory" if path is None else str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "measured": latency_table.provenance(table),
    }
    return _Spent("latency", costs.latency(space, table), 1e-6, {"latency_table": source})


def _searcher(space: Space, spent: _Spent, settings: Search) -> Searcher:
    menu, cost, normal = space.menu, spent.cost, functools.partial(elastic_space.normal, space)
    budget = Budget(settings.low, settings.high, UNITS[spent.key])
    if settings.algorithm == "random":
        batch = settings.population
        return random_search(menu, cost=cost, budget=budget, batch=batch, normal=normal)
    low = max(settings.low, float(cost(choices.smallest(menu))))
    high = min(settings.high, float(cost(choices.largest(menu))))
    return evolution(
        menu,
        cost=cost,
        budget=budget,
        step=max(spent.least, (high - low) / settings.bins),
        population=settings.population,
        mutations=settings.mutations,
        crossovers=settings.crossovers,
        mutation_rate=settings.mutation_rate,
        normal=normal,
    )


def _identity(run: Run, settings: Search, spent: _Spent) -> dict[str, Any]:
    """All that tells this search from another, except for how long it goes on."""
    kept = dataclasses.asdict(settings)
    del kept["evaluations"]
    for name in ("low", "high"):
        kept[name] = None if math.isinf(kept[name]) else kept[name]
    kept["cost"] = spent.key
    return {**kept, **spent.source, **results.conditions(run, SPLIT)}
