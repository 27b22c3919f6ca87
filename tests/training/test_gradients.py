"""Ways of combining gradients: what each keeps, closed forms, and the step they run in."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from light_space import CHANNELS, CLASSES, light

from supernet_jax.errors import UserError
from supernet_jax.runtime import sharding
from supernet_jax.storage import user_code
from supernet_jax.storage.user_code import taken
from supernet_jax.training import gradients as parts
from supernet_jax.training import samplers, train_step
from supernet_jax.training.gradients import (
    combine,
    conflict_projection,
    delayed_shrinking,
    unit_sum,
)
from supernet_jax.training.gradients.combine import Combine
from supernet_jax.training.losses import divergences, loss
from supernet_jax.training.recipe import Batch, Recipe

KINDS = [kind for kind in vars(parts).values() if dataclasses.is_dataclass(kind)]
VARIANTS = [kind() for kind in KINDS] + [
    parts.UnitSum(clip_member=0.5, clip_sum=1.0),
    parts.ByRole(largest=1.0, smallest=0.25, random=0.5),
    parts.DelayedShrinking(delay=0.0, ramp=0.5, floor=0.1, clip_member=2.0),
    parts.ConflictProjection(by_array=False, limit=100.0),
    user_code.run(ROOT / "docs" / "examples" / "combination.py").EqualLengths(),
]
ROLES = ("largest", "smallest", "random", "random")
SHAPES = {"a": {"kernel": (3, 4), "bias": (4,)}, "b": {"scale": ()}}


def trees(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return [jax.tree.map(draw, SHAPES, is_leaf=is_shape) for _ in ROLES]


def folded(rule: Combine, members: list[Any], roles: Any = ROLES, step: int = 0) -> Any:
    carry = rule.init(jax.tree.map(jnp.ones_like, members[0]))
    for gradients, role in zip(members, roles, strict=True):
        carry = rule.add(carry, gradients, role, jnp.int32(step))
    return rule.finish(carry)


def made(part: Any, *, steps: int) -> Combine:
    """The rule of a part for a run of so many steps."""
    return part.build(**taken(part, steps=steps))


def vectors(*rows: list[float]) -> list[Any]:
    return [{"w": jnp.asarray(row, jnp.float32)} for row in rows]


def close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), a, b)


@pytest.mark.parametrize("part", VARIANTS, ids=str)
def test_what_every_rule_keeps(part: Any) -> None:
    """Shapes and dtypes; any order of the members; nothing stays nothing."""
    rule, members = made(part, steps=100), trees()
    found = folded(rule, members, step=90)
    same = jax.tree.map(lambda x, y: x.shape == y.shape and x.dtype == y.dtype, found, members[0])
    assert all(jax.tree.leaves(same))
    for order in itertools.permutations(range(len(ROLES))):
        roles = [ROLES[i] for i in order]
        close(folded(rule, [members[i] for i in order], roles, step=90), found, 1e-5)
    zeros = [jax.tree.map(jnp.zeros_like, tree) for tree in members]
    close(folded(rule, zeros, step=90), zeros[0], 0)
    clips = [getattr(part, name, 0.0) for name in ("clip_member", "clip_sum")]
    if not any(clips):  # no rule has a scale of its own
        doubled = [optax.tree.scale(2.0, tree) for tree in members]
        close(folded(rule, doubled, step=90), optax.tree.scale(2.0, found), 1e-5)


@pytest.mark.parametrize("part", VARIANTS, ids=str)
def test_one_trace_for_all_steps(part: Any) -> None:
    rule = made(part, steps=10)
    traced = []

    @jax.jit
    def run(members: Any, step: Any) -> Any:
        traced.append(1)
        carry = rule.init(members[0])
        carry = rule.add(carry, members[0], "largest", step)
        body = lambda carry, tree: (rule.add(carry, tree, "random", step), None)  # noqa: E731
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members[1:])
        return rule.finish(jax.lax.scan(body, carry, stacked)[0])

    roles = ("largest", "random", "random", "random")
    for step in (0, 3, 6, 9):
        close(run(trees(step), jnp.int32(step)), folded(rule, trees(step), roles, step), 1e-5)
    assert len(traced) == 1


def test_a_sum() -> None:
    members = trees()
    close(folded(unit_sum.unit_sum(), members), functools.reduce(optax.tree.add, members))


def test_weights_by_role() -> None:
    rule = parts.ByRole(largest=2.0, smallest=0.0, random=0.5).build()
    found = folded(rule, vectors([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]))
    close(found, vectors([2, 0, 0.5, 0.5])[0])


def test_the_others_come_in_late_and_slowly() -> None:
    rule = parts.DelayedShrinking(delay=0.5, ramp=0.1, floor=0.2).build(steps=100)
    members = vectors([1, 0, 0], [0, 1, 0], [0, 0, 1])
    wanted = {0: 0, 49: 0, 50: 0.2, 55: 0.6, 60: 1, 99: 1}
    for step, factor in wanted.items():
        found = folded(rule, members, ROLES[:3], step)
        close(found, vectors([1, factor, factor])[0])
    at_once = delayed_shrinking.delayed_shrinking(delay=3, ramp=0)
    assert [float(at_once("random", jnp.int32(step))) for step in (2, 3)] == [0, 1]


def test_norms_are_bounded_and_short_gradients_left_alone() -> None:
    members, roles = vectors([3, 4], [0.5, 0]), ("largest", "random")
    unit = unit_sum.unit_sum()
    close(folded(combine.clipped(unit, member=1.0), members, roles), vectors([1.1, 0.8])[0])
    found = folded(combine.clipped(unit, total=1.0), members, roles)["w"]
    np.testing.assert_allclose(found, np.float32([3.5, 4]) / np.hypot(3.5, 4), rtol=1e-6)
    short = folded(combine.clipped(unit, member=50.0, total=50.0), members, roles)
    np.testing.assert_array_equal(short["w"], folded(unit, members, roles)["w"])
    parts_of_one = [{"a": jnp.float32(3), "b": jnp.float32(4)}]
    found = folded(combine.clipped(unit, member=1.0), parts_of_one, ("random",))
    close(found, {"a": 0.6, "b": 0.8})  # one norm for all arrays


def test_projection_of_two_vectors() -> None:
    """<g, s> = -1 and |s|^2 = 1: g loses its part along s, s stays."""
    roles = ("largest", "random")
    rule = conflict_projection.conflict_projection()
    close(folded(rule, vectors([-1, 2], [1, 0]), roles), vectors([1, 2])[0])
    close(folded(rule, vectors([1, 2], [1, 0]), roles), vectors([2, 2])[0])  # no conflict
    close(folded(rule, vectors([0, 2], [1, 0]), roles), vectors([1, 2])[0])
    # published: at most twice s, whatever there is to take out
    close(folded(rule, vectors([-5, 2], [1, 0]), roles), vectors([-5 + 2 + 1, 2])[0])
    endless = conflict_projection.conflict_projection(limit=np.inf)
    close(folded(endless, vectors([-5, 2], [1, 0]), roles), vectors([1, 2])[0])
    close(folded(endless, vectors([-5, 2], [0, 0]), roles), vectors([-5, 2])[0])


def test_projection_of_three_vectors_is_on_the_sum_of_the_others() -> None:
    g, first, second = np.float32([[-3, 1, 2], [1, 1, 0], [1, -2, 1]])
    s = first + second
    assert g @ s < 0 < -(g @ s) / (s @ s) < 2
    wanted = g - (g @ s) / (s @ s) * s + s
    rule = conflict_projection.conflict_projection()
    found = folded(rule, vectors(*map(list, (g, first, second))), ROLES[:3])["w"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose((found - s) @ s, 0, atol=1e-5)


def test_projection_by_array_or_of_the_whole() -> None:
    g = {"x": jnp.float32([-1.0, 1.0]), "y": jnp.float32([4.0])}
    s = {"x": jnp.float32([1.0, 0.0]), "y": jnp.float32([1.0])}
    roles = ("largest", "random")
    found = folded(conflict_projection.conflict_projection(), [g, s], roles)
    close(found, {"x": jnp.float32([1, 1]), "y": jnp.float32([5])})
    whole = folded(conflict_projection.conflict_projection(by_array=False), [g, s], roles)
    close(whole, optax.tree.add(g, s))  # as one vector they agree: -1 + 4 > 0
    against = {"x": jnp.float32([-4.0, 1.0]), "y": jnp.float32([1.0])}
    whole = folded(conflict_projection.conflict_projection(by_array=False), [against, s], roles)
    close(whole, {"x": jnp.float32([-4 + 1.5 + 1, 1]), "y": jnp.float32([1 + 1.5 + 1])})


def test_projection_may_begin_later() -> None:
    rule = parts.ConflictProjection(start=0.5).build(steps=10)
    members, roles = vectors([-1, 2], [1, 0]), ("largest", "random")
    close(folded(rule, members, roles, step=4), vectors([0, 2])[0])
    close(folded(rule, members, roles, step=5), vectors([1, 2])[0])


# --- in the step ----------------------------------------------------------------------------

SPACE = light(widths=(64, 128), resolutions=(8,))
BATCH = 16
RULE = combine.clipped(
    combine.scaled(
        conflict_projection.conflict_projection(),
        factor=delayed_shrinking.delayed_shrinking(delay=0, ramp=2, floor=0.5),
    ),
    member=0.25,
    total=0.05,
)
RECIPE = Recipe(
    space=SPACE,
    sampler=samplers.sandwich(SPACE.menu, n_random=2),
    loss=loss.in_place_distillation(divergences.soft_cross_entropy, smoothing=0.1),
    optimizer=optax.sgd(0.5),
    augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
    combine=RULE,
    arch_shards=8,
)


def two_steps(recipe: Recipe, mesh: Any, rules: sharding.Rules) -> Any:
    """Parameters after two steps, and how many losses had been traced after each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 8, 8, CHANNELS), np.uint8)
    batch = Batch(
        images, rng.integers(0, CLASSES, BATCH).astype(np.int32), np.arange(BATCH, dtype=np.int32)
    )
    batch = batch if mesh is None else sharding.split(mesh, batch)
    where = None if mesh is None else train_step.places(recipe, mesh, rules)
    state = jax.jit(lambda: train_step.create(recipe), out_shardings=where)()
    traced: list[Any] = []

    def loss(*args: Any) -> Any:
        traced.append(args)
        return recipe.loss(*args)

    step = train_step.Step(recipe._replace(loss=loss), mesh=mesh, rules=rules)
    counts = []
    for _ in range(2):
        state, metrics = step(state, batch, sizes=(8,) * 4)
        assert float(metrics["applied"]) == 1
        assert float(metrics["gradient_norm"]) == pytest.approx(0.05, rel=1e-4)
        counts.append(len(traced))
    return jax.device_get(state.params), counts


def test_every_device_count_and_split_parameters_give_the_same() -> None:
    alone, counts = two_steps(RECIPE, None, sharding.REPLICATED)
    split, others = two_steps(RECIPE, sharding.data_mesh(), sharding.SHARDED)
    assert counts[0] == counts[1] > 0 and others[0] == others[1] > 0
    close(split, alone, 1e-5)


def test_mistakes_are_named() -> None:
    def weights(**changed: float) -> dict[str, float]:
        return {"largest": 1.0, "smallest": 1.0, "random": 1.0, **changed}

    mistakes = [
        (lambda: unit_sum.by_role({"largest": 1.0}), "give them for"),
        (lambda: unit_sum.by_role(weights(random=-1.0)), "weight of random is -1"),
        (lambda: delayed_shrinking.delayed_shrinking(delay=-1, ramp=0), "delay=-1"),
        (lambda: delayed_shrinking.delayed_shrinking(delay=1, ramp=0, floor=2.0), "floor=2"),
        (lambda: combine.clipped(unit_sum.unit_sum(), member=0.0), "bound of the member"),
        (lambda: combine.clipped(unit_sum.unit_sum(), total=-1.0), "bound of the total"),
        (lambda: conflict_projection.conflict_projection(limit=0.0), "limit=0"),
        (lambda: parts.UnitSum(clip_sum=-1.0).build(), "combine.clip-sum is -1"),
        (lambda: parts.DelayedShrinking(delay=1.0).build(steps=1), "combine.delay is 1"),
        (lambda: parts.ConflictProjection(start=-0.5).build(steps=1), "combine.start is -0.5"),
    ]
    for build, words in mistakes:
        with pytest.raises(UserError, match=words):
            build()
