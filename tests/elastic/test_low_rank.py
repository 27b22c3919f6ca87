"""Adapters of elastic rank: what they add, what they cost, and that at first they are not there.

That the strategies agree on them is in `test_theorem.py`; that the rest is frozen, in
`tests/training/test_frozen.py`; that extraction merges them, in `tests/networks/test_extract.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light_space import light
from theorem import archs_of, random_params
from tiny_space import adapted, deep, to_adapt

from supernet_jax.elastic import channel_order, choices, elastic_block, shared_params, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.transforms import low_rank
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs

# Shape of a leaf, whether it is fused, the matrix that it is, and what a smaller subnet has of it.
LEAVES: dict[str, Any] = {
    "dense": ((6, 4), False, (6, 4), (5, 3)),
    "pointwise": ((1, 1, 6, 4), False, (6, 4), (1, 1, 5, 3)),
    "convolution": ((3, 3, 2, 5), False, (18, 5), (3, 3, 1, 4)),
    "depthwise": ((5, 5, 1, 6), False, (25, 6), (5, 5, 1, 4)),
    "fused": ((6, 2, 3), True, (6, 6), (5, 2, 2)),
    "projection": ((2, 3, 6), False, (6, 6), (2, 2, 5)),
    "scale": ((4,), False, (1, 4), (3,)),
}


@pytest.mark.parametrize("name", LEAVES)
def test_what_is_added(name: str) -> None:
    shape, fused, (rows, columns), smaller = LEAVES[name]
    most = min(4, rows, columns)
    transform = low_rank.adapter(
        ("layer", "kernel"), lambda rank: rank, most=most, alpha=6.0, fused=fused
    )
    start = transform.init(jax.random.key(0), shape)
    assert not np.any(start["up"]) and np.all(start["down"] != 0)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=shape).astype(np.float32)
    down, up = (rng.normal(size=start[k].shape).astype(np.float32) for k in ("down", "up"))
    a, b = down.reshape(rows, most), up.reshape(most, columns)
    part = tuple(slice(n) for n in smaller)
    for rank in (0, 1, most):
        wanted = 6.0 / max(rank, 1) * (a[:, :rank] @ b[:rank]).reshape(shape)
        for box in ((...,), part):  # all channels, or the leading ones of a smaller subnet
            at_first = transform.apply(start, jnp.asarray(weights[box]), rank)
            np.testing.assert_array_equal(at_first, weights[box])
            made = transform.apply({"down": down, "up": up}, jnp.asarray(weights[box]), rank)
            np.testing.assert_allclose(made, (weights + wanted)[box], rtol=1e-5, atol=1e-5)


def test_behind_a_transform_that_crops_it_is_centred() -> None:
    transform = low_rank.adapter(("a", "kernel"), lambda rank: rank, most=2, alpha=2.0)
    down, up = np.arange(50.0).reshape(5, 5, 1, 2), np.ones((2, 1))
    params = jax.tree.map(jnp.float32, {"down": down, "up": up})
    made = transform.apply(params, jnp.zeros((3, 3, 1, 1)), 2)
    np.testing.assert_array_equal(made[..., 0, 0], down.sum(-1)[1:-1, 1:-1, 0])


def weights_of(space: Space, params: Any, arch: Any) -> Any:
    """The weights of every block of an arch."""
    made = {}
    for name, place in elastic_space.geometry(space, 8).items():
        block = space.blocks[name]
        if (spec := block.spec(arch)) is not None:
            own = elastic_block.shapes(block, spec, place.inputs).params
            made[name] = slicing.weights(block, params[name], spec, own)
    return made


def test_at_first_every_rank_is_the_space_itself() -> None:
    plain, space = to_adapt(), adapted()
    params = jax.jit(functools.partial(shared_params.init, space))(jax.random.key(0))
    moved = random_params(space)
    for arch in archs_of(space, 1):
        base = {name: arch[name] for name in plain.menu}
        own, theirs = weights_of(space, params, arch), weights_of(plain, params, base)
        jax.tree.map(np.testing.assert_array_equal, own, theirs)
        # Otherwise this could not fail.
        own, theirs = weights_of(space, moved, arch), weights_of(plain, moved, base)
        kernels = own["head"]["classifier"]["kernel"], theirs["head"]["classifier"]["kernel"]
        assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_what_an_adapted_space_is() -> None:
    plain, space = to_adapt(), adapted()
    names = {"stage1_block1", "stage1_block2", "head"}
    assert set(space.menu["rank"]) == names and space.blocks["stem"] is plain.blocks["stem"]
    assert all(choice.values == (1, 3) for choice in space.menu["rank"].values())
    assert choices.count(space.menu) == 2**3 * choices.count(plain.menu)
    archs = choices.stack(archs_of(space, 8))
    base = {name: archs[name] for name in plain.menu}
    for cost in (costs.macs, costs.parameters):
        np.testing.assert_array_equal(cost(space)(archs), cost(plain)(base))
    # The rank of a block that is skipped decides nothing.
    rank = {**choices.smallest(space.menu), "depth": [np.int32(0)]}
    other = choices.replace(rank, ("rank", "stage1_block2"), np.int32(1))
    assert len(elastic_space.distinct(space, [rank, other])) == 1
    # Its adapters know channels by their place.
    assert not any(channel_order.couplings(space).values())


def test_blocks_that_are_alike_stay_so() -> None:
    space = low_rank.adapted(deep(), ranks=(1, 2))
    kinds = {elastic_block.kind(space.blocks[f"stage1_block{i}"], False) for i in range(2, 6)}
    assert len(kinds) == 1


def test_parameters_of_adapters() -> None:
    space = low_rank.adapted(light(), leaves=(".*/kernel",), ranks=(0, 1, 2))
    cost = low_rank.adapter_parameters(space)
    arch = choices.largest(space.menu)  # 2 -> 6 -> 6 -> 5
    assert cost(arch) == 2 * (2 + 6) + 2 * (6 + 6) + 2 * (6 + 5)
    arch["rank"]["pool"] = np.int32(0)
    arch["width"] = np.int32(0)  # 2 -> 3 -> 3 -> 5
    assert cost(arch) == 2 * (2 + 3) + 2 * (3 + 3)
    arch["depth"] = np.int32(0)
    assert cost(arch) == 2 * (2 + 3)
    archs = choices.sample(space.menu, jax.random.key(0), (4,))
    host = choices.unstack(archs)
    np.testing.assert_array_equal(jax.jit(cost)(archs), [cost(arch) for arch in host])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"ranks": (2, 3)}, r"ranks has 3, but first/mix/kernel \[1, 1, 2, 6\] is a .* is 2;"),
    "fused": ({"ranks": (2,), "fused": (".*mix/kernel",)}, r"whose smaller side is 1; give"),
    "no ranks": ({"ranks": ()}, r"ranks is \(\); give numbers of at least 0"),
    "only zero": ({"ranks": (0,)}, r"ranks is \(0,\); give .* and one above it"),
    "alpha": ({"alpha": 0.0}, "alpha is 0.0, but must be above 0"),
    "negative": ({"ranks": (-1, 2)}, r"ranks is \(-1, 2\); give"),
    "misspelt": (
        {"leaves": ("pool/clasifier/kernel",)},
        "'pool/clasifier/kernel', which matches no parameter .*; did you mean pool/classifier/ke",
    ),
    "no leaves": ({"leaves": ()}, "leaves is empty"),
    "trained": ({"ranks": (1,), "trained": ("head/.*",)}, "trained has 'head/.*', which matches"),
    "expression": ({"leaves": ("(",)}, r"leaves has '\(', which is no regular expression: miss"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_adapted(name: str) -> None:
    how, words = WRONG[name]
    with pytest.raises(UserError, match=words):
        low_rank.adapted(light(), **how)


def test_an_adapted_space_is_not_adapted_again() -> None:
    with pytest.raises(UserError, match="has a decision 'rank' already"):
        low_rank.adapted(adapted())


def test_the_space_of_one_subnet() -> None:
    space = light()
    arch = {"resolution": np.int32(1), "width": np.int32(1), "depth": np.int32(0)}
    alone = elastic_space.only(space, arch)
    own = choices.smallest(alone.menu)
    assert choices.count(alone.menu) == 1 and alone.size_of(own) == 8
    for cost in (costs.macs, costs.parameters):
        assert cost(alone)(own) == cost(space)(arch)
    assert shared_params.parameter_shapes(alone) == shared_params.parameter_shapes(space)
    assert [b.spec(own) for b in alone.blocks.values()] == [
        b.spec(arch) for b in space.blocks.values()
    ]
    # A block that the subnet lacks gets no adapter.
    assert set(low_rank.adapted(alone, ranks=(1,)).menu["rank"]) == {"first", "pool"}
