"""Roles are names of the sampler's: in metrics, in losses and combinations, for regularisation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light_space import CHANNELS, CLASSES, light

from supernet_jax.elastic import blockwise, choices, strategies
from supernet_jax.errors import UserError
from supernet_jax.runtime import hardware
from supernet_jax.training import samplers, train_step
from supernet_jax.training.gradients import combine, unit_sum
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.losses.loss import cross_entropy
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers import Sandwich, Uniform

SPACE = light(dropout=0.5, resolutions=(8,), widths=(4, 6))
BATCH = 8
ROLES = ("largest", "smallest", "medium", "small")
NAMED = samplers.sandwich(SPACE.menu, n_random=2)._replace(roles=ROLES)


def recipe_of(**changes: Any) -> Recipe:
    plain = Recipe(
        space=SPACE,
        sampler=NAMED,
        loss=hard_labels.hard_labels(),
        optimizer=optax.sgd(0.1),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 64 - 2,
    )
    return plain._replace(**changes)


def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 8, 8, CHANNELS), np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return Batch(images, labels, np.arange(BATCH, dtype=np.int32))


def stepped(recipe: Recipe) -> Any:
    """Parameters and metrics after a step."""
    count = len(samplers.roles(recipe.sampler))
    state = jax.jit(functools.partial(train_step.create, recipe))()
    state, metrics = train_step.Step(recipe, steps=1)(state, batch(), sizes=(8,) * count)
    return jax.device_get((state.params, metrics))


def test_names_of_members() -> None:
    assert samplers.names(samplers.sandwich(SPACE.menu)) == (
        *("largest", "smallest", "random_1", "random_2"),
    )
    assert samplers.names(samplers.uniform(SPACE.menu)) == ("random_1",)
    two = NAMED._replace(roles=("largest", "small", "medium", "small"))
    assert samplers.names(two) == ("largest", "small_1", "medium", "small_2")
    assert samplers.metric_names(NAMED, 3, "accuracy") == (
        *("loss/largest", "accuracy/largest", "loss/smallest", "accuracy/smallest"),
        *("loss/medium", "accuracy/medium"),
    )
    assert samplers.metric_names(samplers.uniform(SPACE.menu), 1, "accuracy") == ("loss/random_1",)


@functools.cache
def stepping(strategy: Any, regularised: tuple[str, ...]) -> tuple[Any, set[str], set[str]]:
    """The metrics of a step, the roles that its loss was given, and those that were combined.

    Losses at the start depend on nothing but what is dropped.
    """
    seen, added = set(), set()

    def loss(student: Any, teacher: Any, features: Any, labels: Any, role: str) -> Any:
        seen.add(role)
        return cross_entropy(student, labels)

    def factor(role: str, step: Any) -> Any:
        added.add(role)
        return unit_sum.by_role({"largest": 1.0, "smallest": 1.0, "random": 0.25})(role, step)

    recipe = recipe_of(
        loss=loss,
        combine=combine.scaled(unit_sum.unit_sum(), factor=factor),
        strategy=strategy,
        sampler=NAMED._replace(regularised=regularised),
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hardware, "many_small", hardware.runs_once)
        return stepped(recipe)[1], seen, added


SOME = ("smallest", "small")
BOTH = pytest.mark.parametrize("strategy", [strategies.masked, blockwise.blockwise])


@BOTH
def test_roles_reach_loss_combination_and_metrics(strategy: Any) -> None:
    metrics, seen, added = stepping(strategy, SOME)
    assert seen == added == set(ROLES)
    assert {name for name in metrics if "/" in name} == set(
        samplers.metric_names(NAMED, 4, "accuracy")
    )
    share = float(metrics["accuracy/medium"]) * BATCH
    assert share == int(share)


def test_other_roles_weigh_as_random_ones() -> None:
    weights = unit_sum.by_role({"largest": 1.0, "smallest": 0.5, "random": 0.25})
    assert [weights(role, jnp.int32(0)) for role in ROLES[:3]] == [1.0, 0.5, 0.25]


@BOTH
def test_regularised_roles_and_no_others_are_dropped(strategy: Any) -> None:
    nobody, *_ = stepping(strategies.masked, ())
    some, *_ = stepping(strategy, SOME)
    losses = [name for name in nobody if name.startswith("loss/")]
    changed = {name for name in losses if abs(nobody[name] - some[name]) > 1e-4}
    assert changed == {"loss/smallest", "loss/small"}
    # What is dropped does not depend on how a member runs.
    wanted, *_ = stepping(strategies.masked, SOME)
    for name in losses:
        assert some[name] == pytest.approx(wanted[name], rel=1e-4)


def test_members_drop_by_keys_of_their_own() -> None:
    """Two members of one arch, both regularised, do not lose the same features."""
    same = choices.stack([choices.largest(SPACE.menu)] * 2)
    sampler = samplers.uniform(SPACE.menu, n_random=2)._replace(
        sample=lambda state, key, step, score: jax.tree.map(jnp.asarray, same),
        regularised=("random",),
    )
    apart = stepped(recipe_of(sampler=sampler))[1]
    assert abs(apart["loss/random_1"] - apart["loss/random_2"]) > 1e-4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roles": ("largest", "small")}, "has 4 members and roles largest, small; name one for e"),
        ({"roles": (*ROLES[:3], "a/b")}, r"a role of the sampler is 'a/b'; a role is a word"),
        ({"roles": ("a_1", "b", "a", "a")}, "two members of the sampler are called .*a_1"),
        ({"regularised": ("larges",)}, "regularises 'larges', but .* did you mean largest"),
        ({"regularised": ("random",)}, "regularises 'random', but its members are largest, medi"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        train_step.Step(recipe_of(sampler=NAMED._replace(**changes)))


def test_configurations_say_who_is_regularised() -> None:
    everybody = Sandwich(regularised=("largest", "smallest", "random")).build(menu=SPACE.menu)
    assert everybody.regularised == ("largest", "smallest", "random")
    assert Sandwich().build(menu=SPACE.menu).regularised == ("largest",)
    assert Uniform().build(menu=SPACE.menu).regularised == ()
