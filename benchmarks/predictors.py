"""Predictors of scores: how well they rank what they have not seen, and archs per second.

    python benchmarks/predictors.py --table ofa_mbv3_w10_measured.csv

The table has measured Once-for-All subnets of width 1.0, one a line: `ks`, `e` and `d` as
published, separated by spaces, the resolution `r`, and `top1_mean`. Kendall's tau is that between
predictions and scores of all lines that a predictor was not fitted to, the mean over random choices
of the lines that it was, with its 95 % interval. Without a table there is only the speed: encoding,
prediction and MACs of archs that are new in every round.
"""

import csv
import functools
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import measure
import numpy as np
from scipy import stats

from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.searching import encoding, predictors
from supernet_jax.spaces import OfaMobileNetV3

FITS = (100, 250, 1000)  # scores
KINDS = (predictors.Ridge, predictors.Svr, predictors.Boosting, predictors.Ensemble)
UNSCORED = 2000  # archs whose MACs and parameters an ensemble learns first
ONE_HOT, WITH_COSTS = "decisions", "decisions, MACs, parameters"


def main() -> None:
    """Runs it and prints a table of each."""
    parser = measure.parser(__doc__)
    parser.add_argument("--table", type=pathlib.Path, help="measured subnets (default: none)")
    parser.add_argument("--splits", type=int, default=5, help="choices of lines (default: 5)")
    parser.add_argument("--archs", type=int, default=2**17, help="per call (default: 2**17)")
    arguments = parser.parse_args()
    space = OfaMobileNetV3().build()
    counts = (costs.macs(space), costs.parameters(space))
    encoders = {
        ONE_HOT: encoding.encoder(space),
        WITH_COSTS: encoding.encoder(space, costs=counts),
    }
    figures: dict[str, Any] = {}
    if arguments.table is not None:
        splits = 2 if arguments.quick else arguments.splits
        figures["tau"] = taus(space, arguments.table, encoders, splits)
    count, rounds = (2**14, 2) if arguments.quick else (arguments.archs, arguments.rounds)
    figures["speed"] = speeds(space, encoders, count, rounds)
    measure.write(arguments.json, figures)


def taus(
    space: Space, table: pathlib.Path, encoders: dict[str, encoding.Encode], splits: int
) -> list[dict[str, Any]]:
    """Kendall's tau of each kind, with an interval of its mean over splits."""
    archs, scores = measured(space, table)
    report = []
    for name, encode in encoders.items():
        features = encode(archs)
        free = unscored(space, encode, archs)
        made = {kind.__name__: kind().build() for kind in KINDS}
        made["Ensemble, from free statistics"] = predictors.Ensemble().build(free=free)
        for kind, predictor in made.items():
            for count in FITS:
                start = time.perf_counter()
                found = [split(predictor, features, scores, count, i) for i in range(splits)]
                seconds = (time.perf_counter() - start) / splits
                mean, half = statistics.mean(found), 0.0
                if splits > 1:
                    half = stats.t.ppf(0.975, splits - 1) * stats.sem(found)
                report.append(
                    {
                        "features": name,
                        "kind": kind,
                        "scores": count,
                        "tau": mean,
                        "low": mean - half,
                        "high": mean + half,
                        "seconds": seconds,
                    }
                )
    columns = ["features", "kind", "scores", "tau", "from", "to", "fit and prediction, s"]
    measure.table(columns, [list(row.values()) for row in report])
    return report


def split(
    predictor: predictors.Predictor, features: np.ndarray, scores: np.ndarray, count: int, seed: int
) -> float:
    """Kendall's tau of all lines but `count`."""
    order = np.random.default_rng(seed).permutation(len(scores))
    seen, rest = order[:count], order[count:]
    mean, _ = predictor.predict(predictor.fit(features[seen], scores[seen]), features[rest])
    return float(stats.kendalltau(mean, scores[rest]).statistic)


def measured(space: Space, table: pathlib.Path) -> tuple[Any, np.ndarray]:
    """Archs and scores of a table."""
    with table.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    archs = {}
    for name in ("ks", "e", "d", "r"):
        values = np.array([line[name].split() for line in lines], int)
        archs[name] = [
            np.searchsorted(choice.values, values[:, i]).astype(np.int32)
            for i, choice in enumerate(space.menu[name])
        ]
    return archs, np.array([float(line["top1_mean"]) for line in lines])


def unscored(space: Space, encode: encoding.Encode, archs: Any) -> predictors.Free:
    """MACs and parameters of uniform archs, at the sizes of those with scores."""
    others = drawn(space, UNSCORED, seed=-1)
    sizes = np.resize(space.which_size(archs), UNSCORED)
    others = space.at_size(others, sizes)
    statistics = [cost(others) for cost in (costs.macs(space), costs.parameters(space))]
    return predictors.Free(encode(others), np.log(np.stack(statistics, axis=1)))


def drawn(space: Space, count: int, *, seed: int) -> Any:
    """Uniform archs, NumPy."""
    key = jax.random.key(seed % 2**32)
    return jax.tree.map(np.asarray, _sample(space)(key, count))


@functools.cache
def _sample(space: Space) -> Callable:
    return jax.jit(lambda key, n: choices.sample(space.menu, key, (n,)), static_argnums=1)


def speeds(
    space: Space, encoders: dict[str, encoding.Encode], count: int, rounds: int
) -> list[dict[str, Any]]:
    """Archs per second of encoding, prediction and MACs, with models of 1,000 scores."""
    macs = costs.macs(space)
    scored = drawn(space, 1000, seed=0)
    runs: dict[tuple[str, str], Callable[[Any], Any]] = {("", "MACs alone"): macs}
    for name, encode in encoders.items():
        # Saturating, and with noise: a fit takes about as many support vectors as one of scores.
        scores = -np.exp(-macs(scored) / 2e8)
        scores += 0.04 * scores.std() * np.random.default_rng(0).normal(size=1000)
        runs[name, "encoding alone"] = encode
        for kind in KINDS:
            predictor = kind().build()
            model = predictor.fit(encode(scored), scores)
            predict = predictors.scorer(encode, predictor, model)
            runs[name, kind.__name__] = lambda archs, f=predict: (f(archs), macs(archs))
    times: dict[Any, list[float]] = {name: [] for name in runs}
    busy: dict[Any, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        archs = drawn(space, count, seed=1 + i)
        for key, run in runs.items():
            start, cores = time.perf_counter(), time.process_time()
            run(archs)
            if i > 0:  # the first compiles
                times[key].append(time.perf_counter() - start)
                busy[key].append(time.process_time() - cores)
    report = [
        {
            "features": key[0],
            "kind": key[1],
            "per_second": count / statistics.median(times[key]),
            "low": count / max(times[key]),
            "high": count / min(times[key]),
            "core_microseconds": 1e6 * statistics.median(busy[key]) / count,
        }
        for key in runs
    ]
    columns = ["features", "kind", "archs per second", "from", "to", "core-microseconds of each"]
    measure.table(columns, [list(row.values()) for row in report])
    return report


if __name__ == "__main__":
    main()
