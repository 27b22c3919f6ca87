"""The ordinary Flax layers that blocks are made of. They know nothing of supernets.

Images are `[B, H, W, C]`, float. Padding is symmetric, `kernel // 2` on each side (Flax's SAME is
not at stride 2). Parameters start as PyTorch starts them, which most published recipes assume; a
layer with a `start` draws its kernel from that instead, and its bias starts at 0.

What variables are given decides what a layer does, so nothing needs a `train` flag:

- `BatchNorm` uses the statistics in the collection `stats` if it is there. Otherwise it uses those
  of the batch, and returns them (unbiased variance) in the collection `moments`.
- `Dropout` and `DropPath` act only where a `dropout` key is given.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from supernet_jax import native, norm, versions
from supernet_jax.description import SHAPES_ONLY

versions.check()  # whoever imports a layer, and so all but the reading of files

Array = jax.Array
Initializer = Callable[..., Array]


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's default for kernels and biases: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


# Normal of variance 2 / (k * k * C_out) (He et al. 2015, arXiv 1502.01852, equation 14); depthwise
# kernels too, as Once-for-All's code counts.
HE_FAN_OUT: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _parameter(
    layer: nn.Module,
    name: str,
    fan_in: int,
    shape: tuple[int, ...],
    start: Initializer | None = None,
) -> Array:
    """As `layer.param`, which traces an initialiser even where its shape is all that counts."""
    if layer.has_variable("params", name):
        value: Array = layer.get_variable("params", name)
        if jnp.shape(value) == shape:
            return value
    elif layer.has_rng(SHAPES_ONLY):
        layer.put_variable("params", name, lax.full(shape, 0, jnp.float32))
        return layer.get_variable("params", name)
    return layer.param(name, uniform_fan_in(fan_in) if start is None else start, shape)


class Conv(nn.Module):
    """Dense convolution without bias, kernel `[k, k, C_in, C_out]`.

    Written as patches and one matrix product: as fast as the convolution on GPU for the few input
    channels of a stem, and several times faster on CPU.
    """

    features: int
    kernel: int
    stride: int = 1
    start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C_in]` -> `[B, ceil(H/stride), ceil(W/stride), features]`."""
        k, c = self.kernel, x.shape[-1]
        w = _parameter(self, "kernel", k * k * c, (k, k, c, self.features), self.start)
        patches = jnp.concatenate(_shifted(x, k, self.stride), axis=-1)
        return _rows_dot(patches, w.reshape(k * k * c, self.features).astype(x.dtype))


class Pointwise(nn.Module):
    """1x1 convolution, kernel `[1, 1, C_in, C_out]`, computed as a matrix product."""

    features: int
    bias: bool = False
    start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C_in]` -> `[..., features]`."""
        c = x.shape[-1]
        w = _parameter(self, "kernel", c, (1, 1, c, self.features), self.start)
        y = _rows_dot(x, w[0, 0].astype(x.dtype))
        if self.bias:
            zeros = None if self.start is None else nn.initializers.zeros
            y = y + _row(_parameter(self, "bias", c, (self.features,), zeros), y)
        return y


class Depthwise(nn.Module):
    """Depthwise convolution without bias, kernel `[k, k, 1, C]`."""

    kernel: int
    stride: int = 1
    start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> `[B, ceil(H/stride), ceil(W/stride), C]`."""
        k, c = self.kernel, x.shape[-1]
        w = _parameter(self, "kernel", k * k, (k, k, 1, c), self.start)
        return depthwise(x, w.astype(x.dtype), self.stride)


class Dense(nn.Module):
    """Linear layer with bias, kernel `[C_in, C_out]`."""

    features: int
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C_in]` -> `[..., features]`."""
        c = x.shape[-1]
        w = _parameter(self, "kernel", c, (c, self.features))
        y = jnp.dot(x, w.astype(x.dtype))
        zeros = nn.initializers.zeros if self.zero_bias else None
        return y + _row(_parameter(self, "bias", c, (self.features,), zeros), y)


class BatchNorm(nn.Module):
    """Batch normalisation that keeps no running state; see the module's docstring.

    Attributes:
        zero_scale: start with scale 0, so that a residual block starts as its shortcut.
        swish: apply swish to the result, in the same pass.
    """

    zero_scale: bool = False
    swish: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> the same shape; statistics are float32 whatever `x` is."""
        c = x.shape[-1]
        start = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param("scale", start, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        mean: Array
        variance: Array
        if self.has_variable("stats", "mean"):
            mean, variance = self.get_variable("stats", "mean"), self.get_variable("stats", "var")
            return norm.normalise(x, mean, variance, scale, bias, swish=self.swish)
        y, (mean, variance) = norm.batch_norm(x, scale, bias, swish=self.swish)
        n = x.size // c
        self.sow("moments", "mean", mean, reduce_fn=_last)
        self.sow("moments", "var", variance * (n / max(n - 1, 1)), reduce_fn=_last)
        return y


class Dropout(nn.Module):
    """Dropout whose bits are drawn for `width` channels and cut, so that all subnets agree."""

    rate: float
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` with C <= width -> the same shape."""
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        keep = jax.random.bernoulli(
            self.make_rng("dropout"), 1.0 - self.rate, (*x.shape[:-1], self.width)
        )
        return jnp.where(keep[..., : x.shape[-1]], x / (1.0 - self.rate), 0.0).astype(x.dtype)


class DropPath(nn.Module):
    """Drop-connect: zeroes a residual branch for whole samples, and scales the others up."""

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, ...]` -> the same shape."""
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        shape = (x.shape[0], *(1,) * (x.ndim - 1))
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        return jnp.where(keep, x / (1.0 - self.rate), 0.0).astype(x.dtype)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507) with ReLU and hard sigmoid, as in MobileNetV3."""

    reduced: int
    start: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> the same shape."""
        make = functools.partial(Pointwise, bias=True, start=self.start)
        squeezed = jnp.mean(x, (1, 2), keepdims=True)
        hidden = nn.relu(make(self.reduced, name="reduce")(squeezed))
        return x * nn.hard_sigmoid(make(x.shape[-1], name="expand")(hidden))


def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """Depthwise convolution, symmetric padding `k // 2`.

    On CPU the compiled kernel of `native` if it was built, or else a sum of k x k shifted products
    with a gradient of its own: XLA's convolution is 14 to 85 times slower than PyTorch's there.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[k, k, 1, C]`.
        stride: of both axes.
    """
    taken = native.takes(x, kernel)
    on_cpu = native.depthwise if taken else _shifted_depthwise
    return _depthwise(x, kernel, stride, on_cpu, taken and native.only_cpu())


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _depthwise(
    x: Array, kernel: Array, stride: int, on_cpu: Callable[..., Array], only_cpu: bool
) -> Array:
    """Jitted by itself: it has by far the most operations of all layers, and many are alike."""
    if only_cpu:
        return on_cpu(x, kernel, stride)

    def convolution(x: Array, kernel: Array) -> Array:
        k = kernel.shape[0]
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(k // 2, k // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return lax.platform_dependent(
        x, kernel, cpu=lambda x, w: on_cpu(x, w, stride), default=convolution
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_depthwise(x: Array, kernel: Array, stride: int) -> Array:
    k = kernel.shape[0]
    taps = kernel.reshape(k * k, 1, 1, 1, -1)
    products = [tap * w for tap, w in zip(_shifted(x, k, stride), taps, strict=True)]
    return functools.reduce(jnp.add, products)


def _shifted_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_depthwise(x, kernel, stride), (x, kernel)


def _shifted_backward(
    stride: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    # Without the barrier XLA computes whatever produced the gradient again for each of the taps.
    gradient = lax.optimization_barrier(gradient)
    spread = _spread(gradient, (x.shape[1], x.shape[2]), stride)
    return _shifted_depthwise(spread, kernel[::-1, ::-1], 1), _tap_sums(x, gradient, kernel, stride)


def _spread(gradient: Array, size: tuple[int, int], stride: int) -> Array:
    """A strided output's gradient at the input's size, zeros between."""
    if stride == 1:
        return gradient
    after = [n - ((m - 1) * stride + 1) for n, m in zip(size, gradient.shape[1:3], strict=True)]
    config = [(0, 0, 0), *((0, n, stride - 1) for n in after), (0, 0, 0)]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), config)


def _tap_sums(x: Array, gradient: Array, kernel: Array, stride: int) -> Array:
    """The kernel's gradient, one image row at a time: autodiff's reads the image k x k times."""
    k = kernel.shape[0]
    rows, columns = gradient.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))

    def add_row(row: Array, total: Array) -> Array:
        band = lax.dynamic_slice_in_dim(padded, row * stride, k, axis=1).astype(jnp.float32)
        line = lax.dynamic_slice_in_dim(gradient, row, 1, axis=1).astype(jnp.float32)
        stops = [(j, j + (columns - 1) * stride + 1) for j in range(k)]
        sums = [jnp.sum(band[:, :, start:stop:stride] * line, (0, 2)) for start, stop in stops]
        return total + jnp.stack(sums, axis=1)

    zero = jnp.zeros((k, k, kernel.shape[-1]), jnp.float32)
    total = lax.fori_loop(0, rows, add_row, zero)
    return total[:, :, None, :].astype(kernel.dtype)


_shifted_depthwise.defvjp(_shifted_forward, _shifted_backward)


def average_pool(x: Array, size: int) -> Array:
    """Mean over `size` x `size` windows at stride `size`; an incomplete last one is its own mean.

    Args:
        x: `[B, H, W, C]`; the result is `[B, ceil(H/size), ceil(W/size), C]`.
        size: of window and stride.
    """
    window = (1, size, size, 1)
    pad = [(0, 0), (0, -x.shape[1] % size), (0, -x.shape[2] % size), (0, 0)]
    total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, window, pad)
    covered = [np.minimum(size, n - size * np.arange(-(-n // size))) for n in x.shape[1:3]]
    counts = np.multiply.outer(*covered)[None, :, :, None]
    return total / jnp.asarray(counts, x.dtype)


def resize_bicubic(x: Array, size: int) -> Array:
    """Square bicubic resize with a = -0.75, half-pixel centres, edge clamp and no antialiasing.

    PyTorch's `interpolate(mode="bicubic")`; `jax.image.resize` has a = -0.5 and antialiases.

    Args:
        x: `[B, H, W, C]`.
        size: of the result's both sides; the input's own size returns `x` itself.
    """
    for axis in (1, 2):
        if x.shape[axis] != size:
            matrix = jnp.asarray(bicubic_matrix(x.shape[axis], size), x.dtype)
            x = jnp.moveaxis(
                jnp.tensordot(matrix, x, (1, axis), precision=lax.Precision.HIGHEST), 0, axis
            )
    return x


def bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Interpolation weights `[target, source]` of the cubic convolution kernel (Keys 1981)."""
    a = -0.75
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    base = np.floor(centre).astype(int)
    matrix = np.zeros((target, source))
    for tap in range(-1, 3):
        d = np.abs(centre - (base + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        column = np.clip(base + tap, 0, source - 1)
        np.add.at(matrix, (np.arange(target), column), np.where(d <= 1, near, far))
    return matrix


def pad_channels(x: Array, channels: int) -> Array:
    """An activation with zero channels (last axis) added up to `channels`, if it has fewer."""
    missing = channels - x.shape[-1]
    return x if missing <= 0 else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])


def _shifted(x: Array, k: int, stride: int) -> list[Array]:
    """The k x k strided views of a zero-padded image that a convolution multiplies, row by row."""
    if k == 1 and stride == 1:
        return [x]
    height, width = x.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    high, wide = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    corners = [(i, j) for i in range(k) for j in range(k)]
    batch, channels, steps = x.shape[0], x.shape[-1], (1, stride, stride, 1)
    return [  # a slice of lax is traced several times faster than an index
        lax.slice(padded, (0, i, j, 0), (batch, i + high, j + wide, channels), steps)
        for i, j in corners
    ]


def _rows_dot(x: Array, w: Array) -> Array:
    """`[..., C]` times `[C, F]`. As matrices: XLA transposes larger arrays for w's gradient."""
    return jnp.dot(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])


def _row(vector: Array, like: Array) -> Array:
    """A per-channel vector, shaped to broadcast explicitly and cast to the activation's dtype."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,)).astype(like.dtype)


def _last(_: Array, new: Array) -> Array:
    return new
