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
from jax import lax

from supernet_jax.nn import batch_norm, bottleneck, depthwise, pointwise, separable, squeeze_excite
from supernet_jax.nn.block_shapes import SHAPES_ONLY
from supernet_jax.runtime import versions

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


def parameter(layer: nn.Module, name: str, start: Initializer, shape: tuple[int, ...]) -> Array:
    """A layer's parameter, as `layer.param` has it; that traces an initialiser even where its shape
    is all that counts.
    """
    if layer.has_variable("params", name):
        value: Array = layer.get_variable("params", name)
        if jnp.shape(value) == shape:
            return value
    elif layer.has_rng(SHAPES_ONLY):
        layer.put_variable("params", name, lax.full(shape, 0, jnp.float32))
        return layer.get_variable("params", name)
    return layer.param(name, start, shape)


class Conv(nn.Module):
    """Dense convolution, kernel `[k, k, C_in, C_out]`, without a bias unless `bias` is true.

    Written as patches and one matrix product: as fast as the convolution on GPU for the few input
    channels of a stem, and several times faster on CPU.
    """

    features: int
    kernel: int
    stride: int = 1
    start: Initializer | None = None
    bias: bool = False

    def makes(self, x: Array) -> tuple[int, ...]:
        """The shape of its output, see `liveness`."""
        return _strided(x, self.stride, self.features)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C_in]` -> `[B, ceil(H/stride), ceil(W/stride), features]`."""
        k, c = self.kernel, x.shape[-1]
        start = self.start or uniform_fan_in(k * k * c)
        w = parameter(self, "kernel", start, (k, k, c, self.features))
        patches = jnp.concatenate(depthwise.shifted_views(x, k, self.stride), axis=-1)
        y = pointwise.pointwise(patches, w.reshape(k * k * c, self.features).astype(x.dtype))
        if not self.bias:
            return y
        start = nn.initializers.zeros if self.start else uniform_fan_in(k * k * c)
        return y + _row(parameter(self, "bias", start, (self.features,)), y)


class Pointwise(nn.Module):
    """1x1 convolution, kernel `[1, 1, C_in / groups, C_out]`, computed as a matrix product.

    With groups, each of as many equal parts of the outputs reads its own part of the inputs.
    """

    features: int
    bias: bool = False
    start: Initializer | None = None
    groups: int = 1

    def makes(self, x: Array) -> tuple[int, ...]:
        """The shape of its output, see `liveness`."""
        return (*x.shape[:-1], self.features)

    @nn.compact
    def weights(self, channels: int) -> Array:
        """The kernel `[C_in / groups, C_out]` for so many inputs of a group."""
        shape = (1, 1, channels, self.features)
        start = self.start or uniform_fan_in(channels)
        return lax.squeeze(parameter(self, "kernel", start, shape), (0, 1))

    @nn.compact
    def offsets(self, channels: int) -> Array:
        """The bias `[C_out]`."""
        start = nn.initializers.zeros if self.start else uniform_fan_in(channels)
        return parameter(self, "bias", start, (self.features,))

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C_in]` -> `[..., features]`."""
        c, g = x.shape[-1] // self.groups, self.groups
        kernel = self.weights(c).astype(x.dtype)
        if g == 1:
            y = pointwise.pointwise(x, kernel)
        else:
            parts = x.reshape(*x.shape[:-1], g, c)
            y = jnp.einsum("...gc,cgf->...gf", parts, kernel.reshape(c, g, self.features // g))
            y = y.reshape(*x.shape[:-1], self.features)
        return y + _row(self.offsets(c), y) if self.bias else y


class Depthwise(nn.Module):
    """Depthwise convolution without bias, kernel `[k, k, 1, C]`, whose taps lie `dilation` pixels
    apart.
    """

    kernel: int
    stride: int = 1
    start: Initializer | None = None
    dilation: int = 1

    def makes(self, x: Array) -> tuple[int, ...]:
        """The shape of its output, see `liveness`."""
        return _strided(x, self.stride, x.shape[-1])

    @nn.compact
    def weights(self, channels: int) -> Array:
        """The kernel."""
        k = self.kernel
        start = self.start or uniform_fan_in(k * k)
        return parameter(self, "kernel", start, (k, k, 1, channels))

    def macs(self, x: Array) -> int:
        """Of one image; on CPU it is no convolution that could be counted."""
        _, height, width, channels = x.shape
        places = -(-height // self.stride) * -(-width // self.stride)
        return places * channels * self.kernel**2

    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> `[B, ceil(H/stride), ceil(W/stride), C]`."""
        w = self.weights(x.shape[-1]).astype(x.dtype)
        return depthwise.dilated(x, w, self.stride, self.dilation)


class Dense(nn.Module):
    """Linear layer, kernel `[C_in, C_out]`, with a bias unless `bias` is false."""

    features: int
    zero_bias: bool = False
    start: Initializer | None = None
    bias: bool = True

    def makes(self, x: Array) -> tuple[int, ...]:
        """The shape of its output, see `liveness`."""
        return (*x.shape[:-1], self.features)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C_in]` -> `[..., features]`."""
        c = x.shape[-1]
        start = self.start or uniform_fan_in(c)
        w = parameter(self, "kernel", start, (c, self.features))
        y = jnp.dot(x, w.astype(x.dtype))
        if not self.bias:
            return y
        start = nn.initializers.zeros if self.zero_bias or self.start else uniform_fan_in(c)
        return y + _row(parameter(self, "bias", start, (self.features,)), y)


class BatchNorm(nn.Module):
    """Batch normalisation that keeps no running state; see the module's docstring.

    Attributes:
        zero_scale: start with scale 0, so that a residual block starts as its shortcut.
        swish: apply swish to the result, in the same pass.
        affine: learn a scale and a bias; without, they are 1 and 0.
    """

    zero_scale: bool = False
    swish: bool = False
    affine: bool = True

    in_place = True

    @nn.compact
    def weights(self, channels: int) -> separable.Affine:
        """Scale and bias."""
        if not self.affine:
            return separable.Affine(jnp.ones(channels), jnp.zeros(channels))
        start = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = parameter(self, "scale", start, (channels,))
        return separable.Affine(scale, parameter(self, "bias", nn.initializers.zeros, (channels,)))

    def given(self) -> separable.Moments | None:
        """The statistics in the collection `stats`, if it is there."""
        if not self.has_variable("stats", "mean"):
            return None
        return self.get_variable("stats", "mean"), self.get_variable("stats", "var")

    def note(self, moments: separable.Moments, n: int) -> None:
        """Returns the statistics of a batch, of n pixels, in the collection `moments`."""
        mean, variance = moments
        self.sow("moments", "mean", mean, reduce_fn=_last)
        self.sow("moments", "var", variance * (n / max(n - 1, 1)), reduce_fn=_last)

    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> the same shape; statistics are float32 whatever `x` is."""
        weights, given = self.weights(x.shape[-1]), self.given()
        if given is not None:
            return batch_norm.normalise(x, *given, *weights, swish=self.swish)
        y, moments = batch_norm.batch_norm(x, *weights, swish=self.swish)
        self.note(moments, x.size // x.shape[-1])
        return y


def bottlenecked(
    x: Array,
    expand: Pointwise,
    before: BatchNorm,
    conv: Depthwise,
    after: BatchNorm,
    excite: "SqueezeExcite | None",
    project: Pointwise,
    last: BatchNorm,
) -> Array:
    """`last(project(excite(after(conv(before(expand(x)))))))`; one operation where `bottleneck` has
    it.

    Args:
        x: `[B, H, W, C_in]`.
        expand: makes the channels of the rest; without a bias, and not grouped.
        before: with its own statistics if the other norms have some; with swish.
        conv: between these norms.
        after: with swish.
        excite: if there is any.
        project: as `expand`.
        last: without swish.
    """
    # Where only shapes are wanted, each layer is looked at by itself.
    if before.has_rng(SHAPES_ONLY) or not bottleneck.takes(x, conv.kernel):
        y = after(conv(before(expand(x))))
        return last(project(y if excite is None else excite(y)))
    c, norms = expand.features, (before, after, last)
    weights = bottleneck.Weights(
        expand.weights(x.shape[-1]),
        before.weights(c),
        conv.weights(c),
        after.weights(c),
        None if excite is None else excite.weights(c),
        project.weights(c),
        last.weights(project.features),
    )
    weights = jax.tree.map(lambda w: w.astype(x.dtype), weights)
    first, second, third = (norm.given() for norm in norms)
    if first is not None and second is not None and third is not None:
        return bottleneck.given(x, weights, (first, second, third), conv.stride)
    y, moments = bottleneck.by_batch(x, weights, conv.stride)
    for norm, like, own in zip(norms, (x, y, y), moments, strict=True):
        norm.note(own, like.size // like.shape[-1])
    return y


def alive(layer: nn.Module, size: int, name: str = "alive") -> Array | None:
    """Which of a layer's channels (or heads) are there: float32 `[size]` of ones and zeros.

    A module at its own size has all of them: None. The masked union of a supernet has zeros where
    its subnet has no channels; whatever depends on their number, as a mean over channels or a
    softmax over heads, asks here. To be called from within a compact `__call__`.

    Args:
        layer: the module that asks.
        size: number of channels.
        name: tells several vectors of one layer apart.
    """
    if layer.has_variable("alive", name):
        value: Array = layer.get_variable("alive", name)
        return value
    if layer.has_rng(SHAPES_ONLY):
        layer.put_variable("alive", name, lax.full((size,), 0, jnp.float32))
    return None


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the channels that are there.

    Attributes:
        epsilon: added to the variance.
        bias: whether there is one.
        over: how many of the last axes the moments are over; 1 for channels alone.
    """

    epsilon: float = 1e-5
    bias: bool = True
    over: int = 1

    in_place = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` -> the same shape; moments are float32 whatever `x` is."""
        c = x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (c,))
        there, y = alive(self, c), x.astype(jnp.float32)
        centred = y - _mean_of(y, there, self.over)
        if there is not None:
            centred = centred * _row(there, centred)
        y = centred * lax.rsqrt(_mean_of(jnp.square(centred), there, self.over) + self.epsilon)
        y = y * _row(scale, y)
        if self.bias:
            y = y + _row(parameter(self, "bias", nn.initializers.zeros, (c,)), y)
        return y.astype(x.dtype)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467), the same way."""

    epsilon: float = 1e-6

    in_place = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` -> the same shape; moments are float32 whatever `x` is."""
        c = x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (c,))
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(_mean_of(jnp.square(y), alive(self, c)) + self.epsilon)
        return (y * _row(scale, y)).astype(x.dtype)


def _mean_of(y: Array, there: Array | None, over: int = 1) -> Array:
    """Mean over the last axes, of the channels that are there; the others of `y` are zero."""
    axes = tuple(range(-over, 0))
    if there is None:
        return jnp.mean(y, axes, keepdims=True)
    places = math.prod(y.shape[-over:-1])
    return jnp.sum(y, axes, keepdims=True) / (places * jnp.sum(there))


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
    def layers(self, channels: int) -> tuple[Pointwise, Pointwise]:
        """Both 1x1 convolutions."""
        make = functools.partial(Pointwise, bias=True, start=self.start)
        return make(self.reduced, name="reduce"), make(channels, name="expand")

    def weights(self, channels: int) -> squeeze_excite.Excite:
        """Of both."""
        reduce, expand = self.layers(channels)
        own = reduce.weights(channels), reduce.offsets(channels)
        return squeeze_excite.Excite(
            *own, expand.weights(self.reduced), expand.offsets(self.reduced)
        )

    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> the same shape."""
        # Where only shapes are wanted, each layer is looked at by itself; what is between them has
        # neither weights nor products, and takes the place of its input.
        if self.has_rng(SHAPES_ONLY):
            reduce, expand = self.layers(x.shape[-1])
            return x * expand(reduce(jnp.mean(x, (1, 2), keepdims=True)))
        weights = jax.tree.map(lambda w: w.astype(x.dtype), self.weights(x.shape[-1]))
        return squeeze_excite.squeeze_excite(x, weights)


def _strided(x: Array, stride: int, channels: int) -> tuple[int, ...]:
    examples, height, width, _ = x.shape
    return examples, -(-height // stride), -(-width // stride), channels


def _row(vector: Array, like: Array) -> Array:
    """A per-channel vector, shaped to broadcast explicitly and cast to the activation's dtype."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,)).astype(like.dtype)


def _last(_: Array, new: Array) -> Array:
    return new
