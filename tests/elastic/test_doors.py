"""Doors that are dear to add later, each used for something real."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from theorem import Check, archs_of, check_of, global_difference, largest_difference
from tiny_space import cells, tiny

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.elastic_block import TRANSFORMS, Transform, elastic
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Bank, Space, geometry
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError
from supernet_jax.nn import depthwise, layers
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class FilterSpec:
    c_in: int
    kernel: int


class Filter(nn.Module):
    """Depthwise convolution and norm, so that its kernel is all there is to it."""

    spec: FilterSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Depthwise(self.spec.kernel, name="depthwise")(x)
        return nn.swish(layers.BatchNorm(name="norm")(x))


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    c_in: int
    classes: int


class Pool(nn.Module):
    spec: PoolSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(x, (1, 2)))


def shrink(params: Any, kernel: jax.Array, size: int) -> jax.Array:
    """Once-for-All's transforms: 5 from 7, 3 from 5, each a centre crop times a matrix."""
    for target in (5, 3):
        if kernel.shape[0] > size:
            crop = kernel[1:-1, 1:-1].reshape(target * target, -1)
            kernel = (params[f"to{target}"] @ crop).reshape(target, target, 1, -1)
    return kernel


def start(key: jax.Array, shape: tuple[int, ...]) -> Any:
    keys = jax.random.split(key)
    noise = {
        n: 0.1 * jax.random.normal(k, (n * n, n * n)) for n, k in zip((5, 3), keys, strict=True)
    }
    return {f"to{n}": jnp.eye(n * n) + noise[n] for n in (5, 3)}


def filters(*, transform: bool = True, tied: bool = False, **space: Any) -> Space:
    """Two elastic filters of kernel 3, 5 or 7 and a classifier."""
    menu = {
        "resolution": Choice((8,)),
        "kernel": [Choice((3, 5, 7)), Choice((3, 5, 7))],
        "bank": Choice((0, 1)),
    }
    transforms = (Transform(("depthwise", "kernel"), lambda s: s.kernel, start, shrink),)
    blocks = {
        f"filter{i}": elastic(
            Filter,
            lambda kernel: FilterSpec(4, kernel),
            menu=menu,
            decisions=[("kernel", i)],
            transforms=transforms if transform else (),
            group="filters" if tied else None,
        )
        for i in range(2)
    }
    blocks["head"] = elastic(Pool, lambda: PoolSpec(4, 3), menu=menu)
    space.setdefault("forward", chain(tuple(blocks)))
    task = ImageClassification(4, 3)
    return Space("filters", menu, blocks, task=task, static=(("resolution",),), **space)


def agree(space: Space, count: int = 1) -> Check:
    """The theorem on a space without alive channels; returns what was checked."""
    check = Check(space, size=8)
    for arch in archs_of(space, count):
        output, gradients = check.run("sliced", arch)
        for name in ("masked", "switched"):
            other, others_gradients = check.run(name, arch)
            assert largest_difference(other.logits, output.logits) < 1e-5
            assert largest_difference(other.moments, output.moments) < 1e-5
            assert global_difference(others_gradients, gradients) < 1e-5
    return check


def test_learned_kernel_transform() -> None:
    check = agree(filters(), 2)
    arch = choices.smallest(check.space.menu)
    _, gradients = check.run("masked", arch)
    learned = gradients["filter0"][TRANSFORMS]["depthwise/kernel"]
    assert all(np.any(np.asarray(g)) for g in learned.values()), "a matrix in use must learn"
    _, gradients = check.run("masked", choices.largest(check.space.menu))
    learned = gradients["filter0"][TRANSFORMS]["depthwise/kernel"]
    assert not any(np.any(np.asarray(g)) for g in learned.values()), "kernel 7 uses none"


def test_identity_transform_is_the_centre_crop() -> None:
    learned, plain = Check(filters(), size=8), Check(filters(transform=False), size=8)
    for block in ("filter0", "filter1"):
        own = learned.params[block]
        eye = {"depthwise/kernel": {f"to{n}": jnp.eye(n * n) for n in (5, 3)}}
        plain.params[block] = {k: v for k, v in own.items() if k != TRANSFORMS}
        learned.params[block] = {**own, TRANSFORMS: eye}
    plain.params["head"] = learned.params["head"]
    for arch in archs_of(learned.space, 3):
        a, b = learned.run("masked", arch)[0], plain.run("masked", arch)[0]
        assert largest_difference(a.logits, b.logits) < 1e-5


def test_parameter_bank() -> None:
    space = filters(transform=False, bank=Bank(2, Lookup((("bank",),), np.asarray([0, 1]))))
    check = agree(space)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(check.params))
    arch = choices.largest(space.menu)
    first = choices.replace(arch, ("bank",), np.int32(0))
    a, b = check.run("masked", first), check.run("masked", arch)
    assert largest_difference(a[0].logits, b[0].logits) > 0.1, "rows must differ"
    for row, gradients in ((0, a[1]), (1, b[1])):
        for leaf in jax.tree.leaves(gradients):
            assert np.any(np.asarray(leaf[row])) or leaf[row].size < 8
            assert not np.any(np.asarray(leaf[1 - row])), "the other row has no gradient"


def test_tied_blocks_share_their_parameters() -> None:
    check = agree(filters(transform=False, tied=True))
    assert set(check.params) == {"filters", "head"}


def test_any_topology() -> None:
    def forward(run: Any, x: jax.Array) -> jax.Array:
        return run("head", run("filter0", x) + run("filter1", x))

    agree(filters(transform=False, forward=forward))


def test_what_stands_in_the_place_of_a_skipped_block() -> None:
    def space(otherwise: Any) -> Space:
        def forward(run: Any, x: jax.Array) -> jax.Array:
            y = run("filter0", x)
            return run("head", run("filter1", y, otherwise=otherwise(x, y)))

        made = filters(transform=False, forward=forward)
        there = Lookup((("there",),), np.asarray([0, 1], np.int32))
        optional = dataclasses.replace(made.blocks["filter1"], alive=there)
        menu, blocks = {**made.menu, "there": Choice((0, 1))}, {**made.blocks, "filter1": optional}
        return dataclasses.replace(made, menu=menu, blocks=blocks)

    check = agree(space(lambda x, y: x - 2 * y), 0)
    arch = choices.smallest(check.space.menu)
    own, other = (
        strategies.sliced(made, check.params, arch, check.images, size=8).logits
        for made in (check.space, space(lambda x, y: None))  # as without: its first input
    )
    assert largest_difference(own, other) > 0.01
    with pytest.raises(
        UserError, match=r"has \[1, 4, 8, 4\] in the place of a skipped block 'filter1"
    ):
        geometry(space(lambda x, y: x[:, ::2]), 8)


def soft(menu: Any, logits: Any) -> Any:
    return jax.tree.map(lambda choice, z: jax.nn.softmax(z), menu, logits)


@pytest.mark.parametrize(
    ("make", "size", "strategy", "step"),
    # Statistics and logits are float32 even here, hence the steps and the tolerance; the cells have
    # kinks, of ReLU.
    [(tiny, 8, strategies.masked, 1e-3), (cells, 6, mixed, 1e-4)],
    ids=["masked", "mixed"],
)
def test_gradients_of_codes_agree_with_finite_differences(
    make: Any, size: int, strategy: Any, step: float
) -> None:
    space, check = make(), check_of(make, size=size)
    leaves, treedef = jax.tree.flatten(space.menu)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    code = jax.tree.unflatten(
        treedef,
        [
            jax.nn.softmax(jax.random.normal(k, (len(c),)))
            for c, k in zip(leaves, keys, strict=True)
        ],
    )
    direction = jax.tree.map(lambda c: jax.random.normal(jax.random.key(c.size), c.shape), code)

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), check.params)
        code, direction = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64), (code, direction)
        )

        @jax.jit
        def loss(code: Any) -> jax.Array:
            output = strategy(space, wide, code, check.images, size=size, dtype=jnp.float64)
            return jnp.sum(output.logits * check.weights)

        gradient = jax.jit(jax.grad(loss))(code)
        slope = sum(
            float(np.vdot(g, d))
            for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        )
        ends = [
            float(loss(jax.tree.map(lambda c, d, s=s: c + s * d, code, direction)))
            for s in (step, -step)
        ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)


def test_a_code_of_kernels_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """TangleNAS (arXiv 2312.10440, equation 4): the sum of the padded kernels, weighted, in one
    convolution.
    """
    space = filters(transform=False)
    check = Check(space, size=8)
    weights = jnp.asarray([0.5, 0.3, 0.2])
    code = choices.one_hot(space.menu, choices.largest(space.menu))
    code = choices.replace(code, ("kernel", 0), weights)
    calls = []
    plain = depthwise.depthwise
    monkeypatch.setattr(depthwise, "depthwise", lambda *args: calls.append(args) or plain(*args))
    output = strategies.masked(
        space, check.params, code, check.images, size=8, features=("filter0",)
    )
    assert [kernel.shape for _, kernel, _ in calls] == [(7, 7, 1, 4)]  # both blocks are traced once
    kernel = np.asarray(check.params["filter0"]["depthwise"]["kernel"])
    made = np.zeros_like(kernel)
    for weight, size in zip(np.asarray(weights), (3, 5, 7), strict=True):
        edge = (7 - size) // 2
        centre = slice(edge, 7 - edge)
        made[centre, centre] += weight * kernel[centre, centre]
    scale, bias = (np.asarray(check.params["filter0"]["norm"][name]) for name in ("scale", "bias"))
    y = np.asarray(plain(check.images, jnp.asarray(made), 1))
    y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5) * scale + bias
    assert largest_difference(output.features["filter0"], nn.swish(y)) < 1e-5


def test_depth_relaxes_to_a_mixture_of_block_and_input() -> None:
    space = tiny()
    check = check_of(tiny, size=8)
    arch = choices.largest(space.menu)
    code = choices.one_hot(space.menu, arch)
    name = "stage1_block2"

    @jax.jit
    def feature(depth_code: Any) -> Any:
        mixed = choices.replace(code, ("depth", 0), depth_code)
        output = strategies.masked(
            space, check.params, mixed, check.images, size=8, features=(name,)
        )
        return output.features[name]

    shares = ([0.0, 1.0], [1.0, 0.0], [0.75, 0.25])
    block, skipped, half = (np.asarray(feature(jnp.asarray(share))) for share in shares)
    np.testing.assert_allclose(half, 0.25 * block + 0.75 * skipped, atol=1e-5)
    assert np.max(np.abs(block - skipped)) > 0.1
