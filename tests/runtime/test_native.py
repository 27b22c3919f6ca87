"""The compiled kernels give what XLA's convolution gives, and are used only where they can be."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import norm_reference
import numpy as np
import pytest
from jax import lax

from supernet_jax.nn import batch_norm, bottleneck, depthwise, separable
from supernet_jax.nn.blocks import mobilenet
from supernet_jax.runtime import native
from supernet_jax.runtime.native import build

Array = jax.Array
ROOT = pathlib.Path(__file__).parents[2]
WITHOUT = """
import jax.numpy as jnp
import supernet_jax
from supernet_jax.nn import depthwise
from supernet_jax.runtime import native
y = depthwise.depthwise(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), 1)
print(supernet_jax.__file__, native.available(), "ok" if y[0, 1, 1, 0] == 9 else y)
"""
SHAPES = [(3, 9, 7, 25)]  # odd sizes; channels for vectors of 16, of 8, and alone


@pytest.fixture(scope="module")
def built() -> None:
    if not build.LIBRARY.exists() and shutil.which("c++") is None:
        pytest.skip("installed without a C++ compiler, and the kernels are optional")
    assert native._load(), f"python {build.__file__} builds the kernels"


@pytest.fixture
def used(built: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers use them, as on a machine with one device."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


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
def test_same_as_xla(built: None, shape: tuple[int, ...], stride: int, k: int) -> None:
    keys = jax.random.split(jax.random.key(k), 3)
    x = jax.random.normal(keys[0], shape)
    kernel = jax.random.normal(keys[1], (k, k, 1, shape[-1]))
    expected, back = jax.vjp(lambda x, w: convolution(x, w, stride), x, kernel)
    got, native_back = jax.vjp(lambda x, w: native.depthwise(x, w, stride), x, kernel)
    close(got, expected)
    gradient = jax.random.normal(keys[2], expected.shape)
    for mine, other in zip(native_back(gradient), back(gradient), strict=True):
        close(mine, other)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("shape", norm_reference.SHAPES)
def test_norm(shape: tuple[int, ...], swish: bool) -> None:
    norm_reference.check_by_batch(shape, swish)
    norm_reference.check_given(shape, swish)


@pytest.mark.usefixtures("used")
def test_moments_of_a_large_mean() -> None:
    norm_reference.check_moments()


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("channels", [1, 8, 16])  # as many as a vector has
def test_swish_of_every_size(channels: int) -> None:
    # Factor 1 and bias 0, so that z is x. Beyond 87 exp(-z) or its inverse is no normal number.
    z = np.concatenate([np.linspace(-87, 87, 4001), 10.0 ** np.arange(-20, 1), [88, 200, 1e30]])
    x = jnp.repeat(jnp.asarray(z, jnp.float32)[:, None], channels, 1)
    zero, one = jnp.zeros(channels), jnp.ones(channels)
    swished = functools.partial(batch_norm.normalise, swish=True)
    y, back = jax.vjp(lambda x: swished(x, zero, one - batch_norm.EPSILON, one, zero), x)
    z = np.asarray(x, np.float64)
    s = 1 / (1 + np.exp(-z))
    # exp is good to two or three last places, 6e-8 each; rounding z * log2(e) adds as much.
    np.testing.assert_allclose(y, z * s, rtol=5e-7, atol=0)
    slope = s * (1 + z * (1 - s))  # it has a root at -1.28
    np.testing.assert_allclose(back(jnp.ones_like(x))[0], slope, rtol=5e-7, atol=5e-7)
    far = jnp.repeat(jnp.asarray([[np.nan], [np.inf], [-200.0], [-1e30]]), channels, 1)
    y = swished(far, zero, one, one, zero)
    assert np.isnan(y[0]).all() and (y[1] == np.inf).all()
    assert (abs(y[2]) < 1e-35).all() and (abs(y[3]) < 1e-5).all()


@functools.partial(jax.jit, static_argnums=3)
def norm_loss(x: Array, scale: Array, bias: Array, operations: batch_norm.Operations) -> Array:
    y, (mean, variance) = batch_norm._batch_norm(operations, True, x, scale, bias)
    return jnp.sum(y**2) + jnp.sum(mean * variance)


def test_same_bits_every_time(built: None) -> None:
    # Threads take images as they come; the order of sums must not depend on them.
    x = jax.random.normal(jax.random.key(0), (40, 8, 8, 48))
    kernel = jax.random.normal(jax.random.key(1), (5, 5, 1, 48))
    scale, bias = kernel[:2, 0, 0]
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(native.depthwise(x, w, 1) ** 2)))
    of_norm = jax.jit(jax.grad(norm_loss, (0, 1, 2)), static_argnums=3)
    first = np.asarray(gradient(kernel)), of_norm(x, scale, bias, batch_norm.COMPILED)
    for _ in range(10):
        np.testing.assert_array_equal(gradient(kernel), first[0])
        again = of_norm(x, scale, bias, batch_norm.COMPILED)
        jax.tree.map(np.testing.assert_array_equal, again, first[1])


def test_vmap(built: None) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 8))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 1, 8))
    got = jax.vmap(lambda x, w: native.depthwise(x, w, 2))(x, kernels)
    expected = jnp.stack([convolution(a, w, 2) for a, w in zip(x, kernels, strict=True)])
    close(got, expected)


def test_vmap_of_norm(built: None) -> None:
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 9))
    scale, bias = jax.random.normal(jax.random.key(1), (2, 3, 9))
    gradients = jax.vmap(jax.grad(norm_loss, (0, 1, 2)), (0, 0, 0, None))
    for a, b in zip(
        gradients(x, scale, bias, batch_norm.COMPILED),
        gradients(x, scale, bias, batch_norm.PLAIN),
        strict=True,
    ):
        close(a, b)


# Odd sizes, channels for whole vectors and for parts of one, fewer pixels than taps, several tasks.
SEPARABLE = [(3, 9, 7, 25), (1, 2, 3, 16), (1, 21, 20, 40), (37, 4, 4, 24)]


def affine(rng: np.random.Generator, channels: int) -> separable.Affine:
    return separable.Affine(*rng.normal(size=(2, channels)).astype(np.float32))


def separable_operands(shape: tuple[int, ...], k: int) -> tuple[Any, ...]:
    """x, scale and bias, kernel, scale and bias."""
    rng = np.random.default_rng(k)
    kernel = rng.normal(size=(k, k, 1, shape[-1])).astype(np.float32)
    x = 2 * rng.normal(size=shape).astype(np.float32) + np.float32(0.5)
    return x, affine(rng, shape[-1]), kernel, affine(rng, shape[-1])


def separable_reference(x: Any, before: Any, kernel: Any, after: Any, stride: int) -> Any:
    y, first = norm_reference.by_batch(x, *before, True)
    y, second = norm_reference.by_batch(convolution(y, kernel, stride), *after, True)
    return y, first, second


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", native.KERNELS)
def test_separable(k: int, stride: int) -> None:
    # Each shape with two kernels and both strides.
    shape = SEPARABLE[(native.KERNELS.index(k) + 2 * stride) % len(SEPARABLE)]
    operands = separable_operands(shape, k)
    outputs, kept = separable.forward(*jax.tree.map(jnp.asarray, operands), stride)
    gradient = norm_reference.cotangents(outputs)
    reference = functools.partial(separable_reference, stride=stride)
    exact = norm_reference.in_float64(jax.jit(reference), operands, gradient)
    # Where a channel hardly varies, the terms of the gradients are larger than they by this factor.
    steepness = max(1 / np.sqrt(variance.min() + 1e-5) for _, variance in exact[0][1:])
    found = outputs, separable.backward(kept, gradient, stride)
    norm_reference.close(found, exact, 1e-5 * max(1, steepness))


def bottleneck_operands(
    shape: tuple[int, ...], k: int, excite: bool
) -> tuple[Any, bottleneck.Weights]:
    """x and weights; `shape` is that of what the first matrix makes of x."""
    rng = np.random.default_rng(k)
    c, inputs, outputs, hidden = shape[-1], shape[-1] // 2 - 1, shape[-1] // 2 + 3, 7

    def normal(*sizes: int) -> Any:
        return (rng.normal(size=sizes) / np.sqrt(sizes[0])).astype(np.float32)

    x = 2 * rng.normal(size=(*shape[:-1], inputs)).astype(np.float32) + np.float32(0.5)
    gates = bottleneck.Excite(normal(c, hidden), normal(hidden), normal(hidden, c), 9 * normal(c))
    return x, bottleneck.Weights(
        normal(inputs, c),
        affine(rng, c),
        rng.normal(size=(k, k, 1, c)).astype(np.float32),
        affine(rng, c),
        gates if excite else None,
        normal(c, outputs),
        affine(rng, outputs),
    )


def bottleneck_reference(x: Any, w: bottleneck.Weights, stride: int) -> Any:
    y, first, second = separable_reference(x @ w.expand, w.before, w.kernel, w.after, stride)
    if w.excite is not None:
        hidden = jax.nn.relu(jnp.mean(y, (1, 2)) @ w.excite.reduce + w.excite.reduce_bias[None])
        gate = jax.nn.hard_sigmoid(hidden @ w.excite.excite + w.excite.excite_bias[None])
        y *= gate[:, None, None]
    y, last = norm_reference.by_batch(y @ w.project, *w.last, False)
    return y, (first, second, last)


# And one whose rows are projected in several parts that do not end where images do, and one whose
# images are split while squeeze-and-excite needs their means.
BOTTLENECKS = [*SEPARABLE, (9, 5, 5, 350), (2, 17, 5, 24)]


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("case", range(len(BOTTLENECKS)))
def test_bottleneck(case: int, stride: int) -> None:
    shape, excite = BOTTLENECKS[case], (case + stride) % 2 == 0
    k = native.KERNELS[(case + 2 * stride) % 4]
    x, w = jax.tree.map(jnp.asarray, bottleneck_operands(shape, k, excite))
    own = functools.partial(bottleneck.by_batch, stride=stride)
    reference = functools.partial(bottleneck_reference, stride=stride)
    outputs, back = jax.vjp(own, x, w)
    gradient = norm_reference.cotangents(outputs)
    exact = norm_reference.in_float64(jax.jit(reference), (x, w), gradient)
    steepness = max(1 / np.sqrt(variance.min() + 1e-5) for _, variance in exact[0][1])
    norm_reference.close((outputs, back(gradient)), exact, 1e-5 * max(1, steepness))
    for _ in range(3):  # where no gradient is taken; threads find the memory of the call before
        norm_reference.close(own(x, w), exact[0], 1e-5 * max(1, steepness))
    operands = x, w, jax.tree.map(lambda v: 1.5 * v, outputs[1])
    y, back = jax.vjp(functools.partial(bottleneck.given, stride=stride), *operands)
    plain, plain_back = jax.vjp(functools.partial(bottleneck.plain_given, stride=stride), *operands)
    gradient = norm_reference.cotangents(plain)
    norm_reference.close((y, back(gradient)), (plain, plain_back(gradient)), 1e-5)
    norm_reference.close(bottleneck.given(*operands, stride), plain, 1e-5)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(("inputs", "bound"), [("far from zero", 3e-6), ("alike", 1e-4)])
def test_moments_of_a_product_that_is_not_computed(inputs: str, bound: float) -> None:
    """They are exact for a large mean. Where channels of the input cancel out all but a 5000th of
    their variance, four digits are right.
    """
    x, weights = bottleneck_operands((20, 9, 9, 70), 3, False)
    matrix = weights.expand
    if inputs == "alike":
        x[..., 1] = x[..., 0] + np.float32(0.02) * x[..., 1]
        matrix[:] = 0
        matrix[0], matrix[1] = 1, -1
    else:
        x = x + np.float32(1000)
    _, ((mean, variance), _, _) = bottleneck.by_batch(x, weights, 1)
    product = x.astype(np.float64) @ matrix
    exact = product.mean((0, 1, 2)), product.var((0, 1, 2))
    norm_reference.close((mean, variance), exact, bound)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("channel", ["constant", "far from zero"])
def test_moments_of_what_the_convolution_gives(channel: str) -> None:
    """Of a channel that does not vary, and of one whose mean is 1000 times what it varies by."""
    x, w = bottleneck_operands((3, 20, 20, 40), 1, False)
    kernel = np.zeros_like(w.kernel) if channel == "constant" else w.kernel
    before = separable.Affine(w.before.scale, w.before.bias + np.float32(1000))
    w = w._replace(before=w.before if channel == "constant" else before, kernel=kernel)
    _, (_, (mean, variance), _) = bottleneck.by_batch(x, w, 1)
    y = x.astype(np.float64) @ w.expand
    z = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5) * w.before.scale + w.before.bias
    z = z / (1 + np.exp(-z)) * kernel[0, 0, 0]
    # Its values are rounded at a thousandth of what they vary by.
    norm_reference.close(mean, z.mean((0, 1, 2)), 1e-6)
    norm_reference.close(variance, z.var((0, 1, 2)), 1e-3)


@pytest.mark.usefixtures("used")
def test_moments_of_an_image_whose_first_rows_are_unlike_the_rest() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 112, 112, 16)).astype(np.float32)
    y[:, :4] += np.float32(1000)
    x, affine = jnp.asarray(y), separable.Affine(jnp.ones(16), jnp.zeros(16))
    (_, first, second), _ = separable.forward(x, affine, jnp.ones((1, 1, 1, 16)), affine, 1)
    z = (y - y.mean((0, 1, 2), np.float64)) / np.sqrt(y.var((0, 1, 2), np.float64) + 1e-5)
    z = z / (1 + np.exp(-z))
    for (mean, variance), exact in ((first, y), (second, z)):
        spread = exact.std((0, 1, 2), np.float64)
        np.testing.assert_array_less(abs(mean - exact.mean((0, 1, 2), np.float64)), 1e-6 * spread)
        np.testing.assert_allclose(variance, spread**2, rtol=1e-6)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("excite", [False, True])
def test_what_is_no_number_stays_so(excite: bool) -> None:
    x, w = bottleneck_operands((6, 5, 5, 24), 3, excite)
    x[1, 2, 2, 3] = np.nan
    y, moments = bottleneck.by_batch(x, w, 1)
    assert all(np.isnan(found).all() for found in jax.tree.leaves((y, moments)))
    rest = jax.tree.map(jnp.ones_like, moments)
    y = np.isnan(bottleneck.given(x, w, rest, 1)).any(-1)
    assert y[1, 2, 2] and not y[[0, 2, 3, 4, 5]].any()


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("excite", [False, True])
def test_bottleneck_same_bits_every_time_and_under_vmap(excite: bool) -> None:
    x, w = jax.tree.map(jnp.asarray, bottleneck_operands((40, 8, 8, 48), 5, excite))

    def loss(x: Array, w: bottleneck.Weights) -> Array:
        y, ((mean, _), (_, variance), _) = bottleneck.by_batch(x, w, 1)
        return jnp.sum(y**2) + jnp.sum(mean * variance)

    @jax.jit
    def run(x: Array, w: bottleneck.Weights) -> Any:
        return loss(x, w), jax.grad(loss, (0, 1))(x, w)

    first = run(x, w)
    for _ in range(10):
        jax.tree.map(np.testing.assert_array_equal, run(x, w), first)
    # XLA's products of squeeze-and-excite, which only the gradient has, are others under vmap.
    alike = jax.jit(loss) if excite else run
    both = jax.vmap(alike, (0, None))(jnp.stack([x, x + 1]), w)
    expected = jax.tree.map(lambda a, b: jnp.stack([a, b]), alike(x, w), alike(x + 1, w))
    jax.tree.map(np.testing.assert_array_equal, both, expected)


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(("expand", "reduced"), [(True, 8), (True, 0), (False, 8)])
def test_a_block_is_the_same_with_it(
    expand: bool, reduced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same parameters and statistics, by the same names, and the same values and gradients."""
    middle = 24 if expand else 8
    spec = mobilenet.MBConvSpec(8, 16, middle, 5, 2, expand, reduced, mobilenet.CONV)
    block, x = mobilenet.MBConv(spec), jax.random.normal(jax.random.key(0), (4, 9, 9, 8))

    def run() -> Any:
        jax.clear_caches()  # what is traced depends on what is patched

        def loss(params: Any, x: Array) -> Any:
            y, updated = block.apply({"params": params}, x, mutable=["moments"])
            return jnp.sum(y**2), (y, updated)

        variables = block.init(jax.random.key(1), x)
        # The last scale starts at 0.
        params = jax.tree.map(
            lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape), variables["params"]
        )
        (_, (y, updated)), gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        statistics = {"params": params, "stats": updated["moments"]}
        scored = block.apply(statistics, x + 1)
        return variables["moments"], y, updated, gradient, scored

    def program() -> str:
        return str(jax.make_jaxpr(lambda: run())())

    assert ("supernet_separable" in program()) == expand
    assert ("supernet_bottleneck" in program()) == expand
    found = run()
    monkeypatch.setattr(bottleneck, "takes", lambda *_: False)
    assert "supernet_separable" not in program() and "supernet_bottleneck" not in program()
    expected = run()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    norm_reference.close(found, expected, 1e-5)


@pytest.mark.usefixtures("used")
def test_an_empty_batch() -> None:
    """A block gives an empty output, and gradients of its parameters' shapes."""
    block = mobilenet.MBConv(mobilenet.MBConvSpec(8, 16, 24, 5, 2, True, 8, mobilenet.CONV))
    empty, some = jnp.zeros((0, 9, 9, 8)), jnp.zeros((1, 9, 9, 8))
    variables = block.init(jax.random.key(0), some)

    def loss(params: Any, x: Array) -> Any:
        y, _ = block.apply({"params": params}, x, mutable=["moments"])
        return jnp.sum(y), y

    (total, y), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"], empty)
    assert total == 0 and y.shape == (0, 5, 5, 16)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, variables["params"])
    kernel = gradient["depthwise"]["kernel"]
    np.testing.assert_array_equal(kernel, jnp.zeros_like(kernel))
    scored = block.apply({"params": variables["params"], "stats": variables["moments"]}, empty)
    assert scored.shape == y.shape
    with pytest.raises(Exception, match="an empty batch"):  # not a division by zero
        row = jnp.zeros(8)
        operands = (empty, row, row, jnp.zeros((3, 3, 1, 8)), row, row)
        how = {"stride": 1, "epsilon": np.float32(1e-5)}
        jax.block_until_ready(native.separable_batch(*operands, **how))


@pytest.mark.usefixtures("used")
def test_the_same_where_there_are_other_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 9))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 9))
    scale, bias = kernel[:2, 0, 0]

    def loss(x: Array, kernel: Array, scale: Array, bias: Array) -> Array:
        y, (mean, _) = batch_norm.batch_norm(
            depthwise.depthwise(x, kernel, 1), scale, bias, swish=True
        )
        z = batch_norm.normalise(y, mean, jnp.ones(9), scale, bias, swish=False)
        return jnp.sum(z**2)

    def program() -> tuple[str, Any]:
        gradient = jax.grad(lambda *given: loss(*given), (0, 1, 2, 3))
        made = jax.make_jaxpr(gradient)(x, kernel, scale, bias)
        return str(made), jax.jit(gradient)(x, kernel, scale, bias)

    alone, expected = program()
    monkeypatch.setattr(native, "only_cpu", lambda: False)
    among, found = program()
    assert "platform_index" in among and "platform_index" not in alone
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def test_refuses_what_does_not_fit(built: None) -> None:
    x = jnp.zeros((1, 4, 4, 8))
    with pytest.raises(Exception, match="do not belong together"):
        jax.block_until_ready(native.depthwise(x, jnp.zeros((3, 3, 1, 16)), 1))
    with pytest.raises(Exception, match="kernel of 1 to 7"):
        jax.block_until_ready(native.depthwise(x, jnp.zeros((9, 9, 1, 8)), 1))
    row, how = jnp.zeros(8), {"stride": 1, "epsilon": np.float32(1e-5)}
    kernel = jnp.zeros((3, 3, 1, 8))
    for rows, w, message in (((jnp.zeros(9), row), kernel, "vectors of"), ((row, row), x, "needs")):
        with pytest.raises(Exception, match=message):
            operands = (x, *rows, w, row, row)
            jax.block_until_ready(native.separable_batch(*operands, **how))
    fits = jnp.zeros((8, 8))
    for expand, excite, project, last, message in (
        (jnp.zeros((7, 8)), fits, fits, row, "a matrix"),
        (jnp.zeros((8, 9)), fits, fits, row, "do not belong"),
        (fits, jnp.zeros((8, 9)), fits, row, "do not belong"),
        (fits, fits, jnp.zeros((9, 8)), row, "do not belong"),
        (fits, fits, fits, jnp.zeros(9), "of the output"),
    ):
        with pytest.raises(Exception, match=message):
            gates = (excite, row, fits, row)
            operands = (x, expand, row, row, kernel, row, row, *gates, project, last, row)
            jax.block_until_ready(native.bottleneck_batch(*operands, **how))
    with pytest.raises(Exception, match="vectors of"):
        jax.block_until_ready(batch_norm.COMPILED.given(x, *[jnp.zeros(9)] * 4, swish=True))
    with pytest.raises(Exception, match="vectors of"):
        jax.block_until_ready(batch_norm.COMPILED.batch(x, *[jnp.zeros(9)] * 2, swish=True))


@pytest.mark.usefixtures("built")
def test_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = jnp.zeros((1, 4, 4, 8)), jnp.zeros((3, 3, 1, 8))

    def which(x: Array = x) -> tuple[bool, bool]:
        row = jnp.ones(8)
        program = jax.make_jaxpr(lambda x: batch_norm.normalise(x, row, row, row, row, swish=True))(
            x
        )
        assert ("supernet_norm" in str(program)) == native.takes_norm(x)
        return native.takes(x, kernel.astype(x.dtype)), native.takes_norm(x)

    assert which() == (False, False)  # which of the eight devices?
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert which() == (True, True)
    assert which(x.astype(jnp.bfloat16)) == (False, False)
    assert not native.takes(x, jnp.zeros((9, 9, 1, 8)))
    with native.aside():
        assert which() == (False, False)
    # What was traced before is not found where the kernels are left aside.
    jitted = jax.jit(lambda x: depthwise.depthwise(x, kernel, 1))
    texts = [jitted.lower(x).as_text()]
    with native.aside():
        texts.append(jitted.lower(x).as_text())
    assert ["supernet_depthwise" in text for text in texts] == [True, False]
    with monkeypatch.context() as patched:
        patched.setattr(jax, "default_backend", lambda: "gpu")
        assert which() == (False, False)
    assert native.handle() is not None
    monkeypatch.setenv(native.SWITCH, "0")
    assert which() == (False, False) and native.handle() is None


def for_another_processor(library: bytes) -> bytes:
    """The same library with the number of another processor in its header."""
    other = 62 if library[18] == 183 else 183  # x86-64 and ARM
    return library[:18] + bytes([other, 0]) + library[20:]


# What becomes of the file of a library, and what is said of it. Without a look at them first, the
# loader ends the process on the second to fourth.
FAULTY_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another processor": (
        for_another_processor,
        r"kernels.so was built for another processor \((ARM|x86-64); this one is \S+\); install",
    ),
    "half": (lambda all: all[: len(all) // 2], r"kernels.so is damaged, its end is missing; inst"),
    "a page": (lambda all: all[:4096], r"kernels.so is damaged, its end is missing; install"),
    "zeros from a page on": (
        lambda all: all[:4096] + bytes(len(all) - 4096),
        r"kernels.so is damaged, its end is missing; install",
    ),
    "empty": (lambda all: b"", r"kernels.so: file too short"),
    "no library": (lambda all: b"not found\n" * 99, r"kernels.so: invalid ELF header"),
}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of the form that Linux' libraries have")


@pytest.fixture
def loaded_anew(used: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the library is forgotten for one test."""
    for cached in ("_load", "_library"):
        fresh = functools.cache(getattr(native, cached).__wrapped__)
        monkeypatch.setattr(native, cached, fresh)


def layers_are_right() -> None:
    x, w = bottleneck_operands((2, 5, 4, 9), 3, True)
    plain = bottleneck_reference(x, w, 1)
    norm_reference.close(bottleneck.by_batch(x, w, 1), plain, 1e-5)


@LINUX
@pytest.mark.usefixtures("loaded_anew")
@pytest.mark.parametrize("fault", FAULTY_FILES)
def test_a_file_that_is_no_library_for_this_machine(
    fault: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It is left aside, with one line, and once; layers go on."""
    made, said = FAULTY_FILES[fault]
    (tmp_path / "kernels.so").write_bytes(made(build.LIBRARY.read_bytes()))
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    assert not native.available() and not native.available() and native.handle() is None
    (message,) = caplog.messages
    assert re.search(said, message) and "\n" not in message
    layers_are_right()


@pytest.mark.usefixtures("loaded_anew")
@pytest.mark.parametrize("fault", ["absent", "other sources", "other interface"])
def test_a_library_that_cannot_be_used(
    fault: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It is left aside, with one line, and once; layers go on."""
    said = {
        "other sources": r"kernels.so was built from other sources; install",
        "other interface": r"API version \(0.3\) is incompatible .* version \(0.0\)",
    }

    def refuse(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError(
            "INVALID_ARGUMENT: the handler's API version (0.3) is incompatible with the "
            "framework's API version (0.0)."
        )

    if fault == "absent":
        monkeypatch.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    elif fault == "other sources":
        monkeypatch.setattr(build, "digest", lambda: "another")
    else:
        monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    assert not native.available() and not native.available()
    assert (native.handle() is None) == (fault != "other interface")
    assert len(caplog.messages) == (fault in said)
    assert re.search(said.get(fault, "^$"), caplog.text)
    layers_are_right()


@pytest.mark.usefixtures("built")
@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("objdump") is None,
    reason="only x86-64 has several instruction sets, and objdump, of binutils, reads them",
)
def test_vectors_are_in_functions_that_are_chosen_when_they_run() -> None:
    """A processor without AVX-512, or without AVX2, meets none of their instructions."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(build.LIBRARY)]
    disassembled = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    users: dict[str, set[str]] = {"%zmm": set(), "%ymm": set()}
    for function in re.split(r"^[0-9a-f]+ <", disassembled, flags=re.M)[1:]:
        name = function.partition(">:\n")[0]
        for register, found in users.items():
            if register in function:
                found.add(name)
    chosen = {"%zmm": r"\bavx512::", "%ymm": r"\bavx(512|2)::|\b(ResizeRow|SumRows)<"}
    for register, names in users.items():
        assert [name for name in names if not re.search(chosen[register], name)] == []
    if any("avx512::" in name for name in disassembled.splitlines()):  # GCC; Clang makes one set
        assert all(users.values())


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("/nonexistent", r"there is no C\+\+ compiler '/nonexistent' \(No such file.*CXX"),
        ("false", r"false cannot compile \S+ \(exit status 1\); .*CXX"),
        (
            "sh -c 'echo in file >&2; echo an error: of many >&2; exit 1'",
            r"cannot compile \S+ \(an error: of many\); name another compiler .*CXX",
        ),
    ],
)
def test_no_compiler(
    compiler: str, why: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(RuntimeError, match=why):
        build.build(tmp_path / "kernels.so")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    int(importlib.metadata.version("setuptools").split(".")[0]) < 77,
    reason="pyproject.toml builds with a later setuptools",
)
def test_a_package_without_kernels(tmp_path: pathlib.Path) -> None:
    """What an installation does where there is no compiler, and what is installed."""
    source = tmp_path / "source"
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "supernet_jax", source / "supernet_jax", ignore=ignored)
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build", "-b", str(tmp_path)]
    surroundings = {**os.environ, "CXX": "/nonexistent"}
    done = subprocess.run(command, cwd=source, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "kernels" in line)
    assert line.startswith("supernet_jax is built without its compiled kernels: there is no C++")
    (package,) = tmp_path.glob("lib*/supernet_jax")
    assert not list(package.rglob("*.so"))
    surroundings |= {"PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.stdout.split() == [str(package / "__init__.py"), "False", "ok"], done.stderr
    if sys.platform != "linux" or not build.LIBRARY.exists():
        return
    # The same with a library of another processor, of which there is only a beginning.
    planted = for_another_processor(build.LIBRARY.read_bytes())[:9000]
    (package / "runtime/native/kernels.so").write_bytes(planted)
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[1:] == ["False", "ok"], done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "kernels" in line)
    assert line.startswith("going on without compiled kernels: ") and "another processor" in line
