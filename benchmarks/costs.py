"""Archs per second: sampled, mutated, counted (MACs and parameters), all inside jit.

python benchmarks/costs.py
"""

import functools

import jax
import measure

from supernet_jax.elastic import choices
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config


def main() -> None:
    """Runs it and prints archs per second."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", default="attentivenas", choices=sorted(config.SPACES))
    parser.add_argument("--archs", type=int, default=100_000, help="per call")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    space = config.SPACES[arguments.space].build(classes=1000, input_channels=3)
    sample = jax.jit(functools.partial(choices.sample, space.menu, shape=(arguments.archs,)))
    mutate = jax.jit(functools.partial(choices.mutate, space.menu, rate=0.1))
    populations = [sample(jax.random.key(i)) for i in range(rounds + 1)]
    counts = {"MACs": jax.jit(costs.macs(space)), "parameters": jax.jit(costs.parameters(space))}
    runs = {
        "sample": lambda i: sample(jax.random.key(i)),
        "mutate": lambda i: mutate(jax.random.key(i), populations[i]),
        **{name: lambda i, f=f: f(populations[i]) for name, f in counts.items()},
    }
    timings = measure.in_turn(runs, rounds)
    report = measure.rows(timings, base="sample", space=space.name)
    for row in report:
        row["per_second"] = arguments.archs / row["median_s"]
    measure.timings_table(report, ("space",))
    measure.table(["", "archs per second"], [[r["name"], r["per_second"]] for r in report])
    measure.write(arguments.json, report)


if __name__ == "__main__":
    main()
