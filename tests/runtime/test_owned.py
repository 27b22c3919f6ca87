"""What is kept for an object goes with it."""

import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_space import tiny

from supernet_jax.elastic import choices, shared_params, strategies
from supernet_jax.evaluation import costs, evaluate
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import owned
from supernet_jax.training import samplers, train_step
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Batch, Recipe


class Owner:
    """Of results."""


def test_made_once_for_each_owner_and_argument() -> None:
    calls = []

    @owned.by(owned.first)
    def double(owner: Owner, x: int) -> int:
        calls.append((owner, x))
        return 2 * x

    first, second = Owner(), Owner()
    assert [double(first, 1), double(first, 1), double(second, 1), double(first, 2)] == [2, 2, 2, 4]
    assert calls == [(first, 1), (second, 1), (first, 2)]


def test_what_is_known_of_a_module_goes_with_the_function_that_makes_it() -> None:
    def make(spec: int) -> nn.Module:
        return nn.Dense(spec)

    assert block_shapes.describe(
        make, 3, (jax.ShapeDtypeStruct((1, 4), "float32"),)
    ).output.shape == (1, 3)
    gone = weakref.ref(make)
    del make
    gc.collect()
    assert gone() is None


@pytest.mark.slow
def test_a_space_goes_with_all_that_was_compiled_for_it() -> None:
    space = tiny.__wrapped__()
    params = shared_params.init(space, jax.random.key(0))
    archs = jax.device_get(choices.sample(space.menu, jax.random.key(1), (3,)))
    images = np.zeros((1, 4, 8, 8, space.task.input_channels), np.uint8)
    labels, real = np.zeros((1, 4), np.int32), np.ones((1, 4), bool)
    data = evaluate.EvaluationData(images, images, labels, real)
    how = evaluate.How(space, jnp.float32, strategies.masked)
    for _ in evaluate.evaluate(how, params, archs, data):
        pass
    costs.macs(space)(archs)
    recipe = Recipe(
        space=space,
        sampler=samplers.sandwich(space.menu, n_random=1),
        loss=hard_labels.hard_labels(smoothing=0.0),
        optimizer=sgd.alphanet_sgd(0.1),
        augment=lambda images, key, ids: images.astype(jnp.float32),
    )
    step = train_step.Step(recipe)
    batch = Batch(images[0], np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
    step(train_step.create(recipe), batch, sizes=(8, 8, 8))
    gone = weakref.ref(space)
    del space, how, recipe, step
    gc.collect()
    assert gone() is None
