"""`sj.search`: the best subnets of a run under budgets, on examples held out of training.

The state of each search lies in `searches/` of the run folder, so that it goes on after a stop.
Beside every search stands a random one of as many evaluations: what the searcher has to beat.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tyro

from supernet_jax import searching
from supernet_jax.elastic import choices, notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least, near, one_of
from supernet_jax.evaluation.latency_table import Table
from supernet_jax.experiment import budgets as experiment_budgets
from supernet_jax.experiment import farm as experiment_farm
from supernet_jax.experiment import front, known_records, measured, own_searcher, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.budgets import LATENCY, RECORDED, Goal
from supernet_jax.experiment.front import Front
from supernet_jax.experiment.race import check_error
from supernet_jax.experiment.raced_search import ESTIMATE, Races
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed, progress
from supernet_jax.runtime.farm import Farm
from supernet_jax.searching import History, RandomSearch
from supernet_jax.searching.loop import Known
from supernet_jax.storage import files, typed_json, user_code
from supernet_jax.storage.paths import expanded

STATE = 3  # version of what a search asks for, so that one of another version is not gone on with
ENOUGH = 50  # evaluations, of which a fifth is predicted by the others
SPLIT = "held-out"  # taken from the training examples; the test split is never searched on
SEARCHERS: dict[str, Any] = {
    vars(kind)["name"]: kind for kind in vars(searching).values() if hasattr(kind, "build")
}


@dataclasses.dataclass(frozen=True)
class Search:
    """Budgets of a search, what it is for, and how many subnets it evaluates."""

    budget: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """what a subnet may cost, NAME:LOW..HIGH, as macs:..300e6; give it again for further costs"""
    objective: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """what is to be best, NAME:min or NAME:max; if not given, the metric and all costs above"""
    cost: str = "macs"
    """of one budget: what --low and --high limit: macs | parameters | peak_memory | latency:FILE"""
    low: float = 0.0
    """of one budget: smallest cost that a subnet may have, in units of --cost"""
    high: float = math.inf
    """of one budget: largest cost that it may have; more lets larger and better subnets in"""
    evaluations: int = 512
    """subnets to evaluate in all; more find a better front, and take longer"""
    seed: int = 0
    """seed of all random numbers"""
    warm_start: str = ""
    """begin with what is known: a run's evaluations.jsonl, or JSON of `evaluate --out`"""
    baseline: bool = True
    """also evaluate as many random subnets, to tell whether the searcher beat them"""
    race: bool = False
    """drop subnets that can no longer enter the front after few images: sooner done, but what is
    known of those is an estimate, and the front errs with a small probability"""
    race_error: float = 0.05
    """of --race: limit of the probability that a generation errs; more needs fewer images"""
    measure: bool = False
    """time the networks of the front on this machine, beside what the latency table says of them"""

    def __post_init__(self) -> None:
        for name, value, low in (("--evaluations", self.evaluations, 1), ("--seed", self.seed, 0)):
            at_least(name, value, low)
        check_error(self.race_error)
        experiment_budgets.read_budgets(self.budget)  # which refuses what cannot be read,
        searching.Budget(self.low, self.high)  # and what is upside down
        if self.budget and (self.cost, self.low, self.high) != ("macs", 0.0, math.inf):
            raise UserError(
                "--budget and --cost, --low or --high were given; the latter are for one budget "
                f"alone: write --budget {self.cost}:{self.low:.15g}..{self.high:.15g} for it, too"
            )


def search(
    run: Run | str | os.PathLike[str],
    *,
    low: float = 0.0,
    high: float = math.inf,
    cost: str | os.PathLike[str] | Table | Any = "macs",
    budgets: Mapping[str, tuple[float | None, float | None]] | None = None,
    objectives: Sequence[str] = (),
    searcher: Any = None,
    evaluations: int = 512,
    seed: int = 0,
    warm_start: str | os.PathLike[str] = "",
    baseline: bool = True,
    race: bool = False,
    race_error: float = 0.05,
    measure: bool = False,
    costs: Sequence[Any] = (),
    out: str | os.PathLike[str] | None = None,
    farm: Farm | int | str | None = None,
) -> Front:
    """Searches, or goes on with an interrupted search of the same settings.

    The front and its picture become `search.json` and `front.png` of the run's folder.

    Args:
        run: a trained run, or its folder.
        low: smallest cost allowed, in MACs, parameters, milliseconds or the unit of the cost.
        high: largest cost allowed.
        cost: "macs", "parameters", the name of a cost of the configuration, a cost of your own, a
            latency table, or the JSON file of one.
        budgets: instead of those three, the least and the most of several costs by name, as
            `{"macs": (None, 300e6), "parameters": (None, 5e6)}`.
        objectives: what is to be best, as `["accuracy:max", "macs:min"]`; if not given, the task's
            metric and each cost above, as small as can be.
        searcher: a part of `sj.searching` or your own, or the name of one; None for that of the
            run's configuration.
        evaluations: subnets to evaluate in all; more find a better front, and take longer.
        seed: of the search, at least 0.
        warm_start: file of earlier evaluations of this run, as its `evaluations.jsonl`, which the
            searcher is told of before it begins. They do not count as evaluations, and may be on
            the front.
        baseline: whether to evaluate as many random subnets, too, and to say whether the searcher
            beat them.
        race: whether to drop subnets that can no longer enter the front after few images. They are
            in `result["race"]["dropped"]`, each with an estimate and the images that it saw.
        race_error: the most probability that a generation errs in that, in (0, 1).
        measure: whether to time the networks of the front on this machine, in process 0, as
            `latency` times networks; each record of the front then has its "measured_ms". It needs
            a latency table among the costs.
        costs: further costs that `budgets` and `objectives` may name, beside those of the
            configuration.
        out: write the result to this JSON file and its picture beside it, and leave those of the
            run's last search; needed where nothing can be kept in the run's folder.
        farm: evaluates on several processors or machines, as `sj.evaluate` takes it; not with
            races. The front is the same.

    Returns:
        The front, cheapest first; its `result` is what `search.json` holds.

    Raises:
        UserError: a setting is not allowed; no subnet is within the budgets, or has a loss that is
            a number; a file cannot be read or written.
        NoWorkers: all workers of the farm are gone; what they finished is kept.
    """
    at_least("--evaluations", evaluations, 1)
    at_least("--seed", seed, 0)
    check_error(race_error)
    experiment_farm.check(farm, race=race)
    place = None if out is None else expanded(out)
    if place is not None:
        distributed.once(lambda: _check_free(place))
    own = list(costs)
    if budgets is None:
        if not isinstance(cost, str | os.PathLike):
            own.append(cost)
            cost = LATENCY if isinstance(cost, Table) else user_code.name_of(cost)
        cost = os.fspath(cost)
        if cost.endswith(".json") and not cost.startswith(f"{LATENCY}:"):
            cost = f"{LATENCY}:{expanded(cost)}"
        budgets = {cost: (None if low == 0 else low, high)}
    run = experiment_run.opened(run)
    part = _part(run.config.searcher if searcher is None else searcher)
    wanted = experiment_budgets.goal(run.space, budgets, objectives, [*run.config.costs, *own])
    table = measured.table_of(wanted) if measure else None
    keep = results.are_kept(run, place)
    warm = expanded(os.fspath(warm_start)) if warm_start else None
    given: dict[str, Any] = {"warm": warm, "evaluations": evaluations, "seed": seed, "keep": keep}
    given["race_error"] = race_error if race else None
    with experiment_farm.hired(farm, run, SPLIT) as given["evaluator"]:
        result = _result(run, part, wanted, **given)
        if baseline:
            _compare(run, result, wanted, part, **given)
    if table is not None:
        distributed.once(lambda: measured.add(run, result, table, keep=keep))
    found = Front(run.space, result, data=run.experiment.dataset.name)
    if place is None:
        distributed.once(lambda: found.save(run.folder / front.FILE, run.folder / front.PICTURE))
    else:
        if keep:  # it was free when this began; what is known is not computed again
            distributed.once(lambda: _check_free(place))
        distributed.once(lambda: found.save(place, place.with_suffix(".png")))
    return found


def named(name: str, own: Mapping[str, type] | None = None) -> Any:
    """The searcher of a name, with the settings that it has by default.

    Args:
        name: of one of the library's, or of one of the user's.
        own: dataclasses of the user's file by the name of the class.

    Raises:
        UserError: there is none of that name.
    """
    mine = {key: kind for key, kind in (own or {}).items() if user_code.taken(kind, costs=None)}
    known = SEARCHERS | {user_code.name_of(kind): kind for kind in mine.values()}
    one_of("--searcher", name, known)
    return known[name]()


def _part(searcher: Any) -> Any:
    part = named(searcher) if isinstance(searcher, str) else searcher
    if isinstance(part, type) or not hasattr(part, "build"):
        raise UserError(
            f"the searcher is {part!r}; give a part of sj.searching, as sj.searching.Nsga2(), or "
            f"one of {', '.join(SEARCHERS)}{near(str(part), SEARCHERS)}"
        )
    return part


def _check_free(out: pathlib.Path) -> None:
    """Raises a `UserError` unless the result and its picture can be written there."""
    if out.suffix != ".json":
        raise UserError(f"--out is {out}, but the result is JSON; end it in .json")
    for path in (out, out.with_suffix(".png")):
        files.check_free("--out", path)


def _result(
    run: Run,
    part: Any,
    wanted: Goal,
    *,
    evaluations: int,
    seed: int,
    keep: bool,
    race_error: float | None = None,
    warm: pathlib.Path | None = None,
    evaluator: results.Evaluator | None = None,
) -> dict[str, Any]:
    """The result of a search as JSON values; without `race_error` there are no races."""
    scorer = results.Scorer(run, SPLIT, what="", keep=keep, evaluator=evaluator)
    identity = _identity(run, part, wanted, seed)
    if race_error is not None:
        identity["race"] = {"error": race_error}
    known: list[dict[str, Any]] = []
    if warm is not None:
        identity["warm_start"] = str(warm)
        state = _state_file(run, identity) if keep else None
        known = known_records.at_the_start(warm, run, SPLIT, state)
    records, raced = _find(run, part, wanted, scorer, identity, evaluations, known)
    dropped = raced.get("dropped", [])
    both = _with_costs([*records, *known], wanted, run.space)
    costs = np.array([[one[cost.name] for cost in wanted.priced] for one in both])
    scores = np.array([_scores(one, wanted) for one in both])
    allowed = np.flatnonzero(wanted.costs.allows(costs))
    objectives = wanted.costs.objectives(scores, costs)
    chosen = allowed[searching.pareto_front(objectives[allowed])]
    if not len(chosen):
        raise UserError(
            f"none of the {len(both):,} subnets that {user_code.name_of(part)} evaluated has a "
            f"loss that is a number and costs {wanted.costs}; the same command with more "
            "--evaluations goes on, or choose another searcher"
        )
    if wanted.priced:
        chosen = chosen[np.argsort(costs[chosen, 0], kind="stable")]
    first = wanted.priced[0] if wanted.priced else None
    return {
        "run": str(run.folder),
        **identity,
        "cost": first.name if first else "macs",
        "unit": first.unit if first else "MACs",
        **(first.source if first else {}),
        "metric": scorer.metric._asdict(),
        "evaluations": len(records) + len(dropped),
        "not_a_number": _broken(records, dropped),
        "warm": len(known),
        **_learnt(part, run.space, both, scores),
        "front": [both[i] for i in chosen],
        "all": [_row(record, wanted, scorer.metric.name) for record in records],
        **({"race": raced} if raced else {}),
    }


def _learnt(
    part: Any, space: Space, records: list[dict[str, Any]], scores: np.ndarray
) -> dict[str, Any]:
    """How well the predictor of a searcher ranks what was evaluated, where enough was."""
    known = np.flatnonzero(~np.any(np.isnan(scores), axis=1))
    if not isinstance(part, searching.Linas) or len(known) < ENOUGH:
        return {}
    encode, predictor = part.learner(space)
    archs = [notation.from_notation(space.menu, records[i]["arch"]) for i in known]
    features = encode(choices.stack(archs))
    columns = [column for column in scores[known].T if np.ptp(column) > 0]
    taus = [searching.predictors.cross_validated(predictor, features, c).tau for c in columns]
    return {"tau": [round(tau, 4) for tau in taus]}


def _row(record: Mapping[str, Any], wanted: Goal, metric: str) -> list[Any]:
    """The first cost of a subnet, its metric (None where it has none), and its other costs."""
    first, *others = [one.name for one in wanted.priced] or ["macs"]
    value = None if record["loss"] is None else record[metric]
    return [record[first], value, *(record[name] for name in others)]


def _compare(
    run: Run,
    result: dict[str, Any],
    wanted: Goal,
    part: Any,
    *,
    evaluations: int,
    **given: Any,
) -> None:
    """Adds to a result how much of the volume that both cover it and a random search dominate."""
    if isinstance(part, RandomSearch):
        return
    evaluations = min(evaluations, result["evaluations"])
    random = _result(run, RandomSearch(), wanted, evaluations=evaluations, **given)
    both = [result["front"], random["front"]]
    points = [np.asarray([_objectives(one, wanted) for one in records]) for records in both]
    seen = np.concatenate(points)
    low, high = seen.min(0), seen.max(0)
    scale = np.where(high > low, high - low, 1.0)
    low = low - 0.1 * scale  # a little below the worst, such that the ends of a front count
    volumes = [searching.hypervolume((p - low) / scale, reference=0 * low) for p in points]
    whole = float(np.prod((high - low) / scale))
    result["hypervolume"] = round(volumes[0] / whole, 6)
    result["random"] = {
        "hypervolume": round(volumes[1] / whole, 6),
        "evaluations": random["evaluations"],
        "front": random["front"],
        **({"race": random["race"]} if "race" in random else {}),
    }


def _objectives(record: Mapping[str, Any], wanted: Goal) -> list[float]:
    """All that is to be large."""
    return [sign * record[name] for name, sign in wanted.measured] + [
        one.aim * record[one.name] for one in wanted.priced if one.aim
    ]


def _find(
    run: Run,
    part: Any,
    wanted: Goal,
    scorer: results.Scorer,
    identity: dict[str, Any],
    evaluations: int,
    known: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of all that a search scored, in that order; and what became of the others, and
    what that took, if there were races (see `Races.records`).
    """
    state, told = (
        _state_file(run, identity) if scorer.keep else None,
        _told(known, wanted, run.space),
    )
    races = None
    if "race" in identity:
        file = None if state is None else state.with_name(f"{state.stem}-race.npz")
        how = {"error": identity["race"]["error"], "seed": identity["seed"], "known": told}
        races = Races(run, wanted, scorer, file=file, **how)
    space, names = run.space, [name for name, _ in wanted.measured]
    shows = scorer.metric.name in names
    with progress.bar(_what(part), evaluations, unit="subnet") as advance:
        scored = 0

        def score(archs: Arch) -> np.ndarray:
            if races is not None:
                return races.score(archs)
            records = scorer(choices.unstack(archs))
            return np.asarray([_scores(record, wanted) for record in records])

        def on_progress(history: History) -> None:
            nonlocal scored
            if races is not None:
                races.goes_on(history)
            note = ""
            if shows:
                sign = 1 if scorer.metric.higher_is_better else -1
                where = names.index(scorer.metric.name)
                numbers = sign * wanted.measured[where][1] * history.scores[:, where]
                note = results.best_of(scorer.metric, numbers[~np.isnan(numbers)].tolist())
            advance(len(history.scores) - scored, note)
            scored = len(history.scores)

        found = searching.run(
            own_searcher.build(part, run, wanted.costs),
            score,
            costs=wanted.costs,
            key=jax.random.key(identity["seed"]),
            evaluations=evaluations,
            state_file=state,
            identity=identity,
            known=told,
            on_progress=on_progress,
        )
    if not len(found.scores):
        if known:  # of all networks within the budgets
            return [], {}
        raise UserError(f"{user_code.name_of(part)} asked for no subnet, so none was evaluated")
    raced: dict[str, Any] = {}
    if races is None:
        records = scorer(choices.unstack(choices.unpack(space.menu, found.archs)))
    else:
        records, raced = races.records(found)
        raced["dropped"] = _with_costs(raced["dropped"], wanted, space)
    broken = _broken(records, raced.get("dropped", []))
    results.require_numbers(len(found.scores), broken)
    return _with_costs(records, wanted, space), raced


def _broken(records: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> int:
    """How many have a loss that is not a number, of those measured and those dropped."""
    return sum(one["loss"] is None for one in records) + sum(
        one[ESTIMATE] is None for one in dropped
    )


def _with_costs(records: list[dict[str, Any]], wanted: Goal, space: Space) -> list[dict[str, Any]]:
    """The records with what the search spent that they do not have."""
    extra = [(i, one.name) for i, one in enumerate(wanted.priced) if one.name not in RECORDED]
    if not extra or not records:
        return records
    archs = choices.stack([notation.from_notation(space.menu, one["arch"]) for one in records])
    return [
        {**record, **{name: float(row[i]) for i, name in extra}}
        for record, row in zip(records, wanted.costs(archs), strict=True)
    ]


def _told(known: list[dict[str, Any]], wanted: Goal, space: Space) -> Known | None:
    """Records as a searcher is told of them."""
    if not known:
        return None
    archs = choices.stack([notation.from_notation(space.menu, one["arch"]) for one in known])
    return archs, np.array([_scores(one, wanted) for one in known]), wanted.costs(archs)


def _what(part: Any) -> str:
    return "searching at random" if isinstance(part, RandomSearch) else "searching"


def _scores(record: Mapping[str, Any], wanted: Goal) -> list[float]:
    """What was measured, such that more is better; NaN where the loss is not a number."""
    broken = record["loss"] is None
    return [math.nan if broken else sign * record[name] for name, sign in wanted.measured]


def _state_file(run: Run, identity: dict[str, Any]) -> pathlib.Path:
    """Where the search is kept."""
    return run.folder / "searches" / f"{_digest([STATE, identity])}.npz"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _identity(run: Run, part: Any, wanted: Goal, seed: int) -> dict[str, Any]:
    """All that tells this search from another, except for how long it goes on."""
    described = typed_json.to_json(part) if dataclasses.is_dataclass(part) else repr(part)
    return {
        "searcher": user_code.name_of(part),
        "settings": described,
        "seed": seed,
        "objectives": [
            {"name": name, "direction": "max" if sign > 0 else "min"}
            for name, sign in [
                *wanted.measured,
                *((one.name, one.aim) for one in wanted.priced if one.aim),
            ]
        ],
        "budgets": [one.as_json() for one in wanted.priced],
        **results.conditions(run, SPLIT),
    }
