"""Does splitting a supernet by gradient matching rank its subnets better, at equal budget?

    python benchmarks/few_shot.py --quick
    python benchmarks/few_shot.py --seeds 3 --truth cells.json

The space is that of `differentiable.py --space cells`: 125 archs of one cell on digits, every one
trained alone, which is the truth (`--truth` reads it from the `--json` of that script). One-shot: a
supernet is trained by single random paths for all steps. Few-shot: for a third of the steps, then
it is split in two at the edge, and into the halves, that the method says, and its two halves go on
from its weights for the rest, each half of the steps. Kendall's tau is between held-out accuracies
of all subnets with inherited weights and the truth.
"""

import json
import pathlib
from typing import Any

import differentiable
import measure
import numpy as np
import scipy.stats

from supernet_jax.elastic import banks, choices
from supernet_jax.experiment import build, splits
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.run import Run
from supernet_jax.spaces import FewShot, few_shot
from supernet_jax.training import train_step
from supernet_jax.training.samplers import Uniform

SINGLE = differentiable.Method(Uniform(1))


def tau(built: Experiment, params: Any, truth: np.ndarray) -> float:
    """Kendall's tau of inherited held-out accuracies and the truth."""
    archs = differentiable.every(built.space.menu)
    found = differentiable.accuracies(built, params, archs, "held-out")
    return float(scipy.stats.kendalltau(found, truth).statistic)


def matched(built: Experiment, params: Any, batches: int) -> splits.Split:
    """The best split by gradient matching."""
    run = Run(pathlib.Path(), built, params, 0, "")
    return splits.splits(run, batches=batches)[0]


def by_chance(built: Experiment, seed: int) -> tuple[str, ...]:
    """The rows of a random edge in random halves."""
    space, rng = built.space, np.random.default_rng(seed)
    paths = [p for p in choices.paths(space.menu) if len(choices.get(space.menu, p)) > 1]
    path = paths[rng.integers(len(paths))]
    order = rng.permutation(len(choices.get(space.menu, path)))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    return tuple(
        few_shot.written(space, {path: tuple(int(i) for i in sorted(half))}) for half in halves
    )


def main() -> None:
    """Prints the table."""
    parser = measure.parser(__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of each method in all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--truth", type=pathlib.Path, help="JSON of differentiable.py; else made")
    asked = parser.parse_args()
    batches = 20
    if asked.quick:
        asked.steps, asked.seeds, batches = 12, 2, 1
    space = differentiable.SPACES["cells"]
    if asked.truth is None:
        truth = differentiable.alone(space, 20 if asked.quick else 200, 1 if asked.quick else 2)[1]
        truth = truth.mean(0)
    else:
        truth = np.asarray(json.loads(asked.truth.read_text("utf-8"))["figures"]["truth"])
    found: dict[str, list[float]] = {}
    edges = []
    warm = asked.steps // 3
    whole = differentiable.configured(space, SINGLE, asked.steps)
    train = differentiable.Trainer(build.build(whole))
    begin = differentiable.Trainer(build.build(differentiable.configured(space, SINGLE, warm)))
    for seed in range(asked.seeds):
        found.setdefault("one-shot", []).append(tau(train.built, train(seed).params, truth))
        start = begin(seed)
        split = matched(begin.built, start.params, batches)
        edges.append(f"{split.decision}: {' | '.join(split.parts[0])}")
        for name, rows in (
            ("few-shot, gradient matching", split.rows),
            ("few-shot, by chance", by_chance(begin.built, seed)),
        ):
            part = FewShot(space=space, rows=rows)
            settings = differentiable.configured(part, SINGLE, asked.steps - warm)
            onward = differentiable.Trainer(build.build(settings))
            params = banks.fork(start.params, begin.built.space, onward.built.space)
            state = onward(seed, start=train_step.create(onward.built.recipe, params=params))
            found.setdefault(name, []).append(tau(onward.built, state.params, truth))
    print(f"parted: {'; '.join(edges)}")
    rows = [
        [name, f"{np.mean(values):.3f}", " ".join(f"{value:.3f}" for value in values)]
        for name, values in found.items()
    ]
    measure.table(["method", "Kendall's tau", "of each seed"], rows)
    measure.write(asked.json, {"taus": found, "parted": edges})


if __name__ == "__main__":
    main()
