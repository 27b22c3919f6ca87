"""The layers: published goldens, and XLA's own convolution."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import norm_reference
import numpy as np
import pytest
import reference
from jax import lax

from supernet_jax.nn import batch_norm, depthwise, layers, resize, squeeze_excite
from supernet_jax.spaces import mobilenet

GOLDEN = reference.golden("attentivenas")["misc_goldens"]
SUMS = 1e-5  # float32 sums in another order
KEY = jax.random.key(0)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def apply(layer: nn.Module, params: Any, x: Any, **variables: Any) -> Any:
    """What a layer returns, and its moments."""
    key = variables.pop("key", None)
    return layer.apply(
        {"params": params, **variables},
        x,
        rngs=None if key is None else {"dropout": key},
        mutable=["moments"],
    )


# ---------------------------------------------------------------------------- resizing


@pytest.mark.parametrize("name", ["bicubic_4to6", "bicubic_4to3", "bicubic_4to7"])
def test_published_bicubic(name: str) -> None:
    source = np.asarray(GOLDEN[name]["input"], np.float32)
    wanted = np.asarray(GOLDEN[name]["output"], np.float32)
    # Two images and two channels, each of which must be resized for itself.
    planes = np.stack([source, 2 * source + 1, -source, source.T], -1).reshape(4, 4, 2, 2)
    found = resize.resize_bicubic(jnp.asarray(planes.transpose(2, 0, 1, 3)), len(wanted))
    for plane, target in (
        (found[0, ..., 0], wanted),
        (found[0, ..., 1], 2 * wanted + 1),
        (found[1, ..., 0], -wanted),
        (found[1, ..., 1], wanted.T),
    ):
        # Twice four products in float32: a few roundings of the largest value, 6e-8 each.
        np.testing.assert_allclose(plane, target, rtol=0, atol=1e-6 * np.abs(target).max())


def test_an_image_of_the_right_size_is_not_touched() -> None:
    x = jnp.asarray(normal(1, 5, 5, 2))
    assert resize.resize_bicubic(x, 5) is x
    oblong = resize.resize_bicubic(jnp.asarray(normal(1, 5, 7, 2)), 5)
    assert oblong.shape == (1, 5, 5, 2)


# ---------------------------------------------------------------------------- widths


def test_published_divisors() -> None:
    for value, wanted in GOLDEN["make_divisible_8"].items():
        assert mobilenet.make_divisible(float(value)) == wanted, value


def test_published_squeeze_widths() -> None:
    for middle, reduced in GOLDEN["se_mid"].items():
        assert mobilenet.make_divisible(int(middle) // 4) == reduced, middle


# ---------------------------------------------------------------------------- normalisation


def bn_batches() -> list[np.ndarray]:
    """The batches of the published golden, images of channels first."""
    grid = 0.7 * np.arange(24).reshape(2, 3, 2, 2)
    return [(np.sin(grid + k) * (k + 1)).transpose(0, 2, 3, 1) for k in range(3)]


def test_published_calibration() -> None:
    norm = layers.BatchNorm()
    params = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    moments = [apply(norm, params, jnp.asarray(x, jnp.float32))[1]["moments"] for x in bn_batches()]
    golden = GOLDEN["bn_cumulative"]
    for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
        np.testing.assert_allclose(
            np.mean([m[ours] for m in moments], 0), golden[theirs], rtol=1e-6, atol=1e-7
        )


def test_batch_norm_normalises_with_the_biased_variance() -> None:
    x, scale, bias = 3 * normal(2, 3, 3, 4) + 1, normal(4, seed=1), normal(4, seed=2)
    y, updated = apply(layers.BatchNorm(), {"scale": scale, "bias": bias}, jnp.asarray(x))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=SUMS)
    np.testing.assert_allclose(updated["moments"]["var"], var * 18 / 17, rtol=SUMS)
    np.testing.assert_allclose(updated["moments"]["mean"], mean, rtol=SUMS)


def test_batch_norm_uses_given_statistics_and_returns_none() -> None:
    x, scale, bias = normal(2, 3, 3, 4), normal(4, seed=1), normal(4, seed=2)
    stats = {"mean": normal(4, seed=3), "var": normal(4, seed=4) ** 2}
    y, updated = apply(layers.BatchNorm(), {"scale": scale, "bias": bias}, x, stats=stats)
    wanted = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * scale + bias
    np.testing.assert_allclose(y, wanted, rtol=SUMS, atol=SUMS)
    assert not updated


def test_batch_norm_of_bfloat16_keeps_float32_statistics() -> None:
    # A mean of 1,000 leaves bfloat16 no digit for the spread; float32 statistics must see it.
    x = jnp.asarray(1000 + 8 * np.sign(normal(4, 4, 4, 2)), jnp.bfloat16)
    y, updated = apply(layers.BatchNorm(), {"scale": jnp.ones(2), "bias": jnp.zeros(2)}, x)
    assert y.dtype == jnp.bfloat16
    assert updated["moments"]["var"].dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    wanted = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(np.asarray(y, np.float32), wanted, atol=0.01)


def test_one_value_per_channel_has_finite_statistics() -> None:
    _, updated = apply(
        layers.BatchNorm(), {"scale": jnp.ones(2), "bias": jnp.zeros(2)}, jnp.ones((1, 1, 1, 2))
    )
    assert np.isfinite(updated["moments"]["var"]).all()


@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("shape", norm_reference.SHAPES)
def test_batch_norm_and_its_gradients(shape: tuple[int, ...], swish: bool) -> None:
    norm_reference.check_by_batch(shape, swish)


@pytest.mark.parametrize("swish", [False, True])
def test_norm_by_given_statistics_and_its_gradients(swish: bool) -> None:
    norm_reference.check_given((3, 9, 7, 25), swish)


def test_moments_of_a_large_mean() -> None:
    norm_reference.check_moments()


def test_gradient_of_bfloat16_norm() -> None:
    inputs = norm_reference.operands((3, 9, 7, 25))[:3]
    x, scale, bias = (jnp.asarray(a, jnp.bfloat16) for a in inputs)
    own = functools.partial(batch_norm.batch_norm, swish=True)
    outputs, back = jax.vjp(own, x, scale, bias)
    gradient = norm_reference.cotangents(outputs)
    exact = norm_reference.in_float64(
        functools.partial(norm_reference.by_batch, swish=True), (x, scale, bias), gradient
    )
    found = (outputs, back(gradient))
    assert [a.dtype for a in found[1]] == [jnp.bfloat16] * 3
    # The last place of bfloat16 is 2^-8; y is rounded before and after swish.
    norm_reference.close(found, exact, 3 * 2**-8)


def test_norm_with_swish_is_swish_of_norm() -> None:
    x, scale, bias, mean, variance = norm_reference.operands((2, 3, 3, 8))
    params, stats = {"scale": scale, "bias": bias}, {"mean": mean, "var": variance}
    for given in ({}, {"stats": stats}):
        y, moments = apply(layers.BatchNorm(), params, x, **given)
        swished, same = apply(layers.BatchNorm(swish=True), params, x, **given)
        np.testing.assert_array_equal(swished, nn.swish(y))
        jax.tree.map(np.testing.assert_array_equal, moments, same)


def test_norm_in_vmap() -> None:
    x, scale, bias = (np.stack([a, 2 * a]) for a in norm_reference.operands((2, 3, 3, 8))[:3])
    own = functools.partial(batch_norm.batch_norm, swish=True)

    def loss(x: Any, scale: Any, bias: Any) -> Any:
        y, (mean, variance) = own(x, scale, bias)
        return jnp.sum(y**2) + jnp.sum(mean * variance)

    found = jax.vmap(jax.grad(loss, (0, 1, 2)))(x, scale, bias)
    each = [jax.grad(loss, (0, 1, 2))(*args) for args in zip(x, scale, bias, strict=True)]
    for a, *b in zip(found, *each, strict=True):
        np.testing.assert_allclose(a, np.stack(b), rtol=SUMS, atol=SUMS)


@pytest.mark.parametrize(("zero", "start"), [(True, 0.0), (False, 1.0)])
def test_where_a_norm_starts(zero: bool, start: float) -> None:
    params = layers.BatchNorm(zero_scale=zero).init(KEY, jnp.ones((1, 2, 2, 3)))["params"]
    np.testing.assert_array_equal(params["scale"], np.full(3, start))
    np.testing.assert_array_equal(params["bias"], np.zeros(3))


# ---------------------------------------------------------------------------- convolutions


def convolution(x: Any, kernel: Any, stride: int, groups: int = 1) -> Any:
    half = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(half, half)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def by_torch_rule(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A depthwise convolution written out: pad k // 2 on each side, then every `stride`-th."""
    k = len(kernel)
    padded = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)))
    rows, columns = ((n + 2 * (k // 2) - k) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, x.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.sum(window * kernel[:, :, 0], (1, 2))
    return y


# Kernels larger than the image, odd, even and oblong images.
DEPTHWISE = [
    (k, stride, size)
    for k in (1, 3, 5, 7)
    for stride in (1, 2)
    for size in ((6, 6), (7, 5), (2, 3))
]


@pytest.mark.parametrize(("k", "stride", "size"), DEPTHWISE)
def test_depthwise_and_both_gradients(k: int, stride: int, size: tuple[int, int]) -> None:
    x, kernel = normal(2, *size, 3), normal(k, k, 1, 3, seed=1)

    @jax.jit
    def both(x: Any, kernel: Any, weights: Any) -> Any:
        def ours(x: Any, kernel: Any) -> Any:
            return depthwise.depthwise(x, kernel, stride)

        def theirs(x: Any, kernel: Any) -> Any:
            return convolution(x, kernel, stride, groups=3)

        pulled = []
        for function in (ours, theirs):
            y, pull = jax.vjp(function, x, kernel)
            pulled.append((y, *pull(weights)))
        return pulled

    shape = (2, -(-size[0] // stride), -(-size[1] // stride), 3)
    ours, theirs = both(x, kernel, normal(*shape, seed=2))
    np.testing.assert_allclose(ours[0], by_torch_rule(x, kernel, stride), atol=SUMS)
    for a, b in zip(ours, theirs, strict=True):  # value, gradients of image and kernel
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=SUMS * float(np.abs(b).max()))


@pytest.mark.parametrize(("k", "stride", "size"), [(3, 1, (7, 4)), (5, 1, (4, 6)), (5, 2, (7, 6))])
def test_dilated_depthwise(k: int, stride: int, size: tuple[int, int]) -> None:
    """Against XLA's own convolution with holes, and its gradients."""
    x, kernel = normal(2, *size, 3), normal(k, k, 1, 3, seed=1)

    def theirs(x: Any, kernel: Any) -> Any:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(2 * (k // 2),) * 2] * 2,
            rhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    @jax.jit
    def both(x: Any, kernel: Any) -> Any:
        ours = lambda x, kernel: depthwise.dilated(x, kernel, stride, 2)  # noqa: E731
        pulled = [jax.vjp(function, x, kernel) for function in (ours, theirs)]
        return [(y, *pull(jnp.cos(pulled[1][0]))) for y, pull in pulled]

    for one, other in zip(*both(x, kernel), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=SUMS * np.abs(other).max())


def test_depthwise_on_cpu_is_not_xlas_convolution() -> None:
    # Both ways of computing it are compared above only if they are two.
    def lowered(platform: str) -> str:
        run = jax.jit(functools.partial(depthwise.depthwise, stride=2))
        arguments = normal(1, 4, 4, 2), normal(3, 3, 1, 2)
        return run.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()

    assert "stablehlo.convolution" not in lowered("cpu")
    assert "stablehlo.convolution" in lowered("cuda")


def test_depthwise_in_bfloat16() -> None:
    x, kernel = normal(2, 6, 6, 3), normal(3, 3, 1, 3, seed=1)
    half = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
    y, pull = jax.vjp(lambda x, w: depthwise.depthwise(x, w, 1), half(x), half(kernel))
    gradients = pull(jnp.ones_like(y))
    assert {a.dtype for a in (y, *gradients)} == {jnp.dtype(jnp.bfloat16)}
    exact = by_torch_rule(x, kernel, 1)
    # 9 products and sums of 8 bits: 0.4 % of the largest value each at worst.
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=0.04 * np.abs(exact).max())


@pytest.mark.parametrize(("k", "stride", "size"), [(3, 1, 6), (3, 2, 6), (3, 2, 5), (5, 2, 4)])
def test_dense_convolution(k: int, stride: int, size: int) -> None:
    x, kernel = normal(2, size, size, 3), normal(k, k, 3, 4, seed=1)
    y, _ = apply(layers.Conv(4, k, stride), {"kernel": kernel}, x)
    wanted = convolution(x, kernel, stride)
    np.testing.assert_allclose(y, wanted, atol=SUMS * float(jnp.abs(wanted).max()))


def test_pointwise_and_dense() -> None:
    x, kernel, bias = normal(2, 3, 3, 5), normal(1, 1, 5, 4, seed=1), normal(4, seed=2)
    y, _ = apply(layers.Pointwise(4, bias=True), {"kernel": kernel, "bias": bias}, x)
    np.testing.assert_allclose(y, x @ kernel[0, 0] + bias, atol=SUMS)
    y, _ = apply(layers.Dense(4), {"kernel": kernel[0, 0], "bias": bias}, x[:, 0, 0])
    np.testing.assert_allclose(y, x[:, 0, 0] @ kernel[0, 0] + bias, atol=SUMS)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (layers.Conv(64, 3), 9 * 16),
        (layers.Pointwise(64, bias=True), 16),
        (layers.Depthwise(5), 25),  # of a depthwise kernel: its own taps alone
        (layers.Dense(64), 16),
    ],
)
def test_parameters_start_as_published(layer: nn.Module, fan_in: int) -> None:
    bound = fan_in**-0.5
    for leaf in jax.tree.leaves(layer.init(KEY, jnp.ones((1, 2, 2, 16)))["params"]):
        assert np.abs(leaf).max() <= bound
        # Of 64 or more uniform draws the largest falls below 0.9 once in a thousand seeds.
        assert np.abs(leaf).max() > 0.9 * bound and np.min(leaf) < 0 < np.max(leaf)


# ---------------------------------------------------------------------------- pooling, squeezing


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (3, 7), (1, 1)])
def test_average_pool(size: tuple[int, int]) -> None:
    x = normal(2, *size, 3)
    y = resize.average_pool(jnp.asarray(x), 2)
    assert y.shape == (2, -(-size[0] // 2), -(-size[1] // 2), 3)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):  # an incomplete last window is the mean of what it covers
            window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_allclose(y[:, i, j], window.mean((1, 2)), atol=SUMS)


def test_a_convolution_with_a_bias_adds_it() -> None:
    x, params = normal(2, 5, 5, 3), {"kernel": normal(3, 3, 3, 4, seed=1)}
    bias = normal(4, seed=2)
    plain, _ = apply(layers.Conv(4, 3, 2), params, x)
    found, _ = apply(layers.Conv(4, 3, 2, bias=True), {**params, "bias": bias}, x)
    np.testing.assert_allclose(found, np.asarray(plain) + bias, atol=SUMS)


def test_squeeze_and_excitation() -> None:
    x = normal(2, 3, 3, 4)
    params = {
        "reduce": {"kernel": normal(1, 1, 4, 2, seed=1), "bias": normal(2, seed=2)},
        "expand": {"kernel": 9 * normal(1, 1, 2, 4, seed=3), "bias": normal(4, seed=4)},
    }
    y, _ = apply(layers.SqueezeExcite(2), params, x)
    reduce, expand = params["reduce"], params["expand"]
    hidden = np.maximum(x.mean((1, 2)) @ reduce["kernel"][0, 0] + reduce["bias"], 0)
    raw = hidden @ expand["kernel"][0, 0] + expand["bias"]
    gate = np.clip((raw + 3) / 6, 0, 1)  # hard sigmoid
    assert (gate == 0).any() and ((gate > 0) & (gate < 1)).any(), "both ends must be seen"
    np.testing.assert_allclose(y, x * gate[:, None, None], atol=SUMS)


def excited(x: jax.Array, w: squeeze_excite.Excite) -> jax.Array:
    hidden = jax.nn.relu(x.mean((1, 2)) @ w.reduce + w.reduce_bias[None])
    return x * jax.nn.hard_sigmoid(hidden @ w.excite + w.excite_bias[None])[:, None, None]


# A gradient goes through some ten roundings, of 6e-8 in float32 and 0.4 % in bfloat16.
@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.04)])
def test_gradient_of_squeeze_and_excitation(dtype: Any, bound: float, corner: bool) -> None:
    x, g = normal(3, 2, 5, 4, 6), normal(3, 2, 5, 4, 6, seed=1)
    w = squeeze_excite.Excite(
        normal(3, 6, 4, seed=2), normal(3, 4, seed=3), 4 * normal(3, 4, 6, seed=4), normal(3, 6)
    )
    if corner:  # hidden values of 0, and gates that have just come to their ends
        w = w._replace(reduce=0 * w.reduce, reduce_bias=0 * w.reduce_bias)
        w = w._replace(excite_bias=np.tile(np.float32([3, -3, 0]), (3, 2)))
    x, w, g = jax.tree.map(lambda v: jnp.asarray(v, dtype), (x, w, g))

    def gradients(function: Any) -> Any:
        return jax.vmap(lambda x, w, g: jax.vjp(function, x, w)[1](g))(x, w, g)

    own, expected = gradients(squeeze_excite.squeeze_excite), gradients(excited)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=bound * max(1, abs(b).max()))


def test_pad_channels() -> None:
    x = normal(2, 3, 4)
    padded = resize.pad_channels(jnp.asarray(x), 6)
    np.testing.assert_array_equal(padded, np.concatenate([x, np.zeros((2, 3, 2))], -1))
    assert resize.pad_channels(padded, 6) is padded


# ---------------------------------------------------------------------------- noise


def test_dropout_is_drawn_wide_and_cut() -> None:
    x = 1 + np.abs(normal(50, 40))
    narrow, wide = (
        np.asarray(apply(layers.Dropout(0.3, 40), {}, jnp.asarray(x[:, :n]), key=KEY)[0])
        for n in (24, 40)
    )
    np.testing.assert_array_equal(narrow, wide[:, :24])
    kept = wide != 0
    np.testing.assert_allclose(wide[kept], x[kept] / 0.7, rtol=1e-6)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.7 * 0.3 / kept.size)


def test_drop_path_drops_whole_samples() -> None:
    x = 1 + np.abs(normal(400, 3, 3, 2))
    y = np.asarray(apply(layers.DropPath(0.25), {}, jnp.asarray(x), key=KEY)[0])
    kept = y[:, 0, 0, 0] != 0
    np.testing.assert_array_equal(y[~kept], 0)
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert abs(kept.mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 400)


@pytest.mark.parametrize("make", [layers.DropPath, functools.partial(layers.Dropout, width=2)])
def test_noise_needs_a_key_and_a_rate(make: Any) -> None:
    x = jnp.asarray(normal(20, 3, 3, 2))
    assert apply(make(rate=0.5), {}, x)[0] is x
    assert apply(make(rate=0.0), {}, x, key=KEY)[0] is x
    assert not np.array_equal(apply(make(rate=0.5), {}, x, key=KEY)[0], x)
