"""Values inside blocks: the same under all strategies, with gradients; absent where skipped."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light_space import CHANNELS, CLASSES
from theorem import random_params

from supernet_jax.elastic import blockwise, choices, shared_params, strategies, taps
from supernet_jax.elastic.blockwise import Blockwise, Mode
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Reuse
from supernet_jax.errors import UserError
from supernet_jax.nn import layers
from supernet_jax.runtime import hardware
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import samplers, train_step
from supernet_jax.training.losses import divergences, features
from supernet_jax.training.losses.loss import Feature, in_place_distillation
from supernet_jax.training.recipe import Batch, Recipe

BATCH = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
    c_in: int
    c_out: int
    middle: int


class Gate(nn.Module):
    """A layer with taps of its own, which runs twice."""

    offers: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        total = jnp.sum(x, (1, 2))
        if self.offers:
            self.sow("taps", "seen", x)
            self.sow("taps", "total", total, reduce_fn=jnp.add, init_fn=lambda: 0.0)
        return nn.swish(x)


class Twice(nn.Module):
    """Two layers, and the values between them; offers nothing if `offers` is off."""

    spec: Sizes
    offers: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        s = self.spec
        q = layers.Pointwise(s.middle, name="to_q")(x)
        if self.offers:
            self.sow("taps", "q", q)
        gate = Gate(self.offers, name="gate")
        q = gate(q) + gate(2 * q)
        y = layers.BatchNorm(name="norm")(layers.Pointwise(s.c_out, name="out")(q))
        return x + y if s.c_in == s.c_out else y


class Pool(nn.Module):
    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Dense(self.spec.c_out, name="classifier")(jnp.mean(x, (1, 2)))


def space_of(module: Any = Twice, more: int = 2) -> Space:
    """A block, and perhaps some more that are alike."""
    menu = {"resolution": Choice((4,)), "width": Choice((2, 3)), "depth": Choice((0, more))}
    make = functools.partial(elastic, menu=menu, decisions=[("width",)], relaxed=("to_q",))
    blocks = {"first": make(module, lambda w: Sizes(CHANNELS, 4, w))}
    for i in range(more):
        depth = {"depth": (("depth",), i)}
        blocks[f"more{i}"] = make(module, lambda w: Sizes(4, 4, w), **depth)
    blocks["pool"] = make(Pool, lambda w: Sizes(4, CLASSES, w))
    task, static = ImageClassification(CHANNELS, CLASSES), (("resolution",),)
    return Space("inside", menu, blocks, strategies.chain(tuple(blocks)), task, static)


SPACE = space_of()
PARAMS = random_params(SPACE)
IMAGES = jax.random.normal(jax.random.key(1), (BATCH, 4, 4, CHANNELS))
WANTED = ("first/q", "more1/gate/total", "more1/gate/seen", "more1", "more0/q")
LARGEST = choices.largest(SPACE.menu)
NARROW = choices.replace(LARGEST, ("width",), np.int32(0))
SKIPPING = choices.replace(LARGEST, ("depth",), np.int32(0))


def energy(found: Any) -> Any:
    """Of values that may be filled up with zeros, in the order of their names."""
    parts = [
        (i + 1) * jnp.sum(jnp.square(found[name]) + found[name])
        for i, name in enumerate(sorted(found))
    ]
    return sum(parts, jnp.zeros(()))


@functools.cache
def traced(strategy: Any) -> Any:
    """`(params, arch) -> (features, gradient of their energy)`."""

    def value(params: Any, arch: Any) -> Any:
        how = {"size": 4, "features": WANTED}
        found = strategy(SPACE, params, arch, IMAGES, **how).features
        inside = {name: x for name, x in found.items() if "/" in name}
        return energy(inside), found

    return jax.jit(jax.grad(value, has_aux=True))


def sliced(arch: Any) -> Any:
    def value(params: Any) -> Any:
        run = functools.partial(strategies.sliced, size=4, features=WANTED)
        found = run(SPACE, params, arch, IMAGES).features
        return energy({name: x for name, x in found.items() if "/" in name}), found

    gradient, found = jax.jit(jax.grad(value, has_aux=True))(PARAMS)
    return found, gradient


@functools.cache
def runner() -> Blockwise:
    return Blockwise(SPACE)


def by_blocks(arch: Any) -> Any:
    run = runner()
    leaves = run.leaves(PARAMS)
    plan = run.plan(arch, Mode(4, BATCH, features=WANTED))
    passed = run.forward(plan, leaves, blockwise.prepare(IMAGES, SPACE.task, 4, jnp.float32))
    inside = {name: x for name, x in passed.features.items() if "/" in name}
    of_features = jax.grad(energy)(inside)
    zero = jax.tree.map(jnp.zeros_like, leaves)
    sums = run.backward(passed, jnp.zeros_like(passed.logits), of_features, zero)
    return passed.features, run.tree(sums)


def cut(x: Any, like: Any) -> Any:
    own = x[tuple(slice(0, n) for n in like.shape)]
    assert np.abs(x).sum() == pytest.approx(np.abs(own).sum()), "beyond there is nothing"
    return own


def near(found: Any, wanted: Any) -> None:
    """Float32: sums in another order, relative to the largest of an array."""
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("arch", [LARGEST, NARROW, SKIPPING], ids=["largest", "narrow", "skips"])
def test_strategies_agree(arch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "many_small", hardware.runs_once)
    found, gradient = sliced(arch)
    absent = (
        {name for name in WANTED if "/" in name and "more" in name} if arch is SKIPPING else set()
    )
    assert set(found) == set(WANTED) - absent
    assert found["first/q"].shape == (BATCH, 4, 4, 2 if arch is NARROW else 3)
    blocks, of_blocks = by_blocks(arch)
    jax.tree.map(near, (blocks, of_blocks), (dict(found), gradient))
    for strategy in (strategies.masked, strategies.switched):
        of_all, values = traced(strategy)(PARAMS, jax.tree.map(jnp.asarray, arch))
        assert set(values) == set(WANTED)
        for name in WANTED:
            if name in absent:
                assert not np.any(values[name])
            else:
                near(cut(values[name], found[name]), found[name])
        jax.tree.map(near, of_all, gradient)
    if arch is SKIPPING:
        plain = blockwise.blockwise(SPACE, PARAMS, arch, IMAGES, size=4, features=WANTED)
        jax.tree.map(near, plain.features, dict(found))


def test_layers_inside_and_what_runs_twice() -> None:
    found, _ = sliced(NARROW)
    seen, total = found["more1/gate/seen"], found["more1/gate/total"]
    near(total, jnp.sum(seen, (1, 2)) * 1.5)  # 2 q is seen last, q + 2 q are added


def test_a_one_hot_code_is_its_arch() -> None:
    run = jax.jit(lambda a: strategies.masked(SPACE, PARAMS, a, IMAGES, size=4, features=WANTED))
    for arch in (NARROW, SKIPPING):
        code = choices.one_hot(SPACE.menu, jax.tree.map(jnp.asarray, arch))
        jax.tree.map(near, run(code).features, run(jax.tree.map(jnp.asarray, arch)).features)


def test_programs_without_taps_are_as_before() -> None:
    """A module that offers values, and one that does not, are the same program."""
    silent = space_of(functools.partial(Twice, offers=False))
    for strategy in (strategies.masked, strategies.switched):
        runs = [functools.partial(strategy, space, PARAMS) for space in (SPACE, silent)]
        first, second = (jax.make_jaxpr(functools.partial(run, size=4)) for run in runs)
        assert str(first(LARGEST, IMAGES)) == str(second(LARGEST, IMAGES))
    plans = [Blockwise(SPACE).plan(LARGEST, Mode(4, BATCH, features=f)) for f in ((), ("first",))]
    assert plans[0].requests == plans[1].requests
    assert all(len(op.outputs) == 1 for op in plans[0].wiring.operations)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("first/p", "no value that the block first offers, which is first/gate/seen, .*first/q; "),
        ("pool/q", r"the block pool offers, which is nothing; a module offers one by self\.sow"),
        ("frist/q", "names a block 'frist', which the space inside does not have.*first"),
    ],
)
def test_unknown_names_are_refused(feature: str, said: str) -> None:
    for strategy in (strategies.sliced, blockwise.blockwise):
        with pytest.raises(UserError, match=said):
            strategy(SPACE, PARAMS, LARGEST, IMAGES, size=4, features=(feature,))
    with pytest.raises(UserError, match=said):
        taps.check(SPACE, (feature,))


def test_a_block_in_a_loop_is_taken_out_of_it() -> None:
    """Of five blocks that are alike `switched` runs the last three in a loop."""
    space = space_of(more=5)
    params = shared_params.parameter_shapes(space)
    for feature, loops in (((), 1), (("more1/q",), 1), (("more2/q",), 0)):
        run = functools.partial(strategies.switched, space, size=4, features=feature)
        traced = jax.make_jaxpr(lambda p, a, x, run=run: run(p, a, x), return_shape=True)
        program, shapes = traced(params, jax.tree.map(jnp.asarray, LARGEST), IMAGES)
        assert sum(e.primitive.name == "scan" for e in program.jaxpr.eqns) == loops
        assert set(shapes.features) == set(feature)


def test_taps_are_not_taken_over() -> None:
    with pytest.raises(TypeError, match="taps are not taken over"):
        how: Any = {"size": 4, "features": ("first/q",), "reuse": Reuse({}, {})}
        strategies.masked(SPACE, PARAMS, LARGEST, IMAGES, **how)


# --- in a training step ----------------------------------------------------------------------


def test_a_loss_on_taps_is_the_same_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a member that skips one of the blocks."""
    monkeypatch.setattr(hardware, "many_small", hardware.runs_once)
    related = features.with_features(
        in_place_distillation(divergences.kl_divergence), features.attention, weight=3.0
    )
    archs = choices.stack([SKIPPING])
    sampler = samplers.sandwich(SPACE.menu, n_random=1)._replace(
        sample=lambda state, key, step, score: jax.tree.map(jnp.asarray, archs),
        fixed=(LARGEST,),
    )
    recipe = Recipe(
        space=SPACE,
        sampler=sampler,
        loss=related,
        optimizer=optax.sgd(0.1),
        augment=lambda images, key, ids: images.astype(jnp.float32) / 64 - 2,
        features=("first/q", "more1/q"),
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, 4, 4, CHANNELS), np.uint8)
    batch = Batch(
        images, rng.integers(0, CLASSES, BATCH, np.int32), np.arange(BATCH, dtype=np.int32)
    )
    found = []
    for strategy in (strategies.masked, blockwise.blockwise):
        own = recipe._replace(strategy=strategy)
        state = dataclasses.replace(train_step.create(own), params=jax.tree.map(jnp.array, PARAMS))
        state, metrics = train_step.Step(own, steps=1)(state, batch, sizes=(4,) * 2)
        found.append(jax.device_get((state.params, metrics)))
    jax.tree.map(near, *found)


def test_the_mean_is_over_values_that_are_there() -> None:
    value = jnp.ones((2, 3))
    relation = lambda own, others: jnp.sum(own)  # noqa: E731
    loss = features.with_features(lambda *_: jnp.float32(1.0), relation, weight=2.0)

    def total(**given: Any) -> float:
        return float(loss(None, None, given, None, "random"))

    here, twice = Feature(value, value), Feature(2 * value, value)
    assert total(a=here, b=twice) == 1 + 2 * 9
    assert total(a=here, b=twice._replace(there=jnp.asarray(False))) == 1 + 2 * 6
    assert total(a=here, b=twice._replace(there=jnp.asarray(True))) == 1 + 2 * 9
    assert total(a=here, b=Feature(None, value)) == 1 + 2 * 6
    assert total(b=Feature(None, value)) == 1, "nothing to compare"
    assert total(b=here._replace(there=jnp.asarray(False))) == 1
    with pytest.raises(UserError, match="has no features to compare"):
        total(a=Feature(value, None))
