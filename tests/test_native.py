"""The compiled kernels give what XLA's convolution gives, and are used only where they can be."""

import functools
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from supernet_jax import native
from supernet_jax.errors import UserError

Array = jax.Array
SHAPES = [(3, 9, 7, 25)]  # odd sizes; channels for vectors of 16, of 8, and alone


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler on this machine, and the kernels are optional")
    path = native.build(tmp_path_factory.mktemp("native"))
    native._load(path)
    return path


@functools.partial(jax.jit, static_argnums=2)
def convolution(x: Array, kernel: Array, stride: int) -> Array:
    k = kernel.shape[0]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(k // 2, k // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def close(a: Array, b: Array) -> None:
    # Float32 sums of up to 189 products in another order; the last term is for all zeros.
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * float(jnp.max(jnp.abs(b))) + 1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", native.KERNELS)
def test_same_as_xla(built: pathlib.Path, shape: tuple[int, ...], stride: int, k: int) -> None:
    keys = jax.random.split(jax.random.key(k), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (k, k, 1, shape[-1]))
    expected, back = jax.vjp(lambda x, w: convolution(x, w, stride), x, kernel)
    got, native_back = jax.vjp(lambda x, w: native.depthwise(x, w, stride), x, kernel)
    close(got, expected)
    gradient = jax.random.normal(keys[2], expected.shape)
    for mine, other in zip(native_back(gradient), back(gradient), strict=True):
        close(mine, other)


def test_same_bits_every_time(built: pathlib.Path) -> None:
    # Threads take images as they come; the order of sums must not depend on them.
    x = jax.random.normal(jax.random.key(0), (40, 8, 8, 48))
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 1, 48))
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(native.depthwise(x, w, 1) ** 2)))
    first = np.asarray(gradient(kernel))
    for _ in range(10):
        np.testing.assert_array_equal(gradient(kernel), first)


def test_vmap(built: pathlib.Path) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 8))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 1, 8))
    got = jax.vmap(lambda x, w: native.depthwise(x, w, 2))(x, kernels)
    expected = jnp.stack([convolution(a, w, 2) for a, w in zip(x, kernels, strict=True)])
    close(got, expected)


def test_refuses_what_does_not_fit(built: pathlib.Path) -> None:
    x = jnp.zeros((1, 4, 4, 8))
    with pytest.raises(Exception, match="do not belong together"):
        jax.block_until_ready(native.depthwise(x, jnp.zeros((3, 3, 1, 16)), 1))
    with pytest.raises(Exception, match="kernel of 1 to 7"):
        jax.block_until_ready(native.depthwise(x, jnp.zeros((9, 9, 1, 8)), 1))


def test_when_it_is_used(built: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = jnp.zeros((1, 4, 4, 8)), jnp.zeros((3, 3, 1, 8))
    monkeypatch.setattr(native, "library", lambda: built)
    assert not native.takes(x, kernel)  # eight devices
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert native.takes(x, kernel)
    assert not native.takes(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert not native.takes(x, jnp.zeros((9, 9, 1, 8)))
    monkeypatch.setattr(native, "library", lambda: built.with_name("none.so"))
    assert not native.takes(x, kernel)
    monkeypatch.setattr(native, "library", lambda: built)
    monkeypatch.setenv(native.SWITCH, "0")
    assert not native.takes(x, kernel)


def test_no_compiler(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"no-such-compiler.*CXX"):
        native.build(tmp_path)
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match="cannot compile"):
        native.build(tmp_path)
    assert list(tmp_path.iterdir()) == []
