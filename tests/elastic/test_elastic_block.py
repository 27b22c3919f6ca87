"""Elastic blocks: slices, boxes, masks, and every arch of a space."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import theorem
from flax.traverse_util import flatten_dict
from theorem import Check, box, boxes, check_of, global_difference, largest_difference
from tiny_space import tiny

from supernet_jax.elastic import (
    choices,
    elastic_block,
    masks,
    shared_params,
    slicing,
    space,
    strategies,
)
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import Transform, union_spec
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError
from supernet_jax.nn import layers
from supernet_jax.nn.blocks.mobilenet import CONV, EITHER, IDENTITY, MBConv, MBConvSpec
from supernet_jax.spaces import mobilenet
from supernet_jax.spaces.mobilenet import Stage
from supernet_jax.tasks import ImageClassification

SPACE = tiny()
GEOMETRY = space.geometry(SPACE, 8)
SUMS = 1e-5  # float32 sums in another order


def masked_weights(block: Any, shared: Any, arch: Any, inputs: Any) -> Any:
    return masks.masked_weights(block, shared, inputs, *masks.picked(block, arch))


def numbered(shapes: Any) -> Any:
    """Parameters of the given shapes in which no two values are alike, and none is zero."""
    leaves, treedef = jax.tree.flatten(shapes)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = np.split(np.arange(1, ends[-1] + 1, dtype=np.float32), ends[:-1])
    return treedef.unflatten([p.reshape(s.shape) for p, s in zip(parts, leaves, strict=True)])


@functools.cache
def boxes_of(name: str, spec: Any) -> dict[tuple[str, ...], np.ndarray]:
    block, place = SPACE.blocks[name], GEOMETRY[name]
    own = elastic_block.shapes(block, spec, place.inputs).params
    return boxes(own, place.shapes.params)


# ---------------------------------------------------------------------------- slices


def test_cut_is_leading_in_channels_and_centred_in_kernels() -> None:
    shared = {
        "conv": {"kernel": np.arange(5 * 5 * 3 * 4.0).reshape(5, 5, 3, 4)},
        "norm": {"scale": np.arange(4.0), "bias": -np.arange(4.0)},
        "dense": {"kernel": np.arange(12.0).reshape(3, 4)},
        "shortcut": {"kernel": np.ones((1, 1, 3, 4))},
    }
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    own = {
        "conv": {"kernel": shape((3, 3, 2, 3))},
        "norm": {"scale": shape((3,)), "bias": shape((3,))},
        "dense": {"kernel": shape((2, 3))},
    }
    found = slicing.cut(shared, own)
    assert set(found) == {"conv", "norm", "dense"}  # this spec has no shortcut
    kernel = shared["conv"]["kernel"]
    np.testing.assert_array_equal(found["conv"]["kernel"], kernel[1:4, 1:4, :2, :3])
    np.testing.assert_array_equal(found["norm"]["bias"], [0, -1, -2])
    np.testing.assert_array_equal(found["dense"]["kernel"], [[0, 1, 2], [4, 5, 6]])

    filled = slicing.fill(found, jax.tree.map(lambda a: shape(a.shape), shared))
    wanted = np.zeros((5, 5, 3, 4))
    wanted[1:4, 1:4, :2, :3] = kernel[1:4, 1:4, :2, :3]
    np.testing.assert_array_equal(filled["conv"]["kernel"], wanted)
    np.testing.assert_array_equal(filled["norm"]["bias"], [0, -1, -2, 0])
    assert filled["shortcut"]["kernel"].shape == (1, 1, 3, 4)
    assert not np.any(filled["shortcut"]["kernel"])


@pytest.mark.parametrize("name", SPACE.blocks)
def test_cut_fill_and_masks_tell_of_one_box(name: str) -> None:
    block, place = SPACE.blocks[name], GEOMETRY[name]
    union = place.shapes.params
    shared = numbered(union)
    masked = jax.jit(lambda arch: masked_weights(block, shared, arch, place.inputs))
    seen = set()
    for arch in every_arch():
        which = block.index.static(arch)
        if which in seen:
            continue
        seen.add(which)
        own = elastic_block.shapes(block, block.specs[which], place.inputs).params
        cut = slicing.cut(shared, own)
        assert jax.tree.map(jnp.shape, cut) == jax.tree.map(lambda s: s.shape, own)
        filled, mask = flatten_dict(slicing.fill(cut, union)), flatten_dict(masked(arch))
        for path, inside in boxes(own, union).items():
            wanted = flatten_dict(shared)[path] * inside
            np.testing.assert_array_equal(filled[path], wanted)
            np.testing.assert_array_equal(mask[path], wanted)
    assert len(seen) == len(block.specs), "every spec is some arch's"


def test_fit_channels() -> None:
    x = jnp.ones((2, 3)).at[:, 2].set(5)
    np.testing.assert_array_equal(slicing.fit_channels(x, 2), np.ones((2, 2)))
    np.testing.assert_array_equal(slicing.fit_channels(x, 4), np.pad(x, [(0, 0), (0, 1)]))
    assert slicing.fit_channels(x, None) is x


# ---------------------------------------------------------------------------- specs


@dataclasses.dataclass(frozen=True)
class DenseSpec:
    c_in: int
    c_out: int
    kind: str = "plain"


class DenseBlock(nn.Module):
    spec: DenseSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(self.spec.c_out, name="dense")(x)


def test_union_spec_is_the_elementwise_maximum() -> None:
    specs = [DenseSpec(2, 9), DenseSpec(4, 3)]
    assert union_spec(specs) == DenseSpec(4, 9)
    assert union_spec(specs, c_out=5) == DenseSpec(4, 5)
    kinds = [DenseSpec(2, 9), DenseSpec(2, 3, "other")]
    with pytest.raises(ValueError, match=r"specs differ in kind.*pass union="):
        union_spec(kinds)
    assert union_spec(kinds, kind="both") == DenseSpec(2, 9, "both")


def test_elastic_lists_distinct_specs_and_finds_each() -> None:
    menu = {"width": [Choice((2, 4)), Choice((2, 4))], "depth": Choice((1, 3))}
    block = elastic_block.elastic(
        DenseBlock,
        lambda a, b: DenseSpec(min(a, b), 7),  # two of the four combinations are one spec
        menu=menu,
        decisions=[("width", 0), ("width", 1)],
        depth=(("depth",), 1),
    )
    assert sorted(s.c_in for s in block.specs) == [2, 4]
    assert block.union == DenseSpec(4, 7)
    for a, b, depth in np.ndindex(2, 2, 2):
        arch = {"width": [np.int32(a), np.int32(b)], "depth": np.int32(depth)}
        wanted = DenseSpec((2, 4)[min(a, b)], 7) if depth else None
        assert block.spec(arch) == wanted


def test_a_block_that_every_depth_keeps_is_always_there() -> None:
    menu = {"depth": Choice((2, 3))}
    make = functools.partial(elastic_block.elastic, DenseBlock, lambda: DenseSpec(2, 2), menu=menu)
    assert make(depth=(("depth",), 1)).alive is None
    assert make().alive is None
    alive = make(depth=(("depth",), 2)).alive
    assert alive is not None and alive.table.tolist() == [0, 1]


def test_shapes_are_the_modules_own() -> None:
    block, place = SPACE.blocks["stage2_block1"], GEOMETRY["stage2_block1"]
    spec = MBConvSpec(4, 8, 8, 3, 2, True, 9, "conv")
    assert spec in block.specs
    found = elastic_block.shapes(block, spec, place.inputs)
    x = jnp.ones((1, 8, 8, 4))
    y, variables = MBConv(spec).init_with_output(jax.random.key(0), x)
    assert found.output.shape == y.shape == (1, 4, 4, 8)
    for mine, its in ((found.params, "params"), (found.moments, "moments")):
        assert jax.tree.map(lambda s: s.shape, mine) == jax.tree.map(jnp.shape, variables[its])
    # How often each kernel is applied: before the stride, after it, once an image.
    assert found.positions == {
        ("expand",): 64,
        ("depthwise",): 16,
        ("squeeze", "reduce"): 1,
        ("squeeze", "expand"): 1,
        ("project",): 16,
        ("shortcut",): 16,
    }


# ---------------------------------------------------------------------------- soft masks


def some_code(menu: Any, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda choice: jnp.asarray(generator.dirichlet(np.ones(len(choice))), jnp.float32), menu
    )


@pytest.mark.parametrize("name", ["stage1_block1", "stage2_block1"])
def test_a_soft_mask_is_the_expectation_of_masks(name: str) -> None:
    block, place = SPACE.blocks[name], GEOMETRY[name]
    assert block.union.shortcut == EITHER
    shared, code = numbered(place.shapes.params), some_code(SPACE.menu)
    chosen = np.asarray(block.index.probabilities(code, len(block.specs)), np.float64)
    assert np.count_nonzero(chosen > 0.01) > 3
    masked = flatten_dict(masked_weights(block, shared, code, place.inputs))
    own = [elastic_block.shapes(block, spec, place.inputs).params for spec in block.specs]
    for path, leaf in flatten_dict(shared).items():
        # Kernels are mixed over their height and width; of the channels only those that come
        # out of a group's last normalisation are scaled, since a norm undoes what is before it.
        mixed = (0, 1) if path[-1] == "kernel" and leaf.ndim == 4 else ()
        scaled = (leaf.ndim - 1,) if path[0] in block.relaxed else ()
        wanted = np.zeros(leaf.shape)
        for share, shapes in zip(chosen, own, strict=True):
            part = flatten_dict(shapes).get(path)
            if part is None and (mixed or scaled):
                continue
            sizes = [
                part.shape[a] if a in mixed + scaled else leaf.shape[a] for a in range(leaf.ndim)
            ]
            wanted += share * leaf * box(path, leaf.shape, tuple(sizes))
        np.testing.assert_allclose(masked[path], wanted, rtol=1e-5)


# ---------------------------------------------------------------------------- transforms


def doubled(params: Any, kernel: jax.Array, size: int) -> jax.Array:
    """A centre crop, scaled by a parameter and by how much was cut off."""
    border = (kernel.shape[0] - size) // 2
    crop = kernel[border : border + size, border : border + size]
    return params["scale"] * crop * (1 + border)


def test_a_transform_sees_cut_channels_at_the_full_spatial_size() -> None:
    block, place = SPACE.blocks["stage1_block1"], GEOMETRY["stage1_block1"]
    where = ("depthwise", "kernel")
    seen: set[tuple[int, ...]] = set()

    def apply(params: Any, kernel: jax.Array, size: int) -> jax.Array:
        seen.add(kernel.shape)
        return doubled(params, kernel, size)

    transform = Transform(where, lambda spec: spec.kernel, lambda key, shape: {}, apply)
    block = dataclasses.replace(block, transforms=(transform,))
    union = place.shapes.params
    shared = {
        **numbered(union),
        elastic_block.TRANSFORMS: {"depthwise/kernel": {"scale": jnp.float32(3.0)}},
    }
    kernel = shared["depthwise"]["kernel"]
    assert kernel.shape == (5, 5, 1, 8)
    masked = jax.jit(lambda arch: masked_weights(block, shared, arch, place.inputs))
    for arch in every_arch()[::7]:
        spec = block.spec(arch)
        assert spec is not None
        k, c = spec.kernel, spec.c_in
        own = elastic_block.shapes(block, spec, place.inputs).params
        seen.clear()
        mine = slicing.weights(block, shared, spec, own)
        assert seen == {(5, 5, 1, c)}
        border = (5 - k) // 2
        wanted = 3 * (1 + border) * kernel[border : 5 - border, border : 5 - border, :, :c]
        np.testing.assert_array_equal(mine["depthwise"]["kernel"], wanted)
        np.testing.assert_array_equal(  # the other leaves are cut as ever
            mine["project"]["kernel"], shared["project"]["kernel"][:, :, :c, : spec.c_out]
        )
        whole = slicing.fill(mine, union)["depthwise"]["kernel"]
        np.testing.assert_allclose(masked(arch)["depthwise"]["kernel"], whole, rtol=1e-6)


def test_transforms_of_one_leaf_need_names() -> None:
    block = SPACE.blocks["stage1_block1"]
    one = Transform(
        ("depthwise", "kernel"), lambda spec: spec.kernel, lambda key, shape: {}, doubled
    )
    named = dataclasses.replace(block, transforms=(one, one._replace(name="again")))
    assert [t.key for t in named.transforms] == ["depthwise/kernel", "depthwise/kernel:again"]
    with pytest.raises(UserError, match="depthwise/kernel, depthwise/kernel; give those"):
        dataclasses.replace(block, transforms=(one, one))


def test_a_transform_that_makes_another_shape_is_named() -> None:
    block, place = SPACE.blocks["stage1_block1"], GEOMETRY["stage1_block1"]
    where = ("project_norm", "scale")
    doubling = Transform(
        where, lambda spec: 0, lambda key, shape: {}, lambda p, w, size: jnp.concatenate([w, w])
    )
    block = dataclasses.replace(block, transforms=(doubling,))
    shared = {**numbered(place.shapes.params), elastic_block.TRANSFORMS: {doubling.key: {}}}
    spec = block.specs[0]
    own = elastic_block.shapes(block, spec, place.inputs).params
    with pytest.raises(UserError, match=r"project_norm/scale make \[8\] of \[4\]"):
        slicing.weights(block, shared, spec, own)


# ---------------------------------------------------------------------------- odd blocks


@dataclasses.dataclass(frozen=True)
class JoinSpec:
    """Two inputs of their own widths; a norm only where the output is wide."""

    first: int
    second: int
    c_out: int


class Join(nn.Module):
    spec: JoinSpec

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        s = self.spec
        y = layers.Pointwise(s.c_out, name="first")(a) + layers.Pointwise(s.c_out, name="second")(b)
        return nn.swish(y)


class Lift(nn.Module):
    """One layer, and a norm where there are more than 3 channels."""

    spec: DenseSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = layers.Pointwise(self.spec.c_out, name="lift")(x)
        return layers.BatchNorm(name="norm")(y) if self.spec.c_out > 3 else y


class Classify(nn.Module):
    spec: DenseSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(self.spec.c_out, name="classifier")(jnp.mean(x, (1, 2)))


def joined() -> Space:
    """Two branches of different widths into one block; the wide ones have a norm."""
    menu = {
        "resolution": Choice((4,)),
        "a": Choice((4, 6)),
        "b": Choice((4, 5)),
        "c": Choice((2, 4)),
    }
    make = functools.partial(elastic_block.elastic, menu=menu)
    blocks = {
        "a": make(Lift, lambda c: DenseSpec(2, c), decisions=[("a",)]),
        "b": make(Lift, lambda c: DenseSpec(2, c), decisions=[("b",)]),
        "join": make(
            Join,
            JoinSpec,
            decisions=[("a",), ("b",), ("c",)],
            channels=lambda spec: (spec.first, spec.second),
        ),
        "head": make(Classify, lambda c: DenseSpec(c, 3), decisions=[("c",)]),
    }

    def forward(run: Any, x: jax.Array) -> jax.Array:
        return run("head", run("join", run("a", x), run("b", x)))

    return Space("joined", menu, blocks, forward, ImageClassification(2, 3), (("resolution",),))


def agree(space: Space, arch: Any, check: Check) -> Any:
    """Compares the strategies on one arch; returns the sliced output."""
    output, gradients = check.run("sliced", arch)
    for name in ("masked", "switched"):
        other, others = check.run(name, arch)
        assert largest_difference(other.logits, output.logits) < SUMS
        shapes = [jax.tree.map(jnp.shape, o.moments) for o in (other, output)]
        assert shapes[0] == shapes[1]
        assert largest_difference(other.moments, output.moments) < SUMS
        assert global_difference(others, gradients) < SUMS
    return output


def test_a_block_of_two_inputs() -> None:
    space = joined()
    check = Check(space, size=4)
    for a, b, c in ((0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)):
        options = {"a": a, "b": b, "c": c, "resolution": 0}
        agree(space, jax.tree.map(np.int32, options), check)


def lifted() -> Space:
    """A block that is normalised in one of its specs only."""
    menu = {"resolution": Choice((4,)), "c": Choice((3, 5))}
    make = functools.partial(elastic_block.elastic, menu=menu, decisions=[("c",)])
    blocks = {
        "lift": make(Lift, lambda c: DenseSpec(2, c)),
        "head": make(Classify, lambda c: DenseSpec(c, 3)),
    }
    task = ImageClassification(2, 3)
    return Space("lifted", menu, blocks, chain(("lift", "head")), task, (("resolution",),))


@pytest.mark.parametrize("strategy", [strategies.sliced, strategies.switched])
def test_a_spec_without_norms_has_zero_statistics(strategy: Any) -> None:
    # Such a spec is another function than the union on masked weights, so `masked` is not asked.
    space = lifted()
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(shared_params.init, space), jax.random.key(0))
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)
    images = jnp.asarray(rng.normal(size=(2, 4, 4, 2)), jnp.float32)
    arch = jax.tree.map(np.int32, {"resolution": 0, "c": 0})

    def run(arch: Any) -> Any:
        return strategy(space, params, arch, images, size=4)

    output = run(arch) if strategy is strategies.sliced else jax.jit(run)(arch)
    kernel = np.asarray(params["lift"]["lift"]["kernel"])[0, 0, :, :3]
    features = (np.asarray(images) @ kernel).mean((1, 2))
    dense = params["head"]["classifier"]
    wanted = features @ np.asarray(dense["kernel"])[:3] + np.asarray(dense["bias"])
    np.testing.assert_allclose(output.logits, wanted, atol=SUMS)
    norm = output.moments["lift"]["norm"]
    np.testing.assert_array_equal(norm["mean"], np.zeros(5))
    np.testing.assert_array_equal(norm["var"], np.zeros(5))


# ---------------------------------------------------------------------------- whole spaces


@functools.cache
def every_arch() -> list[Any]:
    """All archs of the tiny space; its resolution is not theirs to say."""
    return theorem.every_arch(choices.replace(SPACE.menu, ("resolution",), Choice((8,))))


def test_features_are_the_outputs_of_blocks() -> None:
    check = check_of(tiny, size=8)
    wanted = ("stage1_block2", "stage2_block1")
    arch = choices.smallest(SPACE.menu)  # it skips the first of them
    run = functools.partial(strategies.sliced, SPACE, check.params, inputs=check.images, size=8)
    found = jax.jit(lambda: run(arch=arch, features=wanted).features)()
    assert {name: f.shape for name, f in found.items()} == {
        "stage1_block2": (4, 8, 8, 4),
        "stage2_block1": (4, 4, 4, 8),
    }
    traced = jax.tree.map(jnp.asarray, arch)
    for strategy in (strategies.masked, strategies.switched):
        others = jax.jit(
            lambda a, s=strategy: (
                s(SPACE, check.params, a, check.images, size=8, features=wanted).features
            )
        )(traced)
        for name, own in found.items():
            channels = own.shape[-1]
            assert largest_difference(others[name][..., :channels], own) < SUMS
            assert not np.any(others[name][..., channels:]), "beyond the subnet there is nothing"
            assert others[name].shape[-1] > channels
    assert not jax.eval_shape(functools.partial(run, arch=arch)).features


def test_a_stage_narrower_than_the_one_before() -> None:
    """Its first block may get as many channels as it gives, or more; both have a shortcut."""
    stages = (Stage((8, 12), (1,), (3,), (2,), 1), Stage((8,), (1,), (3,), (2,), 1))
    space = mobilenet.mobilenet(
        "narrower", resolutions=(4,), stem=(8,), stem_stride=1, stages=stages, last=(8,), classes=3
    )
    block = space.blocks["stage2_block1"]
    assert {spec.shortcut for spec in block.specs} == {IDENTITY, CONV}
    params = shared_params.init(space, jax.random.key(0))
    params = jax.tree.map(
        lambda x: np.asarray(x) + np.linspace(0.1, 0.9, x.size, dtype=np.float32).reshape(x.shape),
        params,
    )
    images = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))
    run = jax.jit(functools.partial(strategies.masked, space, size=4))
    for arch in (choices.smallest(space.menu), choices.largest(space.menu)):
        own = jax.jit(functools.partial(strategies.sliced, space, arch=arch, size=4))
        cut = own(params, inputs=images).logits
        masked = run(params, jax.tree.map(jnp.asarray, arch), images).logits
        assert float(cut.std()) > 1e-3
        np.testing.assert_allclose(cut, masked, atol=1e-5 * float(jnp.abs(cut).max()))
