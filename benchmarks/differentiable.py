r"""Do searches by gradients find better networks than chance, at an equal budget of images?

    python benchmarks/differentiable.py --quick
    python benchmarks/differentiable.py --space cells --seeds 5
    python benchmarks/differentiable.py --space kernels --seeds 5
    python benchmarks/differentiable.py --space cifar10 --seeds 5 --data-dir DIR

Every arch of a small space is trained alone: the truth. Each method then searches with
several seeds; its pick is looked up in the truth. A method spends `steps` batches on weights, and
one that learns a code as many again on the code. Random search has the same budget: it trains as
many archs alone as that pays for, and keeps the best on held-out images.

- `cells`: a stage of NAS-Bench-201 with three edges, 125 archs, whose options are operations.
- `kernels`: three blocks of MobileNetV3's kind, two kernels and two widths each, 64 archs, whose
  options are parts of one kernel.
- `cifar10`: the cells at 16 pixels, on CIFAR-10 as TFDS prepares it in DIR. The others have digits.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import ranking

from supernet_jax.data.settings import Data
from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import build
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config, Evaluation, Train
from supernet_jax.spaces import mobilenet
from supernet_jax.spaces.mobilenet import Stage
from supernet_jax.spaces.nas_bench_201 import nas_bench_201
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import train_step
from supernet_jax.training.batches import Batches
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.optimizers import AdamW
from supernet_jax.training.samplers import Darts, FBNet, Uniform, architecture
from supernet_jax.training.samplers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class SmallCells:
    """125 archs of one cell with three edges."""

    resolution: int = 8
    """size of images, pixels"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        return nas_bench_201(
            "small_cells",
            resolution=self.resolution,
            channels=8,
            cells=1,
            stages=1,
            nodes=3,
            task=ImageClassification(input_channels, classes),
            outputs=classes,
            input_channels=input_channels,
        )


@dataclasses.dataclass(frozen=True)
class SmallKernels:
    """64 archs of three blocks, which share kernels and channels."""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for digits."""
        return mobilenet.mobilenet(
            "small_kernels",
            resolutions=(8,),
            stem=(8,),
            stem_stride=1,
            stages=(
                Stage((8, 16), (1,), (3, 5), (2,), 1),
                Stage((8, 16), (1,), (3, 5), (2,), 2),
                Stage((16, 24), (1,), (3, 5), (2,), 2),
            ),
            last=(32,),
            classes=classes,
            input_channels=input_channels,
            head_ratio=2,
            dropout=0.0,
            drop_path=0.0,
        )


SPACES = {"cells": SmallCells(), "kernels": SmallKernels(), "cifar10": SmallCells(16)}
DIGITS = Data(name="digits", held_out=0.2)


@dataclasses.dataclass(frozen=True)
class Alone:
    """One arch, trained alone. Which one is the sampler's state, so that all share a program."""

    def build(self, *, menu: Menu) -> Sampler:
        """The sampler of a space."""
        archs = jax.tree.map(jnp.asarray, every(menu))
        return Sampler(
            (),
            1,
            init=lambda key: jnp.int32(0),
            sample=lambda which, *_: jax.tree.map(lambda leaf: leaf[which][None], archs),
            update=lambda which, metrics: which,
        )


class Method(NamedTuple):
    """A search.

    Attributes:
        sampler: that trains the weights.
        strategy: how its members run.
        longer: how many times the steps of a training it takes.
    """

    sampler: Any
    strategy: str = "auto"
    longer: int = 1


METHODS = {
    "single path, all scored": Method(Uniform(1)),
    "single path, twice as long": Method(Uniform(1), longer=2),
    "DARTS": Method(Darts(learning_rate=0.03)),
    "DARTS, second order": Method(Darts(learning_rate=0.03, ahead=1e-3)),
    "TangleNAS (weights mixed)": Method(Darts(learning_rate=0.03), "masked"),
    "FBNet": Method(FBNet(learning_rate=0.03, beta=0.0)),
}


def every(menu: Menu) -> Arch:
    """All archs of a menu, `[N]`."""
    sizes = [range(len(choice)) for choice in jax.tree.leaves(menu)]
    rows = np.stack(np.meshgrid(*sizes, indexing="ij"), -1).reshape(-1, len(sizes))
    return choices.unpack(menu, rows.astype(np.int32))


def configured(space: Any, method: Method, steps: int, data: Data = DIGITS) -> Config:
    """A search, or a training, of a space."""
    return Config(
        space=space,
        data=data,
        sampler=method.sampler,
        loss=HardLabels(smoothing=0.0),
        optimizer=AdamW(learning_rate=3e-3, warmup=0.05),
        train=Train(steps=steps * method.longer, batch=64, strategy=method.strategy),  # type: ignore[arg-type]
        evaluation=Evaluation(calibration_batches=2, batch=64, chunk=16),
    )


class Trainer:
    """Trains one configuration with several seeds, or first states, by one compiled step."""

    def __init__(self, built: Experiment) -> None:
        self.built = built
        self._step = train_step.Step(built.recipe)

    def __call__(self, seed: int, sampler: Any = None, start: Any = None) -> Any:
        """The last state; `start` is the first one, `sampler` that of the sampler in it."""
        built, recipe = self.built, self.built.recipe._replace(seed=seed)
        steps, batch = built.config.train.steps, built.config.train.batch
        state = train_step.create(recipe) if start is None else start
        if sampler is not None:
            state = dataclasses.replace(state, sampler=sampler)
        examples, second = build.training_examples(built)
        about: Any = {"mesh": built.mesh, "seed": seed, "stop": steps, "reading": built.reading}
        with Batches(examples, batch=batch, second=second, **about) as batches:
            batches.go_to(0, 0)
            for step in range(steps):
                sizes = train_step.step_sizes(recipe, step=step)
                state, _ = self._step(state, batches.next(), sizes=sizes)
        return state


def accuracies(built: Experiment, params: Any, archs: Arch, split: str) -> np.ndarray:
    """Calibrated accuracies `[N]`."""
    how, data = build.evaluation_how(built), build.evaluation_data(built, split)
    found = np.zeros(len(jax.tree.leaves(archs)[0]))
    for where, result in evaluate.evaluate(how, params, archs, data):
        found[where] = result.value
    return found


def alone(space: Any, steps: int, seeds: int, data: Data = DIGITS) -> tuple[np.ndarray, np.ndarray]:
    """Held-out and test accuracies `[seeds, N]` of every arch trained alone."""
    train = Trainer(build.build(configured(space, Method(Alone(), "switched"), steps, data)))
    archs = every(train.built.space.menu)
    count = len(jax.tree.leaves(archs)[0])
    held, test = np.zeros((2, seeds, count))
    for seed in range(seeds):
        for i in range(count):
            params = train(seed, jnp.int32(i)).params
            one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], archs)
            held[seed, i] = accuracies(train.built, params, one, "held-out")[0]
            test[seed, i] = accuracies(train.built, params, one, "test")[0]
        print(f"{count} archs trained alone with seed {seed}", file=sys.stderr)
    return held, test


def picks(space: Any, method: Method, steps: int, seeds: int, data: Data) -> list[int]:
    """Place of the arch that each seed's search picks."""
    train = Trainer(build.build(configured(space, method, steps, data)))
    archs, learn = every(train.built.space.menu), train.built.recipe.sampler.learn
    rows, found = np.asarray(choices.pack(archs)), []
    for seed in range(seeds):
        state = train(seed)
        if learn is None:
            found.append(int(np.argmax(accuracies(train.built, state.params, archs, "held-out"))))
        else:
            code = jax.device_get(learn.code(state.sampler, state.params))
            arch = np.asarray(choices.pack(architecture.argmax(code)))
            found.append(int(np.flatnonzero((rows == arch).all(1))[0]))
    return found


def by_chance(held: np.ndarray, test: np.ndarray, count: int, seed: int) -> float:
    """The test accuracy of the best of `count` random archs by their held-out accuracy."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(held.shape[1], count, replace=False)
    which = drawn[np.argmax(held[rng.integers(len(held)), drawn])]
    return float(test.mean(0)[which])


def main() -> None:
    """Prints the table."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=SPACES, default="cells")
    parser.add_argument("--data-dir", help="of CIFAR-10, as TFDS prepares it")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each method")
    parser.add_argument("--truth-seeds", type=int, default=2, help="trainings of each arch alone")
    asked = parser.parse_args()
    if asked.quick:
        asked.steps, asked.seeds, asked.truth_seeds = 20, 2, 1
    space, data = SPACES[asked.space], DIGITS
    if asked.space == "cifar10":
        data = Data("tfds:cifar10", asked.data_dir, held_out=2000, size=16, pad=2, flip=True)
    held, test = alone(space, asked.steps, asked.truth_seeds, data)
    truth = test.mean(0)
    best, report = float(truth.max()), []
    found: dict[str, list[float]] = {}

    def note(name: str, values: np.ndarray, spent: float) -> None:
        gap = ranking.interval(lambda of: 100 * float(best - values[of].mean()), len(values))
        rank = [float((truth > value).sum() + 1) for value in values]
        row = {"method": name, "budget": spent, "gap": str(gap), "rank": float(np.median(rank))}
        report.append(row)
        found[name] = values.tolist()

    for name, method in METHODS.items():
        learns = not isinstance(method.sampler, Uniform)
        places = picks(space, method, asked.steps, asked.seeds, data)
        note(name, truth[places], 2.0 if learns else float(method.longer))
    for count in (1, 2):
        values = np.array([by_chance(held, test, count, seed) for seed in range(200)])
        note(f"random, best of {count}", values, float(count))
    print(f"{len(truth)} archs alone: {truth.mean():.2%} on average, the best {best:.2%}")
    columns = ["method", "budget", "points behind the best [95 %]", "median rank"]
    measure.table(columns, [list(row.values()) for row in report])
    about = {"space": asked.space, "rows": report, "truth": truth.tolist(), "found": found}
    measure.write(asked.json, about)


if __name__ == "__main__":
    main()
