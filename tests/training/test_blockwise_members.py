"""A step block by block is the step of whole programs: with every part of a recipe, and resumed."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import CHANNELS, CLASSES, light

from supernet_jax.elastic import blockwise, choices, strategies
from supernet_jax.elastic.choices import Lookup
from supernet_jax.elastic.space import Bank
from supernet_jax.runtime import hardware, sharding
from supernet_jax.training import known_archs, samplers, train_step
from supernet_jax.training.gradients import combine, conflict_projection
from supernet_jax.training.losses import divergences, features, loss
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers import Sampler, sampler
from supernet_jax.training.teachers import Taught, largest

BATCH = 8
SPACE = light(dropout=0.3, resolutions=(8,))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are compiled without optimising them."""
    monkeypatch.setattr(hardware, "many_small", hardware.runs_once)


def recipe_of(**changes: Any) -> Recipe:
    space = changes.get("space", SPACE)
    plain = Recipe(
        space=space,
        sampler=samplers.sandwich(space.menu, n_random=2),
        loss=loss.in_place_distillation(divergences.kl_divergence, smoothing=0.1),
        optimizer=sgd.alphanet_sgd(0.1, weight_decay=1e-3),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 64 - 2,
        seed=3,
    )
    return plain._replace(**changes)


def batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (BATCH, 8, 8, CHANNELS), np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return Batch(images, labels, np.arange(BATCH, dtype=np.int32))


def steps(
    recipe: Recipe, strategy: Any, *, count: int = 2, mesh: Any = None, start: Any = None
) -> Any:
    """The state after a few steps, and the metrics of each. `start` is the state before them."""
    recipe = recipe._replace(strategy=strategy)
    step = train_step.Step(recipe, mesh=mesh, steps=count)
    assert step.is_blockwise is (strategy is blockwise.blockwise)
    state = created(recipe) if start is None else start
    if mesh is not None:
        state = jax.device_put(state, train_step.places(recipe, mesh, sharding.REPLICATED))
    state = jax.tree.map(jnp.array, state)  # which the step may take
    lines = []
    for i in range(count):
        data = batch(i) if mesh is None else sharding.split(mesh, batch(i))
        sizes = train_step.step_sizes(recipe, step=i)
        state, metrics = step(state, data, sizes=sizes)
        lines.append(jax.device_get(metrics))
    return jax.device_get(state), lines


def created(recipe: Recipe) -> Any:
    return jax.device_get(jax.jit(functools.partial(train_step.create, recipe))())


@functools.cache
def start_of_plain() -> Any:
    return created(recipe_of())


@functools.cache
def plain() -> Any:
    """Two steps on the first device."""
    return steps(recipe_of(), blockwise.blockwise, start=start_of_plain())


def scoring(menu: Any) -> Sampler:
    """The better of two archs; it looks at the loss of both."""

    def sample(key: Any, step: Any, score: Any) -> Any:
        pair = choices.sample(menu, key, (2,))
        best = jnp.argmin(jax.lax.map(score, pair))
        return jax.tree.map(lambda leaf: leaf[best][None], pair)

    return sampler.stateless((choices.largest(menu),), 1, sample)


def remembering(menu: Any) -> Sampler:
    """Draws with a key that is its state; it counts the steps."""
    return Sampler(
        (choices.largest(menu),),
        1,
        init=lambda key: {"key": jax.random.key_data(key), "seen": jnp.int32(0)},
        sample=lambda state, key, step, score: choices.sample(
            menu, jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["seen"]), (1,)
        ),
        update=lambda state, metrics: {**state, "seen": state["seen"] + 1},
    )


ROWS = Lookup((("width",),), np.asarray([0, 1, 2], np.int32))
BANKED = light(resolutions=(8,), bank=Bank(3, ROWS, ("first", "pool")))
RELATED = features.with_features(
    loss.in_place_distillation(divergences.kl_divergence), features.similarity, weight=2.0
)


def by_colour(memory: Any, images: Any) -> Taught:
    """A teacher that is no subnet."""
    del memory
    weights = jnp.ones((CHANNELS, CLASSES)).at[0, 1].set(3.0)
    return Taught(jnp.mean(images, (1, 2)) @ weights, {})


def mixed(images: Any, labels: Any, key: Any, ids: Any) -> Any:
    return images, 0.7 * jax.nn.one_hot(labels, CLASSES) + 0.3 / CLASSES


CASES: dict[str, dict[str, Any]] = {
    "an average, features": {"ema_decay": 0.9, "loss": RELATED, "features": ("first", "second")},
    "archs of parts, micro-batches, a bank, remat": {
        "space": BANKED,
        "arch_shards": 2,
        "accumulate": 2,
        "remat": True,
    },
    "parts, clipped projection, candidates that are scored": {
        "norm_shards": 2,
        "combine": combine.clipped(conflict_projection.conflict_projection(), member=0.5),
        "sampler": scoring(SPACE.menu),
    },
    "a teacher, mixed labels, a sampler that remembers": {
        "teacher": largest.largest()._replace(teach=by_colour),
        "mix": mixed,
        "sampler": remembering(SPACE.menu),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_step_of_whole_programs(name: str) -> None:
    recipe = recipe_of(**CASES[name])
    start = created(recipe)
    (state, lines), (wanted, others) = (
        steps(recipe, strategy, start=start)
        for strategy in (blockwise.blockwise, strategies.masked)
    )
    assert all(line["applied"] for line in lines)
    # Float32: sums are ordered otherwise, and the second step starts from the first.
    near = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(near, lines, others)
    jax.tree.map(near, state, wanted)
    assert lines[0]["loss/largest"] != lines[1]["loss/largest"]


def test_the_step_of_several_devices() -> None:
    mesh = sharding.data_mesh(jax.devices()[:2])
    state, lines = steps(recipe_of(), blockwise.blockwise, mesh=mesh, start=start_of_plain())
    wanted, others = plain()
    near = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(near, (state, lines), (wanted, others))


def test_a_device_that_is_not_the_first() -> None:
    mesh = sharding.data_mesh(jax.devices()[1:2])
    start = start_of_plain()
    _, lines = steps(recipe_of(), blockwise.blockwise, mesh=mesh, count=1, start=start)
    wanted = plain()[1][:1]
    near = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(near, lines, wanted)


def test_parts_on_several_devices_are_whole_programs() -> None:
    mesh = sharding.data_mesh(jax.devices()[:2])
    recipe = recipe_of(norm_shards=2, strategy=blockwise.blockwise)
    assert train_step.Step(recipe).is_blockwise
    assert not train_step.Step(recipe, mesh=mesh).is_blockwise


def test_steps_taken_again_are_the_same_to_the_bit() -> None:
    """From the state between two steps, in a new object: what a resumed run does."""
    recipe = recipe_of(strategy=blockwise.blockwise, ema_decay=0.5)
    states = [created(recipe)]
    for begin in (0, 1):
        state, step = jax.tree.map(jnp.array, states[begin]), train_step.Step(recipe, steps=3)
        for i in range(begin, 3):
            sizes = train_step.step_sizes(recipe, step=i)
            state, _ = step(state, batch(i), sizes=sizes)
            states.append(jax.device_get(state))
    _, _, _, whole, _, again = states
    assert jax.tree.all(jax.tree.map(np.array_equal, again, whole))
    assert not jax.tree.all(jax.tree.map(np.array_equal, states[2].params, whole.params))


def test_archs_are_known_before_the_step() -> None:
    recipe = recipe_of(arch_shards=2)
    known = known_archs.KnownArchs(recipe)
    assert known.possible
    state = train_step.create(recipe)
    clock = known_archs.Clock()
    moment = clock.read(state)
    assert (moment.step, moment.rollbacks) == (0, 0)
    archs = known.of(moment, (8, 8))
    assert all(leaf.shape == (2, 2) for leaf in jax.tree.leaves(archs))
    step = train_step.Step(recipe)
    given = step.begin(state, batch())
    drawn = jax.device_get(step.draw(state, given, None, sizes=(8, 8)))
    assert jax.tree.all(jax.tree.map(np.array_equal, archs, drawn))
    assert not known_archs.KnownArchs(recipe_of(sampler=scoring(SPACE.menu))).possible
    assert not known_archs.KnownArchs(recipe_of(sampler=remembering(SPACE.menu))).possible


def test_programs_of_coming_steps_are_compiled_ahead() -> None:
    recipe = recipe_of(strategy=blockwise.blockwise)
    step, state = train_step.Step(recipe, steps=3), train_step.create(recipe)
    state, _ = step(state, batch(), sizes=(8,) * 4)
    programs = step.blockwise.run.programs
    while programs.waiting:
        time.sleep(0.01)
    known = len(programs)
    for i in (1, 2):
        state, _ = step(state, batch(i), sizes=(8,) * 4)
        assert len(programs) == known
    alone = train_step.Step(recipe)
    alone(train_step.create(recipe), batch(), sizes=(8,) * 4)
    assert len(alone.blockwise.run.programs) < known
