"""Candidates calibrated and evaluated per second, by strategy and by kind of population.

    python benchmarks/evaluation.py --quick
    python benchmarks/evaluation.py --space attentivenas --resolution 128 --batch 32

Populations: uniform archs, and mutants of one parent with probability 0.1 and 0.2, as a search
asks for them; with and without taking over what neighbours share. Every candidate sees the given
batches for calibration and as many for evaluation.
"""

import functools

import jax
import jax.numpy as jnp
import measure
import numpy as np
from compile import SMALL, space_of  # the script beside this one

from supernet_jax.data import augment
from supernet_jax.elastic import blockwise, choices, shared_params, strategies
from supernet_jax.evaluation.evaluate import EvaluationData, How, evaluate
from supernet_jax.experiment import config
from supernet_jax.runtime import hardware

STRATEGIES = {
    "masked": strategies.masked,
    "switched": strategies.switched,
    "blockwise": blockwise.blockwise,
}
POPULATIONS = {"uniform": None, "mutants 0.1": 0.1, "mutants 0.2": 0.2}
# Of the library, as in a run, so that programs are found again.
prepare = functools.partial(augment.normalise, mean=(0.0,) * 3, std=(1.0,) * 3)


def main() -> None:
    """Runs the comparison and prints it."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: digits)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images per batch")
    parser.add_argument("--batches", type=int, default=1, help="for calibration and evaluation")
    parser.add_argument("--candidates", type=int, default=8, help="per call")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    name = arguments.space or (SMALL if arguments.quick else "digits")
    size = arguments.resolution or measure.SIZES.get(name, 8)
    space = space_of(name, size)
    params, data = prepared(space, size, arguments.batch, arguments.batches)
    count, dtype = arguments.candidates, config.dtype(arguments.dtype)
    report = []
    for name, rate in POPULATIONS.items():
        archs = [population(space.menu, rate, count, i) for i in range(rounds + 1)]
        runs = {
            strategy if reuse else f"{strategy}, no reuse": functools.partial(
                run, space, params, data, archs, strategy, reuse, dtype
            )
            for strategy in arguments.strategies
            for reuse in (True, False)
        }
        timings = measure.in_turn(runs, rounds)
        about = {"space": space.name, "pixels": size, "batch": arguments.batch}
        about |= {"dtype": arguments.dtype, "population": name}
        rows = measure.rows(timings, base=arguments.strategies[0], **about)
        report += [{**row, "per_second": count / row["median_s"]} for row in rows]
    about = ("space", "pixels", "batch", "dtype", "population")
    measure.timings_table(report, about, also={"per_second": "candidates/s"})
    measure.write(arguments.json, report)


def prepared(space, size, batch, batches):
    """Parameters and random images."""
    make = jax.jit(
        functools.partial(shared_params.init, space), compiler_options=hardware.runs_once()
    )
    rng = np.random.default_rng(0)
    shape = (batches, batch, size, size, 3)
    images, calibration = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
    labels = rng.integers(0, space.task.classes, shape[:2], np.int32)
    return make(jax.random.key(0)), jax.device_put(EvaluationData(calibration, images, labels))


def run(space, params, data, archs, strategy, reuse, dtype, i):
    """Evaluates the next population of archs, all at the images' own resolution."""
    count = len(jax.tree.leaves(archs[i])[0])
    how = How(space, prepare, STRATEGIES[strategy], chunk=count, reuse=reuse, dtype=dtype)
    return [result.correct for _, result in evaluate(how, params, archs[i], data)]


def population(menu, rate, count, i):
    """NumPy archs `[count]`: uniform, or mutants of one uniform parent."""
    parent, rest = jax.random.split(jax.random.key(i))
    if rate is None:
        archs = choices.sample(menu, rest, (count,))
    else:
        one = choices.sample(menu, parent, ())
        many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count,)), one)
        archs = choices.mutate(menu, rest, many, rate=rate)
    return jax.device_get(archs)


if __name__ == "__main__":
    main()
