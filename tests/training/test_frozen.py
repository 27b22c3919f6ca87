"""What a space does not train stays as it is, to the bit, and nothing is kept for it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import CHANNELS, CLASSES, light

from supernet_jax.elastic import blockwise, choices
from supernet_jax.elastic.transforms import low_rank
from supernet_jax.runtime import path_rules
from supernet_jax.training import train_step
from supernet_jax.training.gradients import combine
from supernet_jax.training.gradients.unit_sum import unit_sum
from supernet_jax.training.losses import divergences, loss
from supernet_jax.training.optimizers import adamw
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers.uniform import with_uniform

SPACE = low_rank.adapted(
    light(resolutions=(8,), widths=(3, 4)),
    ranks=(1, 2),
    leaves=("first/mix/kernel", "pool/.*/kernel"),
    trained=("first/norm/.*",),
)
TRAINED = {
    *("first/norm/scale", "first/norm/bias"),
    *(f"first/transforms/mix/kernel:low_rank/{half}" for half in ("down", "up")),
    *(f"pool/transforms/classifier/kernel:low_rank/{half}" for half in ("down", "up")),
}


def recipe(**changes: Any) -> Recipe:
    return Recipe(
        space=SPACE,
        sampler=with_uniform(SPACE.menu, (choices.largest(SPACE.menu),), 1),
        loss=loss.in_place_distillation(divergences.kl_divergence),
        optimizer=adamw.adamw(0.1, clip_norm=1.0),
        augment=lambda images, key, ids: images.astype(jnp.float32),
        ema_decay=0.9,
    )._replace(**changes)


CASES: dict[str, dict[str, Any]] = {
    "masked": {},
    "blockwise": {"strategy": blockwise.blockwise},
    "parts": {
        "norm_shards": 2,
        "accumulate": 2,
        "combine": combine.clipped(unit_sum(), member=1.0),
    },
}


@functools.cache
def trained(name: str) -> tuple[Any, Any, Any]:
    """The states before and after two steps, and the last metrics."""
    made = recipe(**CASES[name])
    step, state = train_step.Step(made), train_step.create(made)
    # A negative zero is what sums of updates lose.
    kernel = state.params["second"]["mix"]["kernel"].at[0, 0, 0, 0].set(-0.0)
    params = path_rules.laid_over(state.params, {"second": {"mix": {"kernel": kernel}}})
    state = train_step.create(made, params=params)
    before = jax.tree.map(np.array, state)
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(8, 8, 8, CHANNELS)).astype(np.uint8)
    labels = rng.integers(CLASSES, size=8).astype(np.int32)
    batch = Batch(images, labels, np.arange(8, dtype=np.int32))
    for _ in range(2):
        state, metrics = step(state, batch, sizes=(8, 8))
    return before, jax.tree.map(np.array, state), metrics


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_named_is_trained(name: str) -> None:
    before, after, metrics = trained(name)
    assert float(metrics["applied"]) == 1.0
    for tree in ("params", "ema"):
        old, new = (path_rules.named_leaves(vars(state)[tree]) for state in (before, after))
        moved = {path for path in old if old[path].tobytes() != new[path].tobytes()}
        assert moved == TRAINED, tree
    # The optimiser has two moments of what is trained, and its counts; nothing of anything else.
    found = path_rules.named_leaves(after.opt_state)
    kept = [path for path, leaf in found.items() if np.ndim(leaf)]
    assert len(kept) == 2 * len(TRAINED)
    assert {path for path in TRAINED if sum(k.endswith(path) for k in kept) == 2} == TRAINED


def test_gradients_are_of_what_is_trained() -> None:
    """Their norm, by which they may be clipped, is the same for all strategies."""
    norms = [float(trained(name)[2]["gradient_norm"]) for name in ("masked", "blockwise")]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)  # float32 sums in another order


def test_what_is_missing_at_the_start_is_random() -> None:
    made = recipe()
    random = train_step.create(made).params
    part = path_rules.chosen(jax.tree.map(jnp.ones_like, random), ("second/.*", "pool/.*"))
    params = train_step.create(made, params=part).params
    assert jax.tree.structure(params) == jax.tree.structure(random)
    others = path_rules.named_leaves(random)
    for path, leaf in path_rules.named_leaves(params).items():
        wanted = 1.0 if path.startswith(("second/", "pool/")) else others[path]
        np.testing.assert_array_equal(leaf, np.broadcast_to(wanted, leaf.shape))
