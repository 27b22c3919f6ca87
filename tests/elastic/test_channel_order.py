"""Sorting channels by importance: what belongs together, and the same largest subnet."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_train_step import QUICK, bitwise
from theorem import largest_difference, random_inputs
from tiny_space import (
    bert,
    decoding,
    decoding_untied,
    deep,
    encoding,
    tiny,
    tokens,
    transforming,
    vit,
)

from supernet_jax.elastic import channel_order, choices, shared_params, strategies
from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import recipe, samplers, train_step
from supernet_jax.training.losses import divergences, loss
from supernet_jax.training.samplers import Opening, Reorder
from supernet_jax.training.teachers import average

TINY = tiny()
SPACES = {"tiny": TINY, "deep": deep(), "transforming": transforming(), "vit": vit()}
SPACES |= {"bert": bert(), "encoding": encoding()}
# Heads that cannot change places: those that share keys, those whose biases are one prefix.
FIXED_HEADS = {"decoding": decoding, "decoding_untied": decoding_untied, "tokens": tokens}


def noisy(space: Space, seed: int = 0) -> Any:
    """Parameters in which nothing is 0 or 1, so that every permutation would be noticed."""
    shapes = jax.eval_shape(lambda: shared_params.init(space, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)


@functools.cache
def sort(space: Space) -> Any:
    """Puts the channels in their order."""
    return jax.jit(
        lambda p: channel_order.reordered(p, channel_order.by_importance(space, p)), **QUICK
    )


def test_what_belongs_together_follows_from_the_block() -> None:
    block = {c.size: c for c in channel_order.couplings(TINY)["stage2_block1"]}
    assert set(block) == {"middle", "reduced"}
    middle = {
        (("expand", "kernel"), -1),
        (("expand_norm", "scale"), -1),
        (("expand_norm", "bias"), -1),
        (("depthwise", "kernel"), -1),
        (("depthwise_norm", "scale"), -1),
        (("depthwise_norm", "bias"), -1),
        (("squeeze", "reduce", "kernel"), -2),
        (("squeeze", "expand", "kernel"), -1),
        (("squeeze", "expand", "bias"), -1),
        (("project", "kernel"), -2),
    }
    assert block["middle"].axes == middle
    assert {read.path for read in block["middle"].reads} == {
        ("squeeze", "reduce", "kernel"),
        ("project", "kernel"),
    }
    head = {c.size for c in channel_order.couplings(TINY)["head"]}
    assert head == {"middle", "c_out"}
    assert channel_order.couplings(TINY)["stem"] == ()  # its channels meet other blocks


@pytest.mark.parametrize("name", SPACES)
def test_the_largest_subnet_stays_what_it_is(name: str) -> None:
    space = SPACES[name]
    params = noisy(space)
    after = sort(space)(params)
    images = random_inputs(space, space.sizes[-1], 4)

    @functools.partial(jax.jit, static_argnames="largest", **QUICK)
    def logits(params: Any, *, largest: bool) -> Any:
        arch = (choices.largest if largest else choices.smallest)(space.menu)
        size = space.sizes[-1]
        return strategies.sliced(space, params, arch, images, size=size).logits

    same, other = logits(params, largest=True), logits(params, largest=False)
    assert largest_difference(logits(after, largest=True), same) < 1e-5
    assert largest_difference(logits(after, largest=False), other) > 1e-2  # it did something
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (params, after)), strict=True)
    ]
    assert any(moved) and not all(moved)
    assert bitwise(sort(space)(after), after)


@pytest.mark.parametrize("name", FIXED_HEADS)
def test_heads_that_are_known_by_their_place_stay(name: str) -> None:
    space = FIXED_HEADS[name]()
    own = channel_order.couplings(space)["block1"]
    assert [c.size for c in own] == ["hidden"]
    params, inputs = noisy(space), random_inputs(space, space.sizes[-1], 4)

    @functools.partial(jax.jit, **QUICK)
    def logits(params: Any) -> Any:
        arch = choices.largest(space.menu)
        return strategies.sliced(space, params, arch, inputs, size=space.sizes[-1]).logits

    assert largest_difference(logits(sort(space)(params)), logits(params)) < 1e-5


@pytest.mark.parametrize("make", [vit, bert])
def test_important_heads_and_hidden_channels_come_first(make: Any) -> None:
    """Planted: what is read of the last head and the last channel is large, of others small."""
    space = make()
    couplings = {c.size: c for c in channel_order.couplings(space)["block2"]}
    assert couplings["num_heads"].axes == {
        (("attention", "heads", "kernel"), -2),
        (("attention", "heads", "bias"), -2),
        (("attention", "merge", "kernel"), -3),
    }
    assert [r.path for r in couplings["num_heads"].reads] == [("attention", "merge", "kernel")]
    params = jax.tree.map(np.array, noisy(space))
    block = params["block2"]
    for kernel in (block["attention"]["merge"]["kernel"], block["project"]["kernel"]):
        kernel[:-1] *= 0.01
    found = sort(space)(params)["block2"]
    heads, merge = block["attention"]["heads"], block["attention"]["merge"]["kernel"]
    np.testing.assert_array_equal(found["attention"]["merge"]["kernel"][0], merge[-1])
    for leaf in ("kernel", "bias"):  # with all of its channels in their order
        after = found["attention"]["heads"][leaf]
        np.testing.assert_array_equal(after[..., 0, :], heads[leaf][..., -1, :])
    np.testing.assert_array_equal(found["expand"]["kernel"][:, 0], block["expand"]["kernel"][:, -1])
    np.testing.assert_array_equal(found["expand"]["bias"][0], block["expand"]["bias"][-1])


def test_the_most_important_channels_come_first() -> None:
    space = TINY
    params = noisy(space)
    own = sort(space)(params)["stage2_block1"]
    reading = own["project"]["kernel"], own["squeeze"]["reduce"]["kernel"]
    total = sum(read_by(kernel) for kernel in reading)
    assert (np.diff(total) <= 1e-5).all() and total[0] > total[-1]
    inner = read_by(own["squeeze"]["expand"]["kernel"])
    (used,) = {
        c.used for c in channel_order.couplings(space)["stage2_block1"] if c.size == "reduced"
    }
    assert 1 < used < len(inner), "the largest subnet does not have all of them"
    assert (np.diff(inner[:used]) <= 1e-5).all() and inner[0] > inner[used - 1]
    before = read_by(params["stage2_block1"]["squeeze"]["expand"]["kernel"])
    assert (inner[used:] == before[used:]).all()


def read_by(kernel: Any) -> np.ndarray:
    """L1 norm of what a pointwise kernel reads from each of its inputs."""
    weights = np.abs(np.asarray(kernel))
    return weights.reshape(-1, *weights.shape[-2:]).sum((0, 2))


def test_trees_like_the_parameters_move_alike() -> None:
    """Momenta and averages, wherever they stand; counters and what is shaped otherwise stay."""
    params = noisy(SPACE)
    orders = channel_order.by_importance(SPACE, params)
    after = channel_order.reordered(params, orders)
    assert not bitwise(after, params)
    state = optax.chain(optax.clip(1.0), optax.adam(0.1)).init(params)[1][0]
    found, count = channel_order.reordered(
        (state._replace(mu=params, nu=params), jnp.int32(3)), orders
    )
    assert bitwise(found.mu, after) and bitwise(found.nu, after) and int(count) == 3


def test_rows_of_a_bank_have_their_own_order() -> None:
    rows = Lookup((("resolution",),), np.asarray([0, 1]))
    space = dataclasses.replace(TINY, bank=Bank(2, rows))
    several = [noisy(TINY, seed) for seed in (0, 1)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    found = sort(space)(params)
    wanted = [sort(TINY)(p) for p in several]
    assert bitwise(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *wanted))


@dataclasses.dataclass(frozen=True)
class InnerSpec:
    c_in: int
    hidden: int
    classes: int
    heads: int = 1


class Inner(nn.Module):
    """Mixed pixels through hidden channels, a mean, a linear classifier."""

    spec: InnerSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.Pointwise(self.spec.hidden * self.spec.heads, name="mix")(x)
        y = nn.swish(layers.BatchNorm(name="norm")(y))
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(y, (1, 2)))


def inner(*, heads: tuple[int, ...] = (1,)) -> Space:
    menu = {"resolution": Choice((8,)), "hidden": Choice((2, 4, 6)), "heads": Choice(heads)}
    block = elastic(
        Inner,
        lambda hidden, heads: InnerSpec(2, hidden, 5, heads),
        menu=menu,
        decisions=[("hidden",), ("heads",)],
    )
    task = ImageClassification(2, 5)
    return Space(
        "inner", menu, {"all": block}, strategies.chain(("all",)), task, (("resolution",),)
    )


def test_axes_that_two_sizes_determine_are_left_alone() -> None:
    assert [c.size for c in channel_order.couplings(inner())["all"]] == ["hidden"]
    assert channel_order.couplings(inner(heads=(1, 2)))["all"] == ()


SPACE = inner()
SAMPLER = samplers.progressive(
    SPACE.menu,
    (Opening(("hidden", "heads"), 2),),
    n_random=1,
    reorder=Reorder(2, functools.partial(channel_order.by_importance, SPACE)),
)
RECIPE = recipe.Recipe(
    space=SPACE,
    sampler=SAMPLER,
    loss=loss.in_place_distillation(divergences.kl_divergence, smoothing=0.1),
    optimizer=optax.sgd(0.1, momentum=0.9),
    augment=lambda images, key, ids: images.astype(jnp.float32) / 128 - 1,
    ema_decay=0.9,
    teacher=average.average(SPACE, decay=0.5),
)


@functools.cache
def compiled(sorts: bool, resolutions: tuple[int, ...]) -> Any:
    """The step of `RECIPE`, which sorts channels or does not."""
    recipe = RECIPE if sorts else RECIPE._replace(sampler=SAMPLER._replace(reorder=None))
    return jax.jit(functools.partial(train_step.Step(recipe), sizes=resolutions), **QUICK)


def stepped(state: recipe.State, *, sorts: bool) -> tuple[recipe.State, Any]:
    rng = np.random.default_rng(int(state.step))
    images = rng.integers(0, 256, (6, 8, 8, 2), np.uint8)
    batch = recipe.Batch(images, rng.integers(0, 5, 6, np.int32), np.arange(6, dtype=np.int32))
    resolutions = train_step.step_sizes(RECIPE, step=int(state.step))
    return jax.device_get(compiled(sorts, resolutions)(state, batch))


def test_training_sorts_weights_momentum_and_average_when_widths_open() -> None:
    """Before, only the largest trains; the step at which they open is one from sorted weights."""
    state = train_step.create(RECIPE)
    for step in range(2):
        assert train_step.step_sizes(RECIPE, step=step) == (8,)
        state, metrics = stepped(state, sorts=True)
        assert "loss/random_1" not in metrics and float(metrics["applied"]) == 1
    orders = channel_order.by_importance(SPACE, state.params)
    assert any((np.diff(order) < 0).any() for ((_, order),) in orders.values())
    names = ("params", "opt_state", "ema", "teacher")
    trees = {name: vars(state)[name] for name in names}
    ready = dataclasses.replace(state, **jax.device_get(channel_order.reordered(trees, orders)))
    assert not bitwise(ready.params, state.params)
    wanted, there = stepped(ready, sorts=False)
    found, metrics = stepped(state, sorts=True)
    assert {"loss/largest", "loss/random_1"} <= set(metrics)
    alike((found, metrics), (wanted, there))
    # The step after sorts nothing.
    alike(stepped(found, sorts=True), stepped(found, sorts=False))


def alike(found: Any, wanted: Any) -> None:
    """The same but for sums in another order: they come from two programs."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
