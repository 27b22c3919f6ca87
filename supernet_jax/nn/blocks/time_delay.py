"""The blocks of EfficientTDNN (Wang et al. 2021, arXiv 2103.13581): time-delay networks of the
form of ECAPA-TDNN (Desplanques et al. 2020, arXiv 2005.07143), for embeddings of speakers.

As in the published code, a convolution is followed by ReLU and then by BatchNorm, but for the one
that brings the blocks together, which has ReLU alone.

Shape letters: `B` utterances, `T` frames, `F` mel bands, `C` channels of the trunk, `G` groups of
the channels inside a block and `W` channels of each, `L` channels that are pooled, `E` numbers of
an embedding, `K` speakers.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax.nn import batch_norm, layers
from supernet_jax.nn.block_shapes import CHANNEL, SPATIAL

Array = jax.Array
FLOOR = 1e-9  # of variances over time, as published
XAVIER = nn.initializers.glorot_normal()


class TimeConv(nn.Module):
    """Convolution over time without bias, kernel `[k, C_in, features]`, padded with zeros."""

    features: int
    kernel: int
    dilation: int = 1

    axes = {"kernel": (SPATIAL, CHANNEL, CHANNEL)}  # noqa: RUF012  Flax would make it a field

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, C_in]` -> `[B, T, features]`."""
        k, step, (_, frames, c) = self.kernel, self.dilation, x.shape
        w = layers.parameter(self, "kernel", layers.uniform_fan_in(k * c), (k, c, self.features))
        padded = jnp.pad(x, ((0, 0), (k // 2 * step, k // 2 * step), (0, 0)))
        views = [lax.slice_in_dim(padded, i * step, i * step + frames, axis=1) for i in range(k)]
        return _product(jnp.concatenate(views, -1), w)


class IntoGroups(nn.Module):
    """Linear layer without bias whose outputs are groups, kernel `[C, G, W]`: a smaller one has
    the first channels of each group.
    """

    groups: int
    width: int

    axes = {"kernel": (CHANNEL,) * 3}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, C]` -> `[B, T, G, W]`."""
        c, g, w = x.shape[-1], self.groups, self.width
        kernel = layers.parameter(self, "kernel", layers.uniform_fan_in(c), (c, g, w))
        return _product(x, kernel).reshape(*x.shape[:-1], g, w)


class FromGroups(nn.Module):
    """Linear layer of groups, kernel `[G, W, features]`."""

    features: int
    bias: bool = False

    axes = {"kernel": (CHANNEL,) * 3}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., G, W]` -> `[..., features]`."""
        g, w = x.shape[-2:]
        start = layers.uniform_fan_in(g * w)
        kernel = layers.parameter(self, "kernel", start, (g, w, self.features))
        y = _product(x.reshape(*x.shape[:-2], g * w), kernel)
        if not self.bias:
            return y
        return y + _row(layers.parameter(self, "bias", start, (self.features,)), y)


class Norm(nn.Module):
    """BatchNorm (`layers.BatchNorm`) whose channels may be groups: scale and bias `[G, W]`.

    Attributes:
        ranks: how many of the last axes are channels.
    """

    ranks: int = 1

    in_place = True

    def macs(self, x: Array) -> int:
        """Two for each value, as the published counts of this family have it."""
        return 2 * x.size // x.shape[0]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., *channels]` -> the same shape."""
        shape = x.shape[-self.ranks :]
        flat = x.reshape(*x.shape[: -self.ranks], -1)
        scale = layers.parameter(self, "scale", nn.initializers.ones, shape).reshape(-1)
        bias = layers.parameter(self, "bias", nn.initializers.zeros, shape).reshape(-1)
        if self.has_variable("stats", "mean"):
            mean: Array = self.get_variable("stats", "mean").reshape(-1)
            variance: Array = self.get_variable("stats", "var").reshape(-1)
            y = batch_norm.normalise(flat, mean, variance, scale, bias, swish=False)
            return y.reshape(x.shape)
        y, (mean, variance) = batch_norm.batch_norm(flat, scale, bias, swish=False)
        n = flat.size // flat.shape[-1]
        latest: Callable[..., Array] = lambda _, new: new  # noqa: E731
        self.sow("moments", "mean", mean.reshape(shape), reduce_fn=latest)
        unbiased = variance * (n / max(n - 1, 1))
        self.sow("moments", "var", unbiased.reshape(shape), reduce_fn=latest)
        return y.reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class FrameLayerSpec:
    """Sizes of a `FrameLayer`: mel bands F, channels C, and the kernel over time."""

    c_in: int
    c_out: int
    kernel: int


class FrameLayer(nn.Module):
    """Each band of an utterance normalised over time, then convolution, ReLU, norm."""

    spec: FrameLayerSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Log-mel features `[B, T, F]` -> `[B, T, C]`."""
        # From the first frame, as sums of logarithms, which lie far from 0, would lose digits.
        wide = x.astype(jnp.float32) - x[:, :1].astype(jnp.float32)
        mean, variance = jnp.mean(wide, 1, keepdims=True), jnp.var(wide, 1, keepdims=True)
        x = ((wide - mean) * lax.rsqrt(variance + batch_norm.EPSILON)).astype(x.dtype)
        x = TimeConv(self.spec.c_out, self.spec.kernel, name="conv")(x)
        return Norm(name="norm")(nn.relu(x))


@dataclasses.dataclass(frozen=True)
class SERes2Spec:
    """Sizes of a `SERes2Block`.

    Attributes:
        c_in: C.
        groups: G.
        width: W.
        kernel: over time, of the convolutions inside groups.
        dilation: frames between what such a kernel sees.
        reduced: hidden channels of squeeze-and-excitation.
    """

    c_in: int
    groups: int
    width: int
    kernel: int
    dilation: int
    reduced: int


class SERes2Block(nn.Module):
    """Linear layer, Res2Net's convolutions (arXiv 1904.01169), linear layer, squeeze-and-excitation
    (arXiv 1709.01507); plus a second input, the sum of what went before.

    Of the groups all but the last one have a convolution, each of its group plus what the one
    before it made.
    """

    spec: SERes2Spec

    @nn.compact
    def __call__(self, x: Array, total: Array) -> Array:
        """`[B, T, C]`, twice -> the same shape."""
        s = self.spec
        y = nn.relu(IntoGroups(s.groups, s.width, name="first")(x))
        y = Norm(2, name="first_norm")(y)
        made: list[Array] = []
        for i in range(s.groups - 1):
            own = y[:, :, i] + made[-1] if made else y[:, :, i]
            own = nn.relu(TimeConv(s.width, s.kernel, s.dilation, name=f"group{i + 1}")(own))
            made.append(Norm(name=f"group{i + 1}_norm")(own))
        y = jnp.stack([*made, y[:, :, -1]], 2)
        y = Norm(name="last_norm")(nn.relu(FromGroups(s.c_in, name="last")(y)))
        squeezed = nn.relu(layers.Dense(s.reduced, name="reduce")(jnp.mean(y, 1)))
        gate = nn.sigmoid(layers.Dense(s.c_in, name="expand")(squeezed))
        return y * gate[:, None, :] + total


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """Sizes of an `AttentiveEmbedding`.

    Attributes:
        c_in: C.
        depth: how many of its inputs, the first ones, count.
        channels: L.
        bottleneck: hidden channels of the attention.
        features: E.
    """

    c_in: int
    depth: int
    channels: int
    bottleneck: int
    features: int


class AttentiveEmbedding(nn.Module):
    """What the blocks put out brought together, pooled over time, projected.

    Mean and standard deviation of each channel are weighted by attention of its own over frames
    (attentive statistics pooling, Okabe et al. 2018, arXiv 1803.10963).
    """

    spec: EmbeddingSpec

    @nn.compact
    def __call__(self, *blocks: Array) -> Array:
        """`[B, T, C]` each -> `[B, E]`."""
        s = self.spec
        taken = list(blocks[: s.depth])
        for i, x in enumerate(taken):  # in a union gates tell which of its inputs a spec has
            if self.has_variable("gates", f"input{i}"):
                taken[i] = x * self.get_variable("gates", f"input{i}").astype(x.dtype)
        x = nn.relu(FromGroups(s.channels, name="merge")(jnp.stack(taken, 2)))
        hidden = nn.tanh(TimeConv(s.bottleneck, 1, name="attend")(x))
        scores = TimeConv(s.channels, 1, name="weigh")(hidden)
        weights = nn.softmax(scores.astype(jnp.float32), axis=1)
        wide = x.astype(jnp.float32)
        mean = jnp.sum(weights * wide, 1)
        # As a difference of squares it would be noise where a channel hardly varies.
        variance = jnp.sum(weights * jnp.square(wide - mean[:, None]), 1)
        deviation = jnp.sqrt(jnp.maximum(variance, FLOOR))
        there = layers.alive(self, s.channels, "pooled")
        if there is not None:  # channels that are not there would have the deviation of the floor
            deviation = deviation * _row(there, deviation)
        y = Norm(2, name="pooled_norm")(jnp.stack([mean, deviation], 1).astype(x.dtype))
        return Norm(name="norm")(FromGroups(s.features, bias=True, name="project")(y))


@dataclasses.dataclass(frozen=True)
class SpeakerCosinesSpec:
    """Sizes of a `SpeakerCosines`: numbers E of an embedding, speakers K."""

    c_in: int
    classes: int


class SpeakerCosines(nn.Module):
    """The embedding, and behind it the cosine of its angle to each speaker's direction."""

    spec: SpeakerCosinesSpec

    def macs(self, x: Array) -> int:
        """None: the published counts are those of the embedding, without what trains it."""
        return 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, E]` -> `[B, E + K]`."""
        directions = layers.parameter(self, "kernel", XAVIER, (self.spec.c_in, self.spec.classes))
        cosines = jnp.dot(_unit(x, -1), _unit(directions.astype(x.dtype), 0))
        return jnp.concatenate([x, cosines], -1)


@dataclasses.dataclass(frozen=True)
class SummedBlocks:
    """The topology: a layer, blocks that are each given the sum of all that was made before, and an
    embedding of what all of them put out.

    Attributes:
        depth: how many blocks there may be.
    """

    depth: int

    def __call__(self, run: Callable[..., Array], x: Array) -> Array:
        """Features `[B, T, F]` -> `[B, E + K]`; see `elastic.space.Topology`."""
        x = total = run("frames", x)
        made = []
        for i in range(self.depth):
            x = run(f"block{i + 1}", x, total)
            total = total + x
            made.append(x)
        return run("speakers", run("embedding", *made))


def _product(x: Array, kernel: Array) -> Array:
    """`[..., n]` times `[a, b, c]`, whose leading axes are those n or whose last ones are new."""
    n = x.shape[-1]
    return jnp.dot(x, kernel.reshape(n, -1).astype(x.dtype))


def _row(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + (-1,)).astype(like.dtype)


def _unit(x: Array, axis: int) -> Array:
    """Vectors of length 1; of zeros zeros."""
    wide = x.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(jnp.square(wide), axis, keepdims=True) + 1e-12)
    return (wide / norm).astype(x.dtype)
