"""The sandwich step: largest, smallest and 2 random subnets, distillation, optimiser.

    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --space attentivenas --resolution 128 --batch 32

Times the whole step with random members masked, and block by block, for every resolution, batch
size and dtype that is given. All steps have the same archs, so that the first call compiles what
they need. What `experiment/config.py` takes for "auto" is what this shows.
"""

import dataclasses
import functools
import itertools

import evaluation  # the script beside this one, as compile below
import jax
import measure
import numpy as np
from compile import SMALL, space_of

from supernet_jax.experiment import augmentation, config
from supernet_jax.runtime import hardware
from supernet_jax.training import recipe, samplers, train_step
from supernet_jax.training.losses import alpha_divergence, loss
from supernet_jax.training.optimizers import sgd

PLAIN = config.Data(pad=0, flip=False)  # what is measured is the networks


def main() -> None:
    """Runs the comparison and prints it."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: digits)")
    parser.add_argument("--resolution", type=int, nargs="+", help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="images per step")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--strategies", nargs="+", default=["masked", "blockwise"])
    arguments = parser.parse_args()
    hardware.keep_memory()  # as `supernet train` does
    rounds = 3 if arguments.quick else arguments.rounds
    name = arguments.space or (SMALL if arguments.quick else "digits")
    sizes = arguments.resolution or [measure.SIZES.get(name, 8)]
    report = []
    for resolution, batch, dtype in itertools.product(sizes, arguments.batch, arguments.dtype):
        space = space_of(name, resolution)
        steps = {
            strategy: stepper(space, strategy, resolution, batch, dtype)
            for strategy in arguments.strategies
        }
        timings = measure.in_turn(steps, rounds)
        about = {"space": space.name, "pixels": resolution, "batch": batch, "dtype": dtype}
        rows = measure.rows(timings, base=arguments.strategies[0], **about)
        report += [{**row, "images_per_s": batch / row["median_s"]} for row in rows]
    about = ("space", "pixels", "batch", "dtype")
    measure.timings_table(report, about, also={"images_per_s": "images/s"})
    measure.write(arguments.json, report)


def recipe_of(space, strategy, dtype, *, n_random):
    """The sandwich rule with in-place distillation."""
    return recipe.Recipe(
        space=space,
        sampler=samplers.sandwich(space.menu, n_random=n_random),
        loss=loss.in_place_distillation(alpha_divergence.adaptive_alpha_divergence, smoothing=0.1),
        optimizer=sgd.alphanet_sgd(0.01, weight_decay=1e-5),
        augment=functools.partial(augmentation.augmented, PLAIN, evaluation.prepare),
        strategy=config.strategy(strategy, backend=jax.default_backend()),
        dtype=config.dtype(dtype),
    )


def prepared(space, strategy, resolution, batch, dtype):
    """A recipe, the state before the first step, and a batch."""
    recipe = recipe_of(space, strategy, dtype, n_random=2)
    data = jax.device_put(images(space, resolution, batch))
    make = jax.jit(lambda: train_step.create(recipe), compiler_options=hardware.runs_once())
    return recipe, make(), data


def images(space, resolution, batch):
    """A batch of random ones."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (batch, resolution, resolution, 3), np.uint8)
    labels = rng.integers(0, space.task.classes, batch, np.int32)
    return recipe.Batch(pixels, labels, np.arange(batch, dtype=np.int32))


def stepper(space, strategy, resolution, batch, dtype):
    """A function that takes the first training step again; the archs of each are the same."""
    recipe, state, data = prepared(space, strategy, resolution, batch, dtype)
    step = train_step.Step(recipe)
    host = jax.device_get(state)

    def run(_):
        nonlocal state
        state = dataclasses.replace(state, step=jax.device_put(host.step))
        state, metrics = step(state, data, sizes=(resolution,) * 4)
        return metrics

    return run


if __name__ == "__main__":
    main()
