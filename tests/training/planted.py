"""A search with a planted answer: labels that depend on what one operation alone can see.

Images have two channels of random texture. In each, pixels are like their neighbours or unlike
them, along rows in the first channel and along columns in the second; two bits that are the label.
Every pixel by itself has the same distribution whatever the label is, so that a choice block that
reads a channel needs the operation which looks along that channel's texture. A tenth of the labels
is noise, and the second texture is weaker.

Seeds differ in data, weights, codes and samples, and run in one compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import BlockCost, BlockTables
from supernet_jax.runtime import hardware
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import train_step
from supernet_jax.training.losses.hard_labels import hard_labels
from supernet_jax.training.recipe import Batch, Recipe, State
from supernet_jax.training.samplers import Sampler

PIXELS, CLASSES, BATCH, POOL = 6, 4, 64, 2048
LIKENESS = (0.9, 0.8)  # of neighbours, in each channel
NOISE = 0.1  # share of labels that are drawn
# What an operation sees around each pixel: rows, columns. The cheapest is the first.
WINDOWS = {"pixel": (1, 1), "rows": (1, 2), "columns": (2, 1)}
ANSWER = {"first": 1, "second": 2}


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """Rows and columns that a `Window` sees."""

    rows: int
    columns: int


class Window(nn.Module):
    """One linear feature of a window around each pixel, ReLU, mean over the image.

    It has neither scale nor bias, so that what other operations add to it is noise.
    """

    spec: WindowSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, 1]` -> `[B, 1]`."""
        views = [
            jnp.roll(x, (-i, -j), (1, 2))[:, : PIXELS - 1, : PIXELS - 1]
            for i in range(self.spec.rows)
            for j in range(self.spec.columns)
        ]
        y = jnp.concatenate(views, -1)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (y.shape[-1], 1))
        kernel = (kernel / jnp.linalg.norm(kernel)).astype(y.dtype)
        return jnp.mean(nn.relu(jnp.dot(y, kernel)), (1, 2))


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
    """Number of classes."""

    classes: int


class Judge(nn.Module):
    """A small network of what both windows found."""

    spec: JudgeSpec

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Twice `[B, 1]` -> logits."""
        x = nn.Dense(16, name="hidden")(8 * jnp.concatenate([first, second], -1) - 3)
        return nn.Dense(self.spec.classes, name="logits")(nn.relu(x))


@dataclasses.dataclass(frozen=True)
class TwoPlaces:
    """Each channel by an operation of its own."""

    def __call__(self, run: Callable[..., Any], x: Any) -> Any:
        return run("judge", run("first", x[..., :1]), run("second", x[..., 1:]))


@functools.cache
def space() -> Space:
    """Two choice blocks of three operations, whose answer is `ANSWER`."""
    menu: Menu = {
        "first": Choice((0, 1, 2)),
        "second": Choice((0, 1, 2)),
        "resolution": Choice((PIXELS,)),
    }
    options = {name: (Window, WindowSpec(*window)) for name, window in WINDOWS.items()}
    blocks = {
        name: choice_block(options, menu=menu, decision=(name,), channels=(1,))
        for name in ("first", "second")
    }
    judge = JudgeSpec(CLASSES)
    blocks["judge"] = elastic(Judge, lambda: judge, menu=menu, channels=lambda spec: (1, 1))
    task = ImageClassification(2, CLASSES)
    return Space("planted", menu, blocks, TwoPlaces(), task, static=(("resolution",),))


def examples(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `[count, PIXELS, PIXELS, 2]` and labels `[count]`."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, 2))
    likeness = np.asarray(LIKENESS) * (2 * bits - 1)
    lines = [rng.normal(size=(count, PIXELS, 2))]
    for _ in range(PIXELS - 1):
        white = rng.normal(size=(count, PIXELS, 2))
        lines.append(likeness[:, None] * lines[-1] + np.sqrt(1 - likeness**2)[:, None] * white)
    walk = np.stack(lines, 1)  # [count, along the texture, across it, 2]
    images = np.stack([np.swapaxes(walk[..., 0], 1, 2), walk[..., 1]], -1)
    labels = 2 * bits[:, 0] + bits[:, 1]
    drawn = rng.integers(0, CLASSES, count)
    return np.float32(images), np.where(rng.random(count) < NOISE, drawn, labels).astype(np.int32)


@functools.cache
def pools(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples of each seed, `[seeds, 2 * POOL, ...]`: weights learn on the first half of
    them, codes on the second.
    """
    made = [examples(seed, 2 * POOL) for seed in range(seeds)]
    return np.stack([one[0] for one in made]), np.stack([one[1] for one in made])


def batch(images: jax.Array, labels: jax.Array, step: jax.Array) -> Batch:
    """What a step trains on, and other examples on which codes learn."""
    first = step % (POOL // BATCH) * BATCH

    def rows(x: jax.Array, start: Any) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, start, BATCH)

    ids = jnp.arange(BATCH)
    second = Batch(rows(images, POOL + first), rows(labels, POOL + first), ids)
    return Batch(rows(images, first), rows(labels, first), ids, second=second)


def recipe(sampler: Sampler, rate: float = 0.02, dtype: Any = jnp.float32) -> Recipe:
    """Training of the space; nothing is augmented."""
    return Recipe(
        space=space(),
        sampler=sampler,
        loss=hard_labels(),
        optimizer=optax.adam(rate),
        augment=lambda images, key, ids: images,
        strategy=mixed,
        dtype=dtype,
    )


class Search(NamedTuple):
    """How a method runs on the planted problem.

    Attributes:
        sampler: the method, for a weight of the `price` in its loss, which may be traced. One that
            knows no costs ignores it.
        weights: of seeds that must find the answer, and of others that must find the cheapest
            arch; the second is None where the method knows no costs.
        steps: number.
    """

    sampler: Callable[[Any], Sampler]
    weights: tuple[float, float | None] = (0.0, None)
    steps: int = 300


@functools.cache
def price() -> Callable[[Any], jax.Array]:
    """What a code costs, expected: 10, and 1 for each place that sees pixels alone, else 8."""
    zero, each = np.zeros((1, 1)), np.asarray([[1.0, 8.0, 8.0]])
    tables = BlockTables({"first": each, "second": each, "judge": zero}, constant=10)
    return costs.expected(BlockCost(space(), tables))


@functools.cache
def params(seeds: int) -> Any:
    """Of each seed, to begin with."""
    init = functools.partial(shared_params.init, space())
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    return jax.jit(jax.vmap(init), compiler_options=hardware.runs_once())(keys)


class Running:
    """Searches from as many seeds, first those of the first weight, in one compiled program."""

    def __init__(self, search: Search, seeds: int) -> None:
        self.search = search
        times = 2 if search.weights[1] else 1
        self.weights = np.repeat(np.float32(search.weights[:times]), seeds)
        self.pools = [np.concatenate([x] * times) for x in pools(seeds)]
        first = jax.tree.map(lambda x: jnp.concatenate([x] * times), params(seeds))

        def begin(seed: jax.Array, params: Any, weight: jax.Array) -> State:
            key = jax.random.key_data(jax.random.key(seed))
            return train_step.create(recipe(search.sampler(weight)), key, params)

        start = jax.jit(jax.vmap(begin), compiler_options=hardware.runs_once())
        self.start = start(np.tile(np.arange(seeds), times), first, self.weights)
        self._advance = jax.jit(jax.vmap(self._one, in_axes=(0, 0, 0, 0, None)))

    def _one(self, state: State, weight: Any, images: Any, labels: Any, steps: Any) -> Any:
        step = train_step.Step(recipe(self.search.sampler(weight)))

        def one(state: State, number: jax.Array) -> Any:
            return step(state, batch(images, labels, number), sizes=(PIXELS,))

        return jax.lax.scan(one, state, steps)

    def advanced(self, states: State, steps: np.ndarray) -> tuple[State, dict[str, jax.Array]]:
        """States after some steps, and their metrics `[rows, steps]`."""
        return self._advance(states, self.weights, *self.pools, steps)

    def archs(self, states: State) -> np.ndarray:
        """`[rows, 2]`, the likeliest option of each decision in the order of `ANSWER`."""
        learn = self.search.sampler(0.0).learn
        assert learn is not None
        codes = jax.vmap(learn.code)(states.sampler, states.params)
        return np.stack([np.argmax(codes[name], -1) for name in ANSWER], -1)
