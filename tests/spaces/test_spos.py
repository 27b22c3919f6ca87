"""SPOS' space beside its published networks, and its blocks beside the published code."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from tiny_space import shuffled_halves

from supernet_jax.elastic import choices, elastic_block, shared_params
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.nn.blocks.shufflenet import ShuffleBlock, ShuffleSpec, ShuffleXception
from supernet_jax.spaces import SPOS, SPOSSmall

GOLDEN = reference.golden("spos")  # of the published code
NETWORKS = GOLDEN["networks"]
WHOLE = SPOS(affine=True).build()


def arch_of(ops: Sequence[int], widths: Sequence[int]) -> Any:
    found = {"op": list(ops), "width": list(widths), "resolution": 0}
    return jax.tree.map(np.int32, found)


def by_hand(ops: Sequence[int], widths: Sequence[int]) -> tuple[int, int]:
    """Parameters and MACs of a network with norms that learn: layer by layer, as its kernel's
    size, the pixels of its output and the channels of its norm.
    """
    layers, c_in, pixels, place = [(27 * 16, 112, 16)], 16, 112, 0
    for c_out, count in ((64, 4), (160, 4), (320, 8), (640, 4)):
        for i in range(count):
            read, half = (c_in, pixels // 2) if i == 0 else (c_in // 2, pixels)
            middle, put, op = c_out // 2 * 2 * (widths[place] + 1) // 10, c_out - read, ops[place]
            area = (9, 25, 49, 9)[op]
            if op == 3:
                layers += [(9 * read, half, read), (read * middle, half, middle)]
                layers += [(9 * middle, half, middle), (middle * middle, half, middle)]
                layers += [(9 * middle, half, middle), (middle * put, half, put)]
            else:
                layers += [(read * middle, pixels, middle), (area * middle, half, middle)]
                layers += [(middle * put, half, put)]
            if i == 0:
                layers += [(area * read, half, read), (read * read, half, read)]
            c_in, pixels, place = c_out, half, place + 1
    layers += [(640 * 1024, 7, 1024), (1024 * 1000, 1, 0)]
    parameters = sum(kernel + 2 * normed for kernel, _, normed in layers)
    return parameters, sum(kernel * places**2 for kernel, places, _ in layers)


def of_one(space: Space, arch: Any) -> tuple[int, int]:
    """Parameters and MACs of the blocks that an arch picks; tables of all would take long."""
    parameters = macs = 0
    for place in elastic_space.geometry(space, space.size_of(arch)).values():
        shapes = elastic_block.shapes(place.block, place.block.spec(arch), place.inputs)
        parameters += sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
        macs += shapes.macs
    return parameters, macs


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_of_published_networks(name: str) -> None:
    """To the unit beside the published code's own, and a count by hand."""
    ops, widths, published = (NETWORKS[name][key] for key in ("op", "width", "counts"))
    assert list(of_one(WHOLE, arch_of(ops, widths))) == published
    assert list(by_hand(ops, widths)) == published


def test_counts_as_the_authors_round_them() -> None:
    """READMEs of megvii-model/SinglePathOneShot and OneShot in megvii-model/ShuffleNet-Series."""
    parameters, macs = NETWORKS["searched"]["counts"]
    assert round(macs / 1e6) == 323 and parameters // 100_000 == 35  # "3.5M"
    parameters, macs = NETWORKS["channels"]["counts"]
    assert round(macs / 1e6) == 328 and round(parameters / 1e6, 1) == 3.4


def test_costs_of_the_search_of_blocks() -> None:
    """One width leaves nothing else to choose."""
    space = SPOS(widths=(1.0,), affine=True).build()
    assert choices.count(space.menu) == 4**20 and choices.count(WHOLE.menu) == 40**20
    for name in ("searched", "blocks"):
        arch = arch_of(NETWORKS[name]["op"], [0] * 20)
        found = [int(cost(space)(arch)) for cost in (costs.parameters, costs.macs)]
        assert found == NETWORKS[name]["counts"]


@pytest.mark.slow  # specs of all 40 options of 20 blocks are traced
def test_costs_of_the_search_of_channels() -> None:
    for network in NETWORKS.values():
        arch = arch_of(network["op"], network["width"])
        found = [int(cost(WHOLE)(arch)) for cost in (costs.parameters, costs.macs)]
        assert found == network["counts"]


@pytest.mark.parametrize("case", GOLDEN["blocks"], ids=lambda case: case["name"])
def test_a_block_is_the_published_one(case: Any) -> None:
    """With the statistics of the batch, in which the places of channels count."""
    name, (read, c_out, middle, stride) = case["name"], case["sizes"]
    c_in = 2 * read if stride == 1 else read
    kinds = {"3": (ShuffleBlock, 3), "5": (ShuffleBlock, 5), "7": (ShuffleBlock, 7)}
    module, kernel = kinds.get(name[7], (ShuffleXception, 3))
    block = module(ShuffleSpec(c_in, c_out, middle, kernel, stride, affine=False))
    x = reference.uniform(2 * c_in * 6 * 6, 500).reshape(2, c_in, 6, 6).transpose(0, 2, 3, 1) - 0.5
    branch = ("expand", "depthwise", "project")
    if module is ShuffleXception:
        branch = tuple(f"{layer}{i}" for i in (1, 2, 3) for layer in ("depthwise", "pointwise"))
    ours = (*branch, "beside_depthwise", "beside_pointwise")
    tensors = reference.tensors(case["tensors"])
    params = {
        layer: {"kernel": jnp.asarray(weights.transpose(2, 3, 1, 0))}
        for layer, weights in zip(ours, tensors.values(), strict=False)
    }
    y = block.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.asarray(y)[0, ::2, 1].ravel(), case["values"], atol=2e-5)


def test_kinds_share_nothing_and_widths_all() -> None:
    """A narrower block has the leading channels of the widest of its kind."""
    space = shuffled_halves()
    place = elastic_space.geometry(space, 6)["block2"]
    assert len(place.block.specs) == 4
    params = jax.eval_shape(lambda: shared_params.init(space, jax.random.key(0)))["block2"]
    assert set(params) == {"choice_5", "choice_x"}
    assert params["choice_5"]["depthwise"]["kernel"].shape == (5, 5, 1, 6)
    assert params["choice_x"]["pointwise2"]["kernel"].shape == (1, 1, 6, 6)
    arch = choices.smallest(space.menu)
    own = elastic_block.shapes(place.block, place.block.spec(arch), place.inputs).params
    assert own["choice_5"]["depthwise"]["kernel"].shape == (5, 5, 1, 2)
    assert own["choice_5"]["project"]["kernel"].shape == (1, 1, 2, 4)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (SPOSSmall(channels=(6, 4)), "space.channels is .6, 4.; give even numbers above 0, sma"),
        (SPOSSmall(channels=(3,)), "space.channels is"),
        (SPOSSmall(channels=()), "space.channels is"),
        (SPOSSmall(operations=("choice_9",)), "'choice_9', but there are choice_3, .*; did you"),
        (SPOSSmall(operations=()), "space.operations is"),
        (SPOSSmall(blocks=0), "space.blocks is 0"),
        (SPOSSmall(widths=(0.0, 1.0)), "space.widths is .0.0, 1.0.; give numbers above 0"),
        (SPOSSmall(resolution=1), "at least 2 pixels"),
        (SPOS(head=0), "space.head is 0"),
        (SPOS(dropout=1.0), "space.dropout is 1.0"),
        (SPOS(resolutions=(16,)), "at least 32 pixels"),
    ],
    ids=str,
)
def test_wrong_settings(space: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        space.build()
    assert "\n" not in str(error.value)
