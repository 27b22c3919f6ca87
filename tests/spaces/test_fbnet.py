"""FBNet's space beside its published networks, and its blocks beside plain convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from supernet_jax.elastic import choices
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.nn import layers
from supernet_jax.nn.blocks.fbnet import FBNetBlock, FBNetBlockSpec, shuffled
from supernet_jax.spaces.fbnet import OPERATIONS, FBNetSmall, FBNetSpace

SPACE = FBNetSpace().build()
FIRST_OF_STAGES = (1, 5, 9, 13, 17, 21)  # layers that change the shape
# As copies of the authors' file of definitions (fbnet_modeldef.py) have them, by the names of the
# paper's table 2, stage by stage.
PUBLISHED = {
    "A": "skip  k3_e3 k3_e1 skip skip  k5_e6 k3_e3 k5_e1 k3_e3  k5_e6 k5_e3 k5_e1_g2 k5_e6"
    "  k3_e6 k5_e1_g2 k5_e1 k3_e1_g2  k5_e6 k5_e6 k5_e3 k5_e6  k5_e6",
    "B": "k3_e1  k3_e6 k5_e1 k3_e1 k3_e1  k5_e6 k5_e3 k3_e6 k5_e6  k5_e6 k5_e1 skip k5_e3"
    "  k5_e6 k3_e1 k5_e1 k5_e3  k5_e6 k5_e1 k5_e6 k5_e6  k3_e6",
    "C": "k3_e1  k3_e6 skip k3_e1 k3_e1  k5_e6 k5_e3 k5_e6 k3_e6  k5_e6 k5_e3 k5_e6 k5_e6"
    "  k5_e6 k5_e6 k5_e6 k5_e3  k5_e6 k5_e6 k5_e6 k5_e6  k3_e6",
}
# (repeats, kernel, stride, expansion, channels) of FBNet-C, as timm has them for `fbnetc_100`.
TIMM = (
    *((1, 3, 1, 1, 16), (1, 3, 2, 6, 24), (2, 3, 1, 1, 24), (1, 5, 2, 6, 32), (1, 5, 1, 3, 32)),
    *((1, 5, 1, 6, 32), (1, 3, 1, 6, 32), (1, 5, 2, 6, 64), (1, 5, 1, 3, 64), (2, 5, 1, 6, 64)),
    *((3, 5, 1, 6, 112), (1, 5, 1, 3, 112), (4, 5, 2, 6, 184), (1, 3, 1, 6, 352)),
)


def arch_of(network: str) -> Any:
    """A published network."""
    values = [OPERATIONS.index(name) for name in PUBLISHED[network].split()]
    chosen = zip(SPACE.menu["layer"], values, strict=True)
    return {
        "layer": [np.int32(choice.values.index(value)) for choice, value in chosen],
        "resolution": np.int32(0),
    }


def test_the_number_of_archs() -> None:
    """The paper counts 9 options in each of 22 layers; six layers here have no skip."""
    options = [len(choice) for choice in SPACE.menu["layer"]]
    assert options == [8 if i in FIRST_OF_STAGES else 9 for i in range(22)]
    assert choices.count(SPACE.menu) == 9**16 * 8**6


def test_parameters_of_fbnet_c() -> None:
    """To the unit beside timm's definition, counted by hand: every convolution without bias,
    every BatchNorm with two numbers a channel.
    """
    parameters, macs, c, pixels = 27 * 16 + 32, 27 * 16 * 112**2, 16, 112
    for repeats, kernel, first, expansion, channels in TIMM:
        for i in range(repeats):
            middle, stride = c * expansion, 1 if i else first
            parameters += c * middle + kernel**2 * middle + middle * channels
            parameters += 4 * middle + 2 * channels
            macs += c * middle * pixels**2
            pixels //= stride
            macs += (kernel**2 + channels) * middle * pixels**2
            c = channels
    parameters += c * 1984 + 2 * 1984 + 1984 * 1000 + 1000
    macs += c * 1984 * pixels**2 + 1984 * 1000
    assert costs.parameters(SPACE)(arch_of("C")) == parameters == 5_572_200  # published: 5.57 M
    assert costs.macs(SPACE)(arch_of("C")) == macs == 384_960_160


@pytest.mark.parametrize(("network", "published"), [("A", 249e6), ("B", 295e6)])
def test_macs_of_published_networks(network: str, published: float) -> None:
    """Which the paper rounds and counts in its own way; both have skips, one has groups."""
    assert abs(costs.macs(SPACE)(arch_of(network)) / published - 1) < 0.01


def test_a_convolution_in_groups() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 6))
    layer = layers.Pointwise(4, groups=2)
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (1, 1, 3, 4)
    numbers = ("NHWC", "HWIO", "NHWC")
    wanted = lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=2
    )
    np.testing.assert_allclose(layer.apply(variables, x), wanted, atol=1e-6)


def test_channels_are_shuffled() -> None:
    assert shuffled(jnp.arange(6), 2).tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(jnp.arange(6), 3).tolist() == [0, 2, 4, 1, 3, 5]


def test_a_block_in_groups_mixes_them() -> None:
    """By the shuffle every output sees every input; where shapes fit the input is added."""
    spec = FBNetBlockSpec(4, 4, 4, 3, 1, 2)
    block, x = FBNetBlock(spec), jax.random.normal(jax.random.key(0), (5, 3, 3, 4))
    params = block.init(jax.random.key(1), x)["params"]
    stats = {
        name: {"mean": jnp.zeros(4), "var": jnp.ones(4)}
        for name in ("expand_norm", "depthwise_norm", "project_norm")
    }
    params["expand_norm"]["bias"] = params["depthwise_norm"]["bias"] = jnp.full(4, 9.0)  # no ReLU
    run = lambda x: block.apply({"params": params, "stats": stats}, x).sum((0, 1, 2))  # noqa: E731
    slopes = jax.jacobian(run)(x).sum((1, 2, 3))
    assert np.all(np.abs(slopes - 45 * np.eye(4)) > 1e-3)
    without = FBNetBlockSpec(4, 6, 4, 3, 1, 2)
    assert spec.residual and not without.residual and not FBNetBlockSpec(4, 4, 4, 3, 2).residual


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (FBNetSmall(widths=(3,)), "space.widths is .3,.; give even numbers"),
        (FBNetSmall(widths=()), "space.widths is"),
        (FBNetSmall(operations=("k3_e2",)), "'k3_e2', but there are skip, .*; did you mean"),
        (FBNetSmall(operations=("skip",)), "give one that is no skip"),
        (FBNetSmall(layers=0), "space.layers is 0"),
        (FBNetSpace(head=0), "space.head is 0"),
        (FBNetSpace(resolutions=(16,)), "at least 32 pixels"),
    ],
    ids=str,
)
def test_wrong_settings(space: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        space.build()
    assert "\n" not in str(error.value)
