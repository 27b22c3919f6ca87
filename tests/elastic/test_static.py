"""Decisions that are shapes, skipped blocks between two widths, and what is refused."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import light
from theorem import Check, archs_of, global_difference, largest_difference

from supernet_jax.elastic import choices, shared_params, space_identity, strategies
from supernet_jax.elastic.choices import Choice, Lookup
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space, geometry
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification, NextToken

TOLERANCE = 1e-5  # as the theorem's


@dataclasses.dataclass(frozen=True)
class PatchSpec:
    c_in: int
    c_out: int
    patch: int


class Patches(nn.Module):
    """Squares of an image as tokens; a small one has the centre of the shared kernel."""

    spec: PatchSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        p, c = self.spec.patch, self.spec.c_out
        return nn.Conv(c, (p, p), strides=(p, p), padding="VALID", name="embed")(x)


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    c_in: int


class Head(nn.Module):
    spec: HeadSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(3, name="classifier")(jnp.mean(jax.nn.gelu(x), (1, 2)))


def patches(**changes: Any) -> Space:
    """Two resolutions and two sizes of patches, all of them shapes."""
    menu = {"resolution": Choice((8, 16)), "patch": Choice((2, 4)), "width": Choice((3, 5))}
    blocks = {
        "patches": elastic(
            Patches,
            lambda p, w: PatchSpec(2, w, p),
            menu=menu,
            decisions=[("patch",), ("width",)],
        ),
        "head": elastic(Head, HeadSpec, menu=menu, decisions=[("width",)]),
    }
    fields: dict[str, Any] = {"static": (("resolution",), ("patch",)), **changes}
    return Space("patches", menu, blocks, chain(tuple(blocks)), ImageClassification(2, 3), **fields)


def test_sizes_are_all_combinations() -> None:
    space = patches()
    assert space.sizes == ((8, 2), (8, 4), (16, 2), (16, 4))
    archs = choices.sample(space.menu, jax.random.key(0), (20,))
    which = np.asarray(space.which_size(archs))
    for place, arch in zip(which, choices.unstack(archs), strict=True):
        assert space.size_of(arch) == space.sizes[place]
    moved = jax.tree.map(np.asarray, space.at_size(archs, np.full(20, 2, np.int32)))
    assert {space.size_of(arch) for arch in choices.unstack(moved)} == {(16, 2)}


@pytest.mark.parametrize("size", [(8, 2), (8, 4)])
def test_strategies_agree_at_each_size(size: Any) -> None:
    check = Check(patches(), size=size)
    place = check.space.sizes.index(size)
    assert geometry(check.space, size)["patches"].block.union.patch == size[1]
    for arch in archs_of(check.space, 0):
        own = jax.tree.map(np.asarray, check.space.at_size(arch, np.int32(place)))
        output, gradients = check.run("sliced", own)
        for name in ("masked", "switched", "blockwise"):
            other, others = check.run(name, own)
            assert largest_difference(other.logits, output.logits) < TOLERANCE
            assert global_difference(others, gradients) < TOLERANCE


def test_costs_are_those_of_each_size() -> None:
    space = patches()
    for pixels, patch, width in ((8, 2, 3), (16, 4, 5), (16, 2, 3)):
        arch = {
            name: np.int32(choice.values.index(value))
            for (name, choice), value in zip(
                sorted(space.menu.items()), (patch, pixels, width), strict=True
            )
        }
        kernel, places = patch * patch * 2 * width, (pixels // patch) ** 2
        assert int(costs.macs(space)(arch)) == kernel * places + 3 * width
        assert int(costs.parameters(space)(arch)) == kernel + width + 3 * width + 3


def test_specs_of_other_shapes_are_refused_by_name() -> None:
    space = patches(static=(("resolution",),))
    params = shared_params.init(space, jax.random.key(0))
    images = jnp.zeros((1, 8, 8, 2))
    with pytest.raises(UserError, match=r"PatchSpec\(.*patch=2\) gives .*Space\(static=\.\.\.\)"):
        strategies.masked(space, params, choices.smallest(space.menu), images, size=8)


@dataclasses.dataclass(frozen=True)
class MixSpec:
    c_in: int
    c_out: int


class Mix(nn.Module):
    spec: MixSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(layers.Dense(self.spec.c_out, name="mix")(x))


def stitched(wide_first: bool) -> Space:
    """A block between two widths, which may be skipped: what it gets is padded, or cut."""
    menu = {"resolution": Choice((4,)), "there": Choice((0, 1))}
    a, b = (6, 4) if wide_first else (4, 6)
    specs = {"first": MixSpec(2, a), "stitch": MixSpec(a, b), "last": MixSpec(b, 5)}
    there = Lookup((("there",),), np.asarray([0, 1], np.int32))
    blocks: dict[str, ElasticBlock] = {
        name: elastic(
            Mix,
            lambda spec=spec: spec,
            menu=menu,
            **({"alive": there} if name == "stitch" else {}),
        )
        for name, spec in specs.items()
    }
    blocks["head"] = elastic(Head, lambda: HeadSpec(5), menu=menu)
    task, static = ImageClassification(2, 3), (("resolution",),)
    return Space("stitched", menu, blocks, chain(tuple(blocks)), task, static)


@pytest.mark.parametrize("wide_first", [True, False])
def test_a_skipped_block_pads_or_cuts(wide_first: bool) -> None:
    check = Check(stitched(wide_first), size=4)
    for arch in archs_of(check.space, 0):
        output, gradients = check.run("sliced", arch)
        for name in ("masked", "switched", "blockwise"):
            other, others = check.run(name, arch)
            assert largest_difference(other.logits, output.logits) < TOLERANCE
            assert global_difference(others, gradients) < TOLERANCE


def test_an_identity_includes_the_blocks() -> None:
    space = stitched(True)

    class Mix(nn.Module):  # of the same name, with another parameter
        spec: MixSpec

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(self.spec.c_out, use_bias=False, name="mix")(x)

    other = {
        **space.blocks,
        "first": elastic(Mix, lambda: MixSpec(2, 6), menu=space.menu),
    }
    meta = {"space": space_identity.describe_space(space)}
    space_identity.check_space(meta, space)
    with pytest.raises(UserError, match="its blocks have other layers"):
        space_identity.check_space(meta, dataclasses.replace(space, blocks=other))
    older = {name: value for name, value in meta["space"].items() if name != "blocks"}
    space_identity.check_space({"space": older}, space)  # of a version that did not say


class Embed(nn.Module):
    """Ids of tokens as numbers that tell all of them apart."""

    spec: HeadSpec

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        assert jnp.issubdtype(ids.dtype, jnp.integer)
        return nn.Embed(300, 4, name="embed")(ids)


def test_ids_are_never_cast() -> None:
    menu = {"width": Choice((3,))}
    blocks = {"embed": elastic(Embed, HeadSpec, menu=menu, decisions=[("width",)])}
    blocks["embed"] = dataclasses.replace(blocks["embed"], channels=lambda spec: (None,))
    space = Space("ids", menu, blocks, chain(("embed",)), NextToken(300, 2))
    assert space.sizes == ((),)
    params = {"embed": {"embed": {"embedding": jnp.arange(1200.0).reshape(300, 4) / 8}}}
    ids = jnp.asarray([[255, 256], [257, 258]])  # bfloat16 has 256 for 257
    arch = choices.smallest(menu)
    exact = strategies.sliced(space, params, arch, ids, size=()).logits
    assert len(np.unique(exact[..., 0])) == 4
    for strategy in (strategies.sliced, strategies.masked, strategies.switched):
        found = strategy(space, params, arch, ids, size=(), dtype=jnp.bfloat16).logits
        wanted = jnp.asarray(exact, jnp.bfloat16).astype(jnp.float32)
        np.testing.assert_array_equal(found, wanted)


def test_images_need_a_resolution() -> None:
    space = dataclasses.replace(light(), static=())
    with pytest.raises(UserError, match=r'images need a resolution; .* static=\(\("resolution"'):
        geometry(space, space.sizes[0])
