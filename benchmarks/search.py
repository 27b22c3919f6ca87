"""Searchers beside each other: on functions with a known front, and on measured subnets.

Three tables:

- *functions*: NSGA-II beside pymoo's on ZDT1 to 3 and DTLZ2, by the hypervolume that the archs of
  equal evaluations dominate (`pip install pymoo`). pymoo searches real numbers, ours 1,001 steps.
- *subnets*: evaluations until a share of the hypervolume of all of a table is dominated. The table
  (`--table`) has subnets of Once-for-All's MobileNetV3 whose accuracy was measured. To a searcher
  every arch is the nearest of them, so that it searches the whole space and is told no guess.

- *a run*: evaluations until a share of the hypervolume of all that any searcher found in a trained
  run (`--run`). What was evaluated once is not evaluated again.

- *races* (`--race`): images until 99 % of the hypervolume that a search finds without races, by it
  and by the same search with them, of the same seed, which goes on until it is there or has read as
  many images. How far searches of different seeds differ without races stands beside it. In a
  planted space (`--planted`), whose answers are made up as in `benchmarks/racing.py`, and in the
  trained run. Images are counted when a generation is done, calibration apart.

Each searcher runs with several seeds; intervals are bootstrap intervals of the mean, 95 %.
"""

import contextlib
import csv
import functools
import itertools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import measure
import numpy as np

import supernet_jax as sj
from supernet_jax import searching
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Choice
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import budgets, raced_search, results
from supernet_jax.searching import Budget, Costs, History, Searcher, predictors
from supernet_jax.searching.encoding import encoder
from supernet_jax.spaces.once_for_all import ofa_mobilenetv3

FUNCTIONS = {"zdt1": 5000, "zdt2": 5000, "zdt3": 5000, "dtlz2": 3000}  # evaluations of each
STEPS = 1001  # options of a decision of a function
REFERENCE = 1.1  # of hypervolumes, in each objective of a function
SHARES = (0.95, 0.99)
SEEDS = 1000  # between the first and the second seed of a search
LONGER = 4  # times as many subnets, that a search with races may propose to get there
TABLE_REFERENCE = (65.0, -600e6)  # top-1 in per cent and MACs, as in DyNAS-T's logs


class Mean(NamedTuple):
    """A mean over seeds and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean(values: Iterable[float]) -> Mean:
    """The mean, and what 95 % of the means of resampled seeds are between."""
    found = np.asarray(list(values), float)
    picks = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
    low, high = np.quantile(found[picks].mean(1), (0.025, 0.975))
    return Mean(float(found.mean()), float(low), float(high))


def functions(seeds: int, names: Iterable[str], share: float) -> list[dict[str, Any]]:
    """Hypervolume of our NSGA-II and of pymoo's, after equal evaluations."""
    from pymoo.problems import get_problem

    rows = []
    for name in names:
        size = {"n_var": 12, "n_obj": 3} if name.startswith("dtlz") else {}
        problem, evaluations = get_problem(name, **size), int(share * FUNCTIONS[name])
        found: dict[str, list[float]] = {"ours": [], "pymoo": []}
        for seed in range(seeds):
            for who, run in (("ours", _ours), ("pymoo", _pymoo)):
                values = run(problem, evaluations, seed)
                reference = np.full(values.shape[1], -REFERENCE)
                found[who].append(searching.hypervolume(values, reference=reference))
        ours, theirs = (mean(found[who]) for who in found)
        gain = mean(np.subtract(found["ours"], found["pymoo"]))
        rows.append(
            {
                "function": name,
                "evaluations": evaluations,
                "ours": ours,
                "pymoo": theirs,
                "gain": gain,
            }
        )
    return rows


def _ours(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    menu = [Choice(tuple(range(STEPS)))] * problem.n_var

    def score(archs: Arch) -> np.ndarray:
        return -problem.evaluate(
            problem.xl + choices.pack(archs) / (STEPS - 1) * (problem.xu - problem.xl)
        )

    key = jax.random.key(seed)
    searcher = searching.nsga2(menu, Costs(), population=100)
    return searching.run(searcher, score, costs=Costs(), key=key, evaluations=evaluations).scores


def _pymoo(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize

    done = minimize(
        problem, NSGA2(pop_size=100), ("n_eval", evaluations), seed=seed, save_history=True
    )
    return -np.concatenate([step.pop.get("F") for step in done.history])


class Table(NamedTuple):
    """Measured subnets of a space.

    Attributes:
        space: whose subnets.
        archs: `[N]`.
        accuracy: `[N]`, per cent.
        macs: `[N]`.
    """

    space: Space
    archs: Arch
    accuracy: np.ndarray
    macs: np.ndarray


def read(path: pathlib.Path) -> Table:
    """Reads a table with columns ks, e, d (numbers apart by blanks), r, macs and top1_mean."""
    space = ofa_mobilenetv3()
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))

    def options(name: str, line: dict[str, str]) -> list[int]:
        values = [int(word) for word in line[name].split()]
        return [c.values.index(v) for c, v in zip(space.menu[name], values, strict=True)]

    archs = [{name: options(name, line) for name in space.menu} for line in lines]
    accuracy, macs = (np.array([float(line[k]) for line in lines]) for k in ("top1_mean", "macs"))
    return Table(space, choices.stack(archs), accuracy, macs)


class Nearest:
    """The measured subnet that each arch stands for: the one most alike, by its features."""

    def __init__(self, table: Table):
        self._encode = encoder(table.space)
        self._rows = self._encode(table.archs)
        self._half = np.sum(self._rows**2, axis=1) / 2
        self._packed = choices.pack(table.archs)
        self._known: dict[bytes, int] = {}
        self._table = table

    def __call__(self, archs: Arch) -> np.ndarray:
        """Places in the table, `[N]`."""
        packed = np.ascontiguousarray(choices.pack(archs), np.int32)
        keys = [row.tobytes() for row in packed]
        new = list({key: i for i, key in enumerate(keys) if key not in self._known}.values())
        if new:
            rows = self._encode(choices.unpack(self._table.space.menu, packed[new]))
            found = np.argmax(rows @ self._rows.T - self._half, axis=1)
            self._known |= {keys[i]: int(place) for i, place in zip(new, found, strict=True)}
        return np.array([self._known[key] for key in keys])

    def normal(self, archs: Arch) -> Arch:
        """The measured subnets themselves."""
        return choices.unpack(self._table.space.menu, self._packed[self(archs)])


def subnets(
    table: Table, seeds: int, names: Iterable[str], most: int
) -> tuple[list[dict[str, Any]], float]:
    """Evaluations of each searcher until shares of the hypervolume; and that of the table."""
    nearest = Nearest(table)
    points = np.stack([table.accuracy, -table.macs], axis=1)
    whole = searching.hypervolume(points, reference=TABLE_REFERENCE)
    costs = Costs((lambda archs: table.macs[nearest(archs)],), (Budget(-np.inf, np.inf, "MACs"),))
    rows = []
    for name in names:
        reached: dict[float, list[float]] = {share: [] for share in SHARES}
        start = time.monotonic()
        for seed in range(seeds):
            if name == "table at random":
                order = np.random.default_rng(seed).permutation(len(points))
            else:
                searcher = SEARCHERS[name](table.space, costs, nearest)
                found = searching.run(
                    searcher,
                    lambda archs: table.accuracy[nearest(archs)],
                    costs=costs,
                    key=jax.random.key(seed),
                    evaluations=most,
                )
                order = nearest(choices.unpack(table.space.menu, found.archs))
            for share in SHARES:
                reached[share].append(_until(points[order], share * whole))
        row = {
            "searcher": name,
            **{f"{share:.0%}": mean(reached[share]) for share in SHARES},
            "seconds a search": round((time.monotonic() - start) / seeds, 1),
        }
        print(", ".join(f"{key}: {value}" for key, value in row.items()), file=sys.stderr)
        rows.append(row)
    return rows, whole


def in_run(folder: pathlib.Path, seeds: int, names: Iterable[str], most: int) -> list[dict]:
    """Evaluations of each searcher in a run until shares of what all of them found together."""
    run = sj.open_run(folder)
    scorer = results.Scorer(run, "held-out", what="")
    costs = Costs((sj.macs(run.space),), (Budget(-np.inf, np.inf, "MACs"),))

    def score(archs: Arch) -> np.ndarray:
        return np.array([scorer.score(record) for record in scorer(choices.unstack(archs))])

    found: dict[str, list[np.ndarray]] = {}
    for name, seed in itertools.product(names, range(seeds)):
        history = searching.run(
            PARTS[name].build(run.space, costs),
            score,
            costs=costs,
            key=jax.random.key(seed),
            evaluations=most,
        )
        print(f"{name}, seed {seed}: {len(history.scores)} subnets", file=sys.stderr)
        points = costs.objectives(history.scores, history.costs)
        found.setdefault(name, []).append(points[~np.isnan(points).any(1)])
    everything = np.concatenate(list(itertools.chain(*found.values())))
    reference = everything.min(0) - 1e-9
    whole = searching.hypervolume(everything, reference=reference)
    return [
        {
            "searcher": name,
            **{
                f"{share:.0%}": mean(_until(p, share * whole, reference) for p in points)
                for share in SHARES
            },
            f"share after {most}": mean(
                searching.hypervolume(p, reference=reference) / whole for p in points
            ),
        }
        for name, points in found.items()
    ]


class Step(NamedTuple):
    """Where a search stands after a generation: subnets proposed, images read, and scores and -MACs
    of those that saw all of them, `[N, 2]`.
    """

    evaluations: int
    images: int
    points: np.ndarray


Until = Callable[[Step], bool]


class _EnoughError(Exception):
    """A search need not go on."""


class Paid(NamedTuple):
    """What two searches of one seed took, without races and with them.

    Attributes:
        whole: images that the one without races read in all.
        full: images until it had 99 % of its volume.
        raced: until the one with races had; as many as it read where it stopped before.
        there: whether it got there before it had read as many as the other in all.
        read: images that it read for as many proposals.
        share: of the volume, that it had found then.
        chance: the share that a search without races finds in as many proposals with another seed.
    """

    whole: int
    full: int
    raced: int
    there: bool
    read: int
    share: float
    chance: float


def paid(search: Callable[[int, bool, Until], list[Step]]) -> Paid:
    """Compares two searches.

    Args:
        search: searches with the first or the second of two seeds, with races or without, until a
            step is enough.
    """
    full, other = (search(which, False, lambda _: False) for which in (0, 1))
    end, reference = full[-1], full[-1].points.min(0) - 1e-9

    def share(step: Step) -> float:
        volume = searching.hypervolume(step.points, reference=reference)
        return volume / searching.hypervolume(end.points, reference=reference)

    def enough(step: Step) -> bool:
        there = share(step) >= SHARES[-1] or step.images >= end.images
        return there and step.evaluations >= end.evaluations

    raced = search(0, True, enough)
    first, second = (
        [step.images for step in steps if share(step) >= SHARES[-1]] for steps in (full, raced)
    )
    there = bool(second) and second[0] <= end.images
    same = next((step for step in raced if step.evaluations >= end.evaluations), raced[-1])
    images = second[0] if there else raced[-1].images
    return Paid(end.images, first[0], images, there, same.images, share(same), share(other[-1]))


def _paid_row(where: str, name: str, found: list[Paid]) -> dict[str, Any]:
    return {
        "space": where,
        "searcher": name,
        "images to 99 %": mean(one.full for one in found),
        "with races": mean(one.raced for one in found),
        "ratio": mean(one.raced / one.full for one in found),
        "got there": f"{sum(one.there for one in found)} of {len(found)}",
        "images for as many proposals": mean(one.read / one.whole for one in found),
        "volume then": mean(one.share for one in found),
        "volume, another seed, no races": mean(one.chance for one in found),
    }


class Planted:
    """Made-up answers of the subnets of a space to 5,000 images, as `racing.simulated` makes them.

    Accuracy is 90 %, rises by 3 % with the MACs, and is spread by 1 % around that: four fifths of
    the variance come of single options, the rest of nothing.
    """

    total, batch = 5_000, 125

    def __init__(self, space: Space, seed: int):
        self._space, self._seed, self._encode = space, seed, encoder(space)
        self._macs, rng = sj.macs(space), np.random.default_rng(seed)
        uniform = choices.sample(space.menu, jax.random.key(seed), (4096,))
        features = self._encode(uniform)
        self._weights = rng.normal(size=features.shape[1])
        worth, macs = features @ self._weights, np.asarray(self._macs(uniform), float)
        self._of = (worth.mean(), worth.std(), macs.min(), np.ptp(macs))
        self._difficulty = rng.normal(size=self.total).astype(np.float32)

    def right(self, archs: Arch) -> np.ndarray:
        """What archs `[N]` get right: bool `[N, K]`."""
        middle, spread, low, span = self._of
        worth = (self._encode(archs) @ self._weights - middle) / spread
        place = np.clip((self._macs(archs) - low) / span, 0, 1) - 0.5
        quantile, rows = statistics.NormalDist().inv_cdf, choices.pack(archs)
        found = np.zeros((len(worth), self.total), bool)
        for i, row in enumerate(rows):
            rng = np.random.default_rng([self._seed, *row.tolist()])
            off = 0.8**0.5 * worth[i] + 0.2**0.5 * rng.normal()
            ability = quantile(float(np.clip(0.9 + 0.03 * place[i] + 0.01 * off, 0.01, 0.99)))
            own = 0.2 * rng.standard_normal(self.total, np.float32)
            found[i] = ability * 1.04**0.5 - self._difficulty + own > 0
        return found

    def steps(
        self, part: Any, evaluations: int, which: int, race: bool, until: Until
    ) -> list[Step]:
        """Searches, with races up to so many times as long, and tells how it went."""
        space, costs = self._space, Costs((self._macs,), (Budget(-np.inf, np.inf, "MACs"),))
        right, macs = np.zeros((0, self.total), bool), np.zeros(0)
        seen, steps = np.zeros(0, int), []

        def score(archs: Arch) -> np.ndarray:
            nonlocal right, macs, seen
            before, whole = len(macs), seen == self.total
            right = np.concatenate([right, self.right(archs)])
            macs = np.concatenate([macs, np.asarray(self._macs(archs), float)])
            if not race:
                seen = np.full(len(macs), self.total)
                return right[before:].mean(1)
            known = np.flatnonzero(whole)
            points = np.stack([right[known].sum(1), -macs[known]], 1)
            front = known[searching.pareto_front(points)]
            who = np.concatenate([front, np.arange(before, len(macs))])
            told, looks = raced_search.against(
                len(front),
                macs[who],
                lambda some, order, start, end: right[np.ix_(who[some], order[start:end])],
                total=self.total,
                batch=self.batch,
                seed=1000 * self._seed + len(steps),
            )
            seen = np.concatenate([seen, looks[len(front) :]])
            return told[len(front) :]

        def on_progress(history: History) -> None:
            whole = seen == self.total
            points = np.stack([right[whole].mean(1), -macs[whole]], 1)
            steps.append(Step(len(macs), int(seen.sum()), points))
            if until(steps[-1]):
                raise _EnoughError

        with contextlib.suppress(_EnoughError):
            searching.run(
                part.build(space, costs),
                score,
                costs=costs,
                key=jax.random.key(self._seed + SEEDS * which),
                evaluations=evaluations * (LONGER if race else 1),
                on_progress=on_progress,
            )
        return steps


def planted(seeds: int, names: Iterable[str], most: int) -> list[dict[str, Any]]:
    """Images to the front of a planted space, with and without races."""
    space, rows = ofa_mobilenetv3(), []
    for name in names:
        found = []
        for seed in range(seeds):
            land = Planted(space, seed)
            found.append(paid(functools.partial(land.steps, PARTS[name], most)))
            print(f"planted, {name}, seed {seed}: {found[-1]}", file=sys.stderr)
        rows.append(_paid_row("planted", name, found))
    return rows


def raced_in_run(
    folder: pathlib.Path, seeds: int, names: Iterable[str], most: int
) -> list[dict[str, Any]]:
    """Images to the front of a trained run, with and without races."""
    run, rows = sj.open_run(folder), []
    wanted = budgets.goal(run.space, {})
    scorer = results.Scorer(run, "held-out", what="")

    def steps(part: Any, seed: int, which: int, race: bool, until: Until) -> list[Step]:
        races = raced_search.Races(run, wanted, scorer, file=None, error=0.05, seed=seed)
        steps: list[Step] = []

        def score(archs: Arch) -> np.ndarray:
            if race:
                return races.score(archs)
            return np.array([scorer.score(record) for record in scorer(choices.unstack(archs))])

        def on_progress(history: History) -> None:
            archs = choices.unpack(run.space.menu, history.archs)
            images = len(history.scores) * results.conditions(run, "held-out")["images"]
            if race:
                races.goes_on(history)
                records, report = races.records(history)
                images = report["images_seen"]
            else:
                records = scorer(choices.unstack(archs))
            points = [[scorer.score(one), -one["macs"]] for one in records]
            steps.append(Step(len(history.scores), images, np.array(points)))
            if until(steps[-1]):
                raise _EnoughError

        with contextlib.suppress(_EnoughError):
            searching.run(
                part.build(run.space, wanted.costs),
                score,
                costs=wanted.costs,
                key=jax.random.key(seed + SEEDS * which),
                evaluations=most * (LONGER if race else 1),
                on_progress=on_progress,
            )
        return steps

    for name in names:
        found = []
        for seed in range(seeds):
            found.append(paid(functools.partial(steps, PARTS[name], seed)))
            print(f"{folder}, {name}, seed {seed}: {found[-1]}", file=sys.stderr)
        rows.append(_paid_row(folder.name, name, found))
    return rows


def _until(points: np.ndarray, volume: float, reference: Any = TABLE_REFERENCE) -> int:
    """How many of the first points dominate so much volume; all of them and one if none do."""
    low, high = 0, len(points) + 1
    while high - low > 1:
        middle = (low + high) // 2
        reaches = searching.hypervolume(points[:middle], reference=reference) >= volume
        low, high = (low, middle) if reaches else (middle, high)
    return high


def _linas(
    space: Space, costs: Costs, nearest: Nearest, *, kind: Any, first: int, batch: int
) -> Searcher:
    encode = encoder(space, costs=(sj.macs(space), sj.parameters(space)))
    return searching.linas(
        space.menu,
        costs,
        encode=lambda archs: encode(nearest.normal(archs)),
        predictor=kind().build(),
        first=first,
        batch=batch,
        inner=600,
        normal=nearest.normal,
    )


def _evolution(space: Space, costs: Costs, nearest: Nearest) -> Searcher:
    return searching.evolution(
        space.menu,
        costs,
        step=10e6,
        population=64,
        mutations=16,
        crossovers=16,
        normal=nearest.normal,
    )


SEARCHERS: dict[str, Callable[[Space, Costs, Nearest], Searcher]] = {
    "table at random": None,  # type: ignore[dict-item]  # a permutation of it
    "random": lambda space, costs, nearest: searching.random_search(
        space.menu, costs, batch=32, normal=nearest.normal
    ),
    "evolution": _evolution,
    "nsga2": lambda space, costs, nearest: searching.nsga2(
        space.menu, costs, population=32, normal=nearest.normal
    ),
    "bayesian": lambda space, costs, nearest: searching.bayesian(
        space.menu, costs, batch=16, startup=32, normal=nearest.normal
    ),
    "linas, ridge": functools.partial(_linas, kind=predictors.Ridge, first=32, batch=8),
    "linas, svr": functools.partial(_linas, kind=predictors.Svr, first=32, batch=8),
}
PARTS = {
    "random": searching.RandomSearch(batch=32),
    "evolution": searching.Evolution(population=64, mutations=16, crossovers=16),
    "nsga2": searching.Nsga2(population=32),
    "linas, ridge": searching.Linas(predictor="ridge", first=32, batch=16),
    "linas, svr": searching.Linas(predictor="svr", first=32, batch=16),
    "bayesian": searching.Bayesian(startup=32, batch=16),
    "blockwise": searching.BlockwiseChoice(),
    "linas, ensemble": searching.Linas(predictor="ensemble", first=32, batch=16),
}


def main() -> None:
    """Prints the tables."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--table", type=pathlib.Path, help="CSV of measured subnets")
    parser.add_argument("--run", type=pathlib.Path, help="folder of a trained run")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each (default: 20)")
    parser.add_argument("--most", type=int, default=2000, help="evaluations of each at most")
    parser.add_argument("--functions", nargs="*", default=list(FUNCTIONS), help="which to search")
    parser.add_argument(
        "--searchers", nargs="*", default=list(SEARCHERS | PARTS), help="which of them"
    )
    parser.add_argument("--race", action="store_true", help="images to the front by races, alone")
    parser.add_argument("--planted", action="store_true", help="with --race, in a planted space")
    given = parser.parse_args()
    seeds = 2 if given.quick else given.seeds
    result: dict[str, Any] = {"seeds": seeds}
    if given.race:
        names = [name for name in given.searchers if name in PARTS]
        most = 64 if given.quick else given.most
        rows = planted(seeds, names, most) if given.planted else []
        rows += raced_in_run(given.run, seeds, names, most) if given.run is not None else []
        _print(rows)
        measure.write(given.json, {**result, "races": rows})
        return
    if given.functions:
        result["functions"] = functions(seeds, given.functions, 0.1 if given.quick else 1.0)
        _print(result["functions"])
    if given.table is not None:
        most = 100 if given.quick else given.most
        rows, whole = subnets(
            read(given.table), seeds, [n for n in given.searchers if n in SEARCHERS], most
        )
        print(f"\nhypervolume of the table: {whole / 1e6:.2f} (per cent times M MACs)")
        result["subnets"] = rows
        _print(rows)
    if given.run is not None:
        names = [name for name in given.searchers if name in PARTS]
        result["run"] = in_run(given.run, seeds, names, 64 if given.quick else given.most)
        _print(result["run"])
    measure.write(given.json, result)


def _print(rows: list[dict[str, Any]]) -> None:
    print(f"\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()
