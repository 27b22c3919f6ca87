"""Single-Path NAS: what superkernels use, by hand and after training, and what it costs."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_space import tiny

from supernet_jax.elastic import blockwise, choices, shared_params, strategies
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import TRANSFORMS, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import Superkernel, superkernel, superkernels
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.nn import layers
from supernet_jax.spaces import SinglePathNAS
from supernet_jax.tasks import ImageClassification
from supernet_jax.training import train_step
from supernet_jax.training.losses import hard_labels
from supernet_jax.training.penalties import SuperkernelCost
from supernet_jax.training.penalties.superkernel_cost import superkernel_cost
from supernet_jax.training.recipe import Batch, Recipe
from supernet_jax.training.samplers import SinglePath, architecture, learns_apart, single_path

BATCH, PIXELS = 32, 8


@dataclasses.dataclass(frozen=True)
class FilterSpec:
    """Size and number of the filters of a `Filters`."""

    kernel: int
    middle: int


class Filters(nn.Module):
    """Depthwise filters of one image, and logits of how strongly each responds."""

    spec: FilterSpec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        s = self.spec
        copies = jnp.broadcast_to(x, (*x.shape[:3], s.middle))
        y = layers.Depthwise(s.kernel, 1, start=layers.HE_FAN_OUT, name="depthwise")(copies)
        y = layers.BatchNorm(name="norm")(jnp.square(y))
        return layers.Dense(2, name="classifier")(jnp.mean(y, (1, 2)))


def filters() -> Space:
    """One block: kernels of 3 or 5, and 4 or 8 of them."""
    menu = {"kernel": Choice((3, 5)), "expand": Choice((4, 8)), "resolution": Choice((PIXELS,))}
    block = elastic(
        Filters,
        FilterSpec,
        menu=menu,
        decisions=[("kernel",), ("expand",)],
        channels=lambda spec: (1,),
        transforms=(superkernel((3, 5), (4, 8)),),
    )
    task = ImageClassification(1, 2)
    blocks = {"filters": block}
    return Space("filters", menu, blocks, strategies.chain(("filters",)), task, (("resolution",),))


SPACE = filters()


def images(key: Any, *, distance: int) -> Any:
    """Noise in which each pixel is that so many columns before it, or the opposite."""
    noise_key, label_key = jax.random.split(key)
    first = jax.random.normal(noise_key, (BATCH, PIXELS, distance, 1))
    labels = jax.random.bernoulli(label_key, 0.5, (BATCH,)).astype(jnp.int32)
    sign = (2 * labels - 1).astype(jnp.float32)[:, None, None, None]
    columns = [first * sign**i for i in range(PIXELS // distance)]
    return jnp.concatenate(columns, 2), labels


def with_ring(params: Any, factor: Any) -> Any:
    """Parameters whose kernel has its outer ring times a factor."""
    kernel = params["filters"]["depthwise"]["kernel"]
    inside = np.zeros((5, 5, 1, 1), bool)
    inside[1:4, 1:4] = True
    kernel = jnp.where(np.broadcast_to(inside, kernel.shape), kernel, factor * kernel)
    return {"filters": {**params["filters"], "depthwise": {"kernel": kernel}}}


@functools.cache
def trainer(distance: int) -> Any:
    """`(seed, weight of the penalty, factor of the first outer ring) -> code, accuracies`."""
    cost, sampler = costs.macs(SPACE), single_path(SPACE)
    plain = Recipe(
        space=SPACE,
        sampler=sampler,
        loss=hard_labels.hard_labels(),
        optimizer=optax.sgd(0.3),
        augment=lambda images, key, ids: images,
    )

    @jax.jit
    def trained(seed: Any, weight: Any, outer: Any = 1.0) -> Any:
        recipe = plain._replace(penalty=superkernel_cost(SPACE, cost, weight=weight))
        step = train_step.Step(recipe)

        def one(state: Any, key: Any) -> Any:
            batch = Batch(*images(key, distance=distance), jnp.zeros(BATCH, jnp.int32))
            return step(state, batch, sizes=(PIXELS,))

        key = jax.random.key(seed)
        state = train_step.create(recipe, jax.random.key_data(key))
        state = dataclasses.replace(state, params=with_ring(state.params, outer))
        state, metrics = jax.lax.scan(one, state, jax.random.split(key, 200))
        return sampler.learn.code(state.sampler, state.params), metrics["accuracy/largest"][-10:]  # type: ignore[union-attr]

    return trained


def decided(code: Any) -> dict[str, int]:
    """The values that a code stands for."""
    arch = architecture.argmax(code)
    return {name: SPACE.menu[name].values[arch[name]] for name in ("kernel", "expand")}


SUPERKERNEL = Superkernel((3, 5), (2, 4), skips=True)


def thresholds(kernel: float, channels: float, skip: float) -> Any:
    return {
        "kernel": jnp.full(1, kernel),
        "channels": jnp.full(1, channels),
        "skip": jnp.float32(skip),
    }


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ((0.0, 0.0, 0.0), (5, 4, 1)),
        ((2.5, 0.0, 0.0), (3, 4, 1)),
        ((0.0, 6.0, 0.0), (5, 2, 1)),
        ((2.5, 6.0, 0.0), (3, 2, 1)),
        ((0.0, 0.0, 9.0), (5, 4, 0)),
    ],
)
def test_what_is_used_by_hand(limits: Any, wanted: Any) -> None:
    """Equations 2 to 5: squares of the ring, then of channels of what the ring has left."""
    kernel = np.full((5, 5, 1, 4), 1.5, np.float32)  # its squares are 2.25
    kernel[1:4, 1:4] = 3.0
    used, found = jax.jit(SUPERKERNEL.used)(thresholds(*limits), kernel)
    size, channels, keep = wanted
    hand = kernel.copy()
    if size == 3:
        hand[[0, 4]] = 0
        hand[:, [0, 4]] = 0
    hand[..., channels:] = 0
    np.testing.assert_array_equal(used, keep * hand)
    seen = [float(x) for x in (*found.kernel, *found.channels, found.keep)]
    assert seen == [size == 5, channels == 4, keep]


def test_a_ring_planted_at_zero_is_not_used() -> None:
    params = shared_params.init(SPACE, jax.random.key(0))
    code = jax.jit(functools.partial(superkernels.code, SPACE))
    assert decided(code(params)) == {"kernel": 5, "expand": 8}
    assert decided(code(with_ring(params, 0.0))) == {"kernel": 3, "expand": 8}


def test_gradients_of_thresholds_by_hand() -> None:
    """Those of the sigmoid of the difference, for the ring: dL/dw of the ring times its weights."""
    rng = np.random.default_rng(0)
    kernel, slope = (rng.normal(size=(5, 5, 1, 4)).astype(np.float32) for _ in range(2))

    def loss(params: Any, kernel: Any) -> Any:
        return jnp.sum(SUPERKERNEL.used(params, kernel)[0] * slope)

    limits = thresholds(0.7, 0.2, 0.1)
    found = jax.jit(jax.grad(loss))(limits, kernel)
    ring = np.ones((5, 5, 1, 4), bool)
    ring[1:4, 1:4] = False
    difference = float(np.square(kernel[ring]).mean()) - 0.7
    assert difference > 0
    share = 1 / (1 + np.exp(-difference))
    # The thresholds of channels see what the ring leaves, too: their part is by the chain rule.
    whole = float(np.sum((kernel * slope)[ring]))
    of_channels = sum(
        -float(found[name].sum())
        * 2
        * float(np.square(kernel[..., part])[ring[..., part]].sum())
        / (25 * 2)
        for name, part in (("skip", slice(0, 2)), ("channels", slice(2, 4)))
    )
    wanted = -share * (1 - share) * (whole + of_channels)
    np.testing.assert_allclose(float(found["kernel"][0]), wanted, rtol=1e-4)


def test_shared_parameters_are_those_of_the_largest_kernel() -> None:
    space = SinglePathNAS().build()
    shapes = shared_params.parameter_shapes(space)
    largest = choices.largest(space.menu)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert count == costs.parameters(space)(largest) + 20 + 20 + 15  # and the thresholds
    assert shapes["stage1_block2"]["depthwise"]["kernel"].shape == (5, 5, 1, 144)
    assert choices.count(space.menu) == 4**20 * 2**15


def test_mnasnet_b1_is_in_the_space_to_the_unit() -> None:
    """4,383,312 parameters, 0.314 G MACs: the metadata of torchvision's `MNASNet1_0_Weights`."""
    space = SinglePathNAS().build()
    rows = ((3, 3, 3), (5, 3, 3), (5, 6, 3), (3, 6, 2), (5, 6, 4))  # kernel, expansion, blocks
    blocks = [(i, row) for row in rows for i in range(4)]
    arch = {
        "resolution": np.int32(0),
        "kernel": [np.int32(row[0] == 5) for _, row in blocks],
        "expand": [np.int32(row[1] == 6) for _, row in blocks],
        "keep": [np.int32(0 < i < row[2]) for i, row in blocks],
    }
    assert costs.parameters(space)(arch) == 4_383_312
    assert round(costs.macs(space)(arch) / 1e9, 3) == 0.314


def test_the_kernel_is_large_where_its_ring_matters() -> None:
    """Only pixels that are 4 apart tell the classes, at a penalty that others yield to."""
    for seed in range(2):
        code, accuracies = trainer(4)(seed, 0.01)
        assert decided(code)["kernel"] == 5 and accuracies.mean() > 0.75
        code, accuracies = trainer(2)(seed, 0.01, 0.0)
        assert decided(code)["kernel"] == 3 and accuracies.mean() > 0.95


def test_a_larger_penalty_gives_a_cheaper_arch() -> None:
    cost = costs.macs(SPACE)
    found = [architecture.argmax(trainer(2)(0, weight)[0]) for weight in (0.001, 0.003, 0.1)]
    macs = [int(cost(arch)) for arch in found]
    assert macs[0] > macs[1] > macs[2]


def test_the_penalty_is_part_of_every_strategy_of_a_step() -> None:
    """Also block by block, whose members then run as whole programs."""
    penalty = SuperkernelCost(weight=3.0).build(SPACE)
    recipe = Recipe(
        space=SPACE,
        sampler=SinglePath().build(menu=SPACE.menu, space=SPACE),
        loss=hard_labels.hard_labels(),
        optimizer=optax.sgd(0.1),
        augment=lambda images, key, ids: images,
    )
    assert not learns_apart(recipe.sampler)
    batch = Batch(*images(jax.random.key(1), distance=2), jnp.zeros(BATCH, jnp.int32))

    def stepped(**changes: Any) -> Any:
        own = recipe._replace(**changes)
        state = jax.jit(lambda: train_step.create(own))()
        small = dataclasses.replace(state, params=with_ring(state.params, 0.0))
        return train_step.Step(own)(small, batch, sizes=(PIXELS,))

    plain, by_block = stepped()[1], stepped(strategy=blockwise.blockwise, penalty=penalty)
    arch = {"kernel": np.int32(0), "expand": np.int32(1), "resolution": np.int32(0)}
    cost = costs.macs(SPACE)
    added = 3 * np.log(cost(arch) / cost(choices.largest(SPACE.menu)))
    assert added < -1
    found = by_block[1]["loss/largest"] - plain["loss/largest"]
    np.testing.assert_allclose(found, added, rtol=1e-5)
    moved = by_block[0].params["filters"][TRANSFORMS]["depthwise/kernel:superkernel"]
    assert moved["kernel"] > 0 and moved["channels"] > 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SinglePath().build(menu=tiny().menu, space=tiny()), "no block of the space tiny"),
        (lambda: SuperkernelCost().build(tiny()), "no block of the space tiny has a superkernel"),
        (lambda: SuperkernelCost(weight=-1.0).build(SPACE), r"penalty\.weight is -1\.0"),
        (lambda: SuperkernelCost(cost=3).build(SPACE), r"penalty\.cost is 3; give a part"),
        (lambda: SinglePathNAS(kernels=(3, 4)).build(), r"space\.kernels is \(3, 4\); give odd"),
        (lambda: SinglePathNAS(strides=(1,)).build(), r"space\.strides is \(1,\); give 1 or 2"),
        (lambda: SinglePathNAS(resolution=8).build(), r"space\.resolution is 8"),
    ],
)
def test_settings_that_make_no_sense(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()
