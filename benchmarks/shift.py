r"""Does a generator of wanted MACs serve the sampler Shift as well as the table of MACs does?

    python benchmarks/shift.py --quick
    python benchmarks/shift.py --steps 200 --seeds 6

The first table is about draws for the space of digits: wanted MACs are uniform in each range of the
table of MACs, which knows no more of them than the range, and the generator is to hit them. The
second compares supernets that were trained so, with the same steps, seeds and batches: the mean
test accuracy of random subnets in four ranges of MACs, and the difference, whose interval is over
seeds, which differ more than subnets do.
"""

import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
import ranking
from differentiable import Trainer, accuracies

from supernet_jax.data.settings import Data
from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import build
from supernet_jax.experiment.config import Config, Evaluation, Train
from supernet_jax.spaces import Digits
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.optimizers import AdamW
from supernet_jax.training.samplers import Shift, macs_table
from supernet_jax.training.samplers.arch_generator import TOLERANCE, arch_generator

RANGES = 4
WAYS = {"table": Shift(), "generator": Shift(generator=True)}


def draws(space: Space, seeds: int, count: int) -> list[dict[str, Any]]:
    """How far archs are from wanted MACs, by the table and by generators of several seeds."""
    bins = macs_table.read_or_build(None, Shift().bins, space)
    macs, made = macs_table.reference_macs(space), arch_generator(space)
    full = np.flatnonzero(np.isfinite(bins.logits))
    which = jnp.asarray(full[np.arange(count) % len(full)])
    edges, keys = jnp.asarray(bins.edges), jax.random.split(jax.random.key(1), count)
    ends = edges[which], edges[which + 1]
    wanted = jax.random.uniform(jax.random.key(2), (count,), minval=ends[0], maxval=ends[1])
    by_table = jax.jit(
        jax.vmap(lambda key, place: macs_table.draw(bins, space.menu, macs, key, place))
    )
    by_generator = jax.jit(jax.vmap(made.draw, (None, 0, 0)))
    found = {"table": by_table(keys, which)}
    for seed in range(seeds):
        params = jax.jit(made.init)(jax.random.key(seed))
        found[f"generator, seed {seed}"] = by_generator(params, keys, wanted)
    report = []
    for name, archs in found.items():
        missed = np.abs(np.asarray(macs(archs)) / np.asarray(wanted) - 1)
        different = len(np.unique(np.asarray(choices.pack(archs)), axis=0))
        report.append(
            {
                "by": name,
                "median": float(np.median(missed)),
                "largest": float(missed.max()),
                "within": float((missed <= TOLERANCE).mean()),
                "different": different,
            }
        )
    return report


def main() -> None:
    """Prints both tables."""
    parser = measure.parser(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--seeds", type=int, default=6, help="of each training")
    parser.add_argument("--archs", type=int, default=96, help="subnets that are evaluated")
    parser.add_argument("--draws", type=int, default=1000, help="of the first table")
    asked = parser.parse_args()
    if asked.quick:
        asked.steps, asked.seeds, asked.archs, asked.draws = 4, 1, 16, 40
    config = Config(
        space=Digits(),
        data=Data(name="digits"),
        loss=HardLabels(smoothing=0.0),
        optimizer=AdamW(learning_rate=3e-3, warmup=0.05),
        train=Train(steps=asked.steps, batch=64, strategy="masked"),
        evaluation=Evaluation(calibration_batches=4, batch=64, chunk=16),
    )
    scores: dict[str, np.ndarray] = {}
    for name, sampler in WAYS.items():
        train = Trainer(build.build(dataclasses.replace(config, sampler=sampler)))
        space = train.built.space
        archs = _spread(space, asked.archs)
        rows = []
        for seed in range(asked.seeds):
            rows.append(accuracies(train.built, train(seed).params, archs, "test"))
            print(f"{name}, seed {seed}: {rows[-1].mean():.2%}", file=sys.stderr)
        scores[name] = np.asarray(rows)
    hits = draws(space, asked.seeds, asked.draws)
    measure.table(
        ["drawn by", "median error, %", "largest, %", "within 2 %, %", "different archs"],
        [
            [
                row["by"],
                100 * row["median"],
                100 * row["largest"],
                100 * row["within"],
                row["different"],
            ]
            for row in hits
        ],
    )
    spent = np.asarray(macs_table.reference_macs(space)(archs), float)
    groups = ranking.bands(spent, RANGES)
    better = scores["generator"] - scores["table"]
    lines, report = [], []
    for group in [*groups, np.arange(len(spent))]:
        seeds = better[:, group].mean(1)
        gap = ranking.interval(lambda of, seeds=seeds: float(seeds[of].mean()), len(seeds))
        means = {name: float(rows[:, group].mean()) for name, rows in scores.items()}
        ends = f"{spent[group].min():,.0f} to {spent[group].max():,.0f}"
        report.append({"macs": ends, **means, "gap": list(gap), "seeds": seeds.tolist()})
        lines.append([ends, *(f"{mean:.2%}" for mean in means.values()), gap.percent])
    columns = ["MACs", *WAYS, "generator minus table [95 %]"]
    measure.table(columns, lines)
    measure.write(asked.json, {"draws": hits, "rows": report})


def _spread(space: Space, count: int) -> Any:
    """Random archs, as many in each of equally wide ranges of MACs as there are."""
    packed = np.asarray(choices.pack(choices.sample(space.menu, jax.random.key(5), (20_000,))))
    packed = np.unique(packed, axis=0)
    packed = packed[np.random.default_rng(0).permutation(len(packed))]
    spent = np.asarray(macs_table.reference_macs(space)(choices.unpack(space.menu, packed)), float)
    edges = np.linspace(spent.min(), spent.max(), RANGES + 1)
    where = np.clip(np.searchsorted(edges, spent, side="right") - 1, 0, RANGES - 1)
    kept = [np.flatnonzero(where == place)[: count // RANGES] for place in range(RANGES)]
    return choices.unpack(space.menu, packed[np.concatenate(kept)])


if __name__ == "__main__":
    main()
