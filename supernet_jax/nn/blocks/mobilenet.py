"""The blocks of the AttentiveNAS family: Flax modules of plain sizes that know no supernets.

They are apart from the spaces, so that an extracted network runs without any.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers, resize

Array = jax.Array
IDENTITY, CONV, EITHER = "identity", "conv", "either"
RELU, HARD_SWISH = "relu", "hard_swish"


@dataclasses.dataclass(frozen=True)
class StemSpec:
    """Sizes of a `Stem`: channels in and out, and the stride of its 3x3 convolution."""

    c_in: int
    c_out: int
    stride: int


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, swish."""

    spec: StemSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        x = layers.Conv(self.spec.c_out, 3, self.spec.stride, name="conv")(x)
        return layers.BatchNorm(swish=True, name="norm")(x)


@dataclasses.dataclass(frozen=True)
class MBConvSpec:
    """Sizes of an `MBConv`.

    Attributes:
        c_in: channels of the input.
        c_out: channels of the output.
        middle: channels of the depthwise convolution; `expand` says whether a 1x1 convolution
            makes them.
        kernel: of the depthwise convolution, odd.
        stride: of the depthwise convolution and the shortcut.
        expand: whether there is an expansion; without it `middle` is `c_in`.
        reduced: hidden channels of squeeze-and-excitation, 0 for none.
        shortcut: "identity", "conv" (1x1, no normalisation), or "either" in a union of both.
        drop_path: drop-connect rate of the residual branch.
        zero_pool: whether the shortcut averages zeros along with the edge of an odd image, see
            `resize.zero_pool`.
    """

    c_in: int
    c_out: int
    middle: int
    kernel: int
    stride: int
    expand: bool
    reduced: int
    shortcut: str
    drop_path: float = 0.0
    zero_pool: bool = dataclasses.field(default=False, metadata={"later": True})


class MBConv(nn.Module):
    """Inverted bottleneck with a shortcut on every block.

    [1x1 expand, norm, swish,] depthwise, norm, swish, [squeeze-excite,] 1x1 project, norm; plus the
    input: averaged over the stride, and through a 1x1 convolution if the channels differ.
    """

    spec: MBConvSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        conv = layers.Depthwise(s.kernel, s.stride, name="depthwise")
        norm = layers.BatchNorm(swish=True, name="depthwise_norm")
        squeeze = layers.SqueezeExcite(s.reduced, name="squeeze") if s.reduced else None
        project = layers.Pointwise(s.c_out, name="project")
        last = layers.BatchNorm(zero_scale=True, name="project_norm")
        if s.expand:
            expand = layers.Pointwise(s.middle, name="expand")
            before = layers.BatchNorm(swish=True, name="expand_norm")
            y = layers.bottlenecked(x, expand, before, conv, norm, squeeze, project, last)
        else:
            y = norm(conv(x))
            y = last(project(y if squeeze is None else squeeze(y)))
        dropped = layers.DropPath(s.drop_path, name="drop_path")(y)
        if s.stride > 1:
            x = (resize.zero_pool if s.zero_pool else resize.average_pool)(x, s.stride)
        if s.shortcut == IDENTITY:
            return dropped + x
        mapped = layers.Pointwise(s.c_out, name="shortcut")(x)
        if s.shortcut == CONV:  # its specs have no drop-connect
            return y + mapped
        # In a union the gate tells which kind a spec has; for identity the kernel is masked to 0.
        gate = self.variable("gates", "identity", jnp.ones, ()).value.astype(x.dtype)
        identity = gate * resize.pad_channels(x, s.c_out)[..., : s.c_out]
        return y + gate * (dropped - y) + mapped + identity


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """Sizes of a `Head`.

    Attributes:
        c_in: channels of the last stage.
        middle: channels before pooling.
        c_out: features after pooling.
        classes: number of logits.
        dropout: rate before the classifier.
        dropout_width: channels for which dropout bits are drawn, in every subnet.
    """

    c_in: int
    middle: int
    c_out: int
    classes: int
    dropout: float
    dropout_width: int


class Head(nn.Module):
    """MobileNetV3's head: 1x1, norm, swish, mean over the image, 1x1, swish, dropout, linear."""

    spec: HeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        s = self.spec
        x = layers.Pointwise(s.middle, name="expand")(x)
        x = layers.BatchNorm(swish=True, name="expand_norm")(x)
        x = jnp.mean(x, (1, 2))
        x = nn.swish(layers.Pointwise(s.c_out, name="mix")(x))
        x = layers.Dropout(s.dropout, s.dropout_width, name="dropout")(x)
        return layers.Dense(s.classes, name="classifier")(x)
