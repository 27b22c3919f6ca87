"""Architecture parameters in a training step: on which examples they learn, and what is refused."""

import functools

import jax
import numpy as np
import pytest
from tiny_space import cells

from supernet_jax import data
from supernet_jax.elastic.mixed import mixed
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.runtime import sharding
from supernet_jax.training import samplers, train_step
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.members import Member, Members
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.recipe import Batch, Recipe, State
from supernet_jax.training.samplers import architecture

SPACE = cells()
EXAMPLES = 8


def batch(seed: int, second: Batch | None = None) -> Batch:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(EXAMPLES, 6, 6, 2)).astype(np.float32)
    labels = rng.integers(0, 5, EXAMPLES).astype(np.int32)
    return Batch(images, labels, np.arange(EXAMPLES, dtype=np.int32), second)


def recipe_of(sampler: samplers.Sampler) -> Recipe:
    return Recipe(
        space=SPACE,
        sampler=sampler,
        loss=HardLabels(smoothing=0.0).build(),
        optimizer=Sgd(learning_rate=0.1).build(steps=10),
        augment=lambda inputs, key, ids: inputs,
        strategy=mixed,
    )


RECIPE = recipe_of(samplers.darts(SPACE.menu, learning_rate=0.1))


@functools.cache
def step() -> train_step.Step:
    return train_step.Step(RECIPE)


def taken(first: Batch, second: Batch) -> tuple[State, dict]:
    state, metrics = step()(train_step.create(RECIPE), first._replace(second=second), sizes=(6,))
    return state, jax.device_get(metrics)


def differ(a: object, b: object) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(not np.array_equal(x, y) for x, y in pairs)


def test_alpha_learns_on_the_second_batch_alone() -> None:
    """And the weights on the first."""
    one, metrics = taken(batch(0), batch(1))
    other, others = taken(batch(0), batch(2))
    assert differ(one.sampler.alpha, other.sampler.alpha)
    assert metrics["loss/codes"] != others["loss/codes"]
    assert {"loss/codes", "loss/mixture", "accuracy/mixture"} <= metrics.keys()
    another, _ = taken(batch(3), batch(1))
    assert not differ(one.sampler, another.sampler)
    assert differ(one.params, another.params)


def test_a_step_ahead_with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of normalisation have no second derivatives, and a mesh of one device runs them."""
    recipe = recipe_of(samplers.darts(SPACE.menu, learning_rate=0.1, ahead=0.1))
    mesh = sharding.data_mesh(jax.devices()[:1])
    first = jax.device_get(train_step.create(recipe))
    given, found = sharding.split(mesh, batch(0, batch(1))), []
    for kernels in ("1", "0"):
        monkeypatch.setenv("SUPERNET_NATIVE", kernels)
        state = sharding.replicate(mesh, first)
        learned, _ = train_step.Step(recipe, mesh=mesh)(state, given, sizes=(6,))
        found.append(jax.device_get(learned.sampler.alpha))
    assert differ(found[0], first.sampler.alpha)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3), *found)


def test_what_is_not_finite_is_refused() -> None:
    """Alpha goes back with the weights."""
    broken = batch(1)
    broken = broken._replace(inputs=np.full_like(broken.inputs, np.nan))
    state, metrics = taken(batch(0), broken)
    assert (metrics["applied"], metrics["refused"]) == (0, 1)
    before = train_step.create(RECIPE)
    assert not differ(state.sampler, before.sampler) and not differ(state.params, before.params)


def test_a_second_batch_must_be_there() -> None:
    with pytest.raises(ValueError, match="second batch"):
        step()(train_step.create(RECIPE), batch(0), sizes=(6,))


def test_a_penalty_is_part_of_the_loss() -> None:
    """Of members, and so of codes: here of one that weighs the first option of an edge."""
    fined = RECIPE._replace(penalty=lambda params, code: 2.0 + 3.0 * code["edge"][0][0])
    code = architecture.probabilities(train_step.create(RECIPE).sampler.alpha)
    member = Member(mixed, code, "codes", 6, None)
    losses = []
    for recipe in (RECIPE, fined):
        state, given = train_step.create(recipe), batch(0)
        key = jax.random.key(0)
        alone = Members(recipe, None, None, state, given.inputs, given.targets, key)
        losses.append(float(jax.jit(lambda p, a=alone: a.loss(p, member)[0])(state.params)))
    weight = float(code["edge"][0][0])
    assert losses[1] - losses[0] == pytest.approx(2 + 3 * weight, abs=1e-5)


def test_parts_of_the_training_examples() -> None:
    labels = np.arange(10, dtype=np.int32)
    images = data.Images(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), labels)
    first, second = data.second_part(images, 0.3, seed=1)
    assert len(first.labels) == 7 and len(second.labels) == 3
    assert sorted([*first.labels, *second.labels]) == list(range(10))
    again = data.second_part(images, 0.3, seed=1)[1].labels
    assert np.array_equal(second.labels, again)
    assert not np.array_equal(second.labels, data.second_part(images, 0.3, seed=2)[1].labels)
    with pytest.raises(UserError, match="leaves one part without any"):
        data.second_part(images, 0.01, seed=1)


def test_strategies_of_codes() -> None:
    codes = samplers.darts(SPACE.menu)
    assert samplers.draws_codes(codes) and not samplers.draws_codes(samplers.uniform(SPACE.menu))
    about = {"backend": "cpu", "codes": True}
    assert config.strategy("auto", **about) is mixed
    for name in ("switched", "blockwise"):
        with pytest.raises(UserError, match=f"train.strategy is {name}, which runs archs"):
            config.strategy(name, **about)


def test_data_that_is_said() -> None:
    with pytest.raises(UserError, match=r"data.second is 1.0"):
        config.Config(data=data.settings.Data(second=1.0))
