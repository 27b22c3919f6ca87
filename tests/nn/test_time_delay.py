"""Layers over time against Flax's own and against BatchNorm of images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.nn import layers
from supernet_jax.nn.blocks.time_delay import Norm, TimeConv

X = np.random.default_rng(0).normal(size=(3, 7, 4, 2)).astype(np.float32)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 2), (5, 3)])
def test_a_convolution_over_time_is_that_of_flax(kernel: int, dilation: int) -> None:
    x = jnp.asarray(X[:, :, 0])
    pad = [(kernel // 2 * dilation,) * 2]
    theirs = nn.Conv(5, (kernel,), kernel_dilation=dilation, padding=pad, use_bias=False)
    variables = theirs.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].shape == (kernel, 2, 5)
    found = TimeConv(5, kernel, dilation).apply(variables, x)
    np.testing.assert_allclose(found, theirs.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_a_norm_of_groups_is_that_of_all_their_channels() -> None:
    x, flat = jnp.asarray(X), jnp.asarray(X.reshape(3, 7, 8))
    params = {"scale": jnp.arange(8.0) + 1, "bias": jnp.arange(8.0) - 3}
    grouped = {name: value.reshape(4, 2) for name, value in params.items()}
    own, made = Norm(2).apply({"params": grouped}, x, mutable=["moments"])
    theirs, wanted = layers.BatchNorm().apply({"params": params}, flat, mutable=["moments"])
    np.testing.assert_allclose(own.reshape(3, 7, 8), theirs, rtol=1e-6)
    for name in ("mean", "var"):
        assert made["moments"][name].shape == (4, 2)
        np.testing.assert_allclose(made["moments"][name].ravel(), wanted["moments"][name])
    given = Norm(2).apply({"params": grouped, "stats": made["moments"]}, x)
    again = layers.BatchNorm().apply({"params": params, "stats": wanted["moments"]}, flat)
    np.testing.assert_allclose(given.reshape(3, 7, 8), again, rtol=1e-6)
    assert Norm(2).macs(jnp.zeros((1, 7, 4, 2))) == 2 * 56
