"""Depthwise convolution: the compiled kernel where there is one, else by shifted products."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax.runtime import native

Array = jax.Array


def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """Depthwise convolution, symmetric padding `k // 2`.

    On CPU the compiled kernel of `native` where there is one, or else a sum of k x k shifted
    products with a gradient of its own: XLA's convolution is 14 to 85 times slower than PyTorch's
    there.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[k, k, 1, C]`.
        stride: of both axes.
    """
    taken = native.takes(x, kernel)
    on_cpu = native.depthwise if taken else _shifted_depthwise
    return _depthwise(x, kernel, stride, on_cpu, taken and native.only_cpu())


def dilated(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """Depthwise convolution whose taps lie `dilation` pixels apart, padding `dilation * (k // 2)`.

    Pixels so far apart never meet nearer ones, so that an image is `dilation ** 2` images, each
    convolved by itself; at a stride of the dilation only the first of them is wanted.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[k, k, 1, C]`, k odd.
        stride: of both axes: 1, or the dilation.
        dilation: 1 for neighbours.
    """
    if dilation == 1:
        return depthwise(x, kernel, stride)
    if stride == dilation:
        return depthwise(every(x, stride), kernel, 1)
    if stride != 1:
        raise ValueError(f"a dilation of {dilation} goes with stride 1 or itself, not {stride}")
    batch, height, width, channels = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    after = [(0, rows * dilation - height), (0, columns * dilation - width)]
    padded = jnp.pad(x, [(0, 0), *after, (0, 0)])
    apart = padded.reshape(batch, rows, dilation, columns, dilation, channels)
    images = apart.transpose(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)
    y = depthwise(images, kernel, 1)
    back = y.reshape(batch, dilation, dilation, rows, columns, channels)
    joined = back.transpose(0, 3, 1, 4, 2, 5).reshape(padded.shape)
    return joined[:, :height, :width]


def every(x: Array, step: int, start: int = 0) -> Array:
    """Every `step`-th row and column of an image `[B, H, W, C]`, from one on."""
    # An index would be a gather, which is traced slowly, and formats of networks may lack it.
    return lax.slice(x, (0, start, start, 0), x.shape, (1, step, step, 1))


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
    products = [tap * w for tap, w in zip(shifted_views(x, k, stride), taps, strict=True)]
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


def shifted_views(x: Array, k: int, stride: int) -> list[Array]:
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
