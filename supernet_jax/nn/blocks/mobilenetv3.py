"""The blocks of MobileNetV3 as Once-for-All has them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers
from supernet_jax.nn.blocks.mobilenet import HARD_SWISH, RELU, HeadSpec, StemSpec

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class InvertedResidualSpec:
    """Sizes of an `InvertedResidual`.

    Attributes:
        c_in: channels of the input.
        c_out: channels of the output.
        middle: channels of the depthwise convolution; `expand` says whether a 1x1 convolution
            makes them.
        kernel: of the depthwise convolution, odd.
        stride: of the depthwise convolution.
        expand: whether there is an expansion; without it `middle` is `c_in`.
        reduced: hidden channels of squeeze-and-excitation, 0 for none.
        activation: "relu" or "hard_swish".
    """

    c_in: int
    c_out: int
    middle: int
    kernel: int
    stride: int
    expand: bool
    reduced: int
    activation: str

    def __post_init__(self) -> None:
        if self.activation not in (RELU, HARD_SWISH):
            raise ValueError(f"activation is {self.activation!r}, not {RELU!r} or {HARD_SWISH!r}")

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output: only where both have one shape."""
        return self.stride == 1 and self.c_in == self.c_out


class InvertedResidual(nn.Module):
    """MobileNetV3's inverted bottleneck (arXiv 1905.02244), whose only shortcut is the identity.

    [1x1 expand, norm, act,] depthwise, norm, act, [squeeze-excite,] 1x1 project, norm; plus the
    input where it has the output's shape. There the last scale starts at 0.
    """

    spec: InvertedResidualSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s, he = self.spec, layers.HE_FAN_OUT
        activation = nn.relu if s.activation == RELU else nn.hard_swish
        y = x
        if s.expand:
            y = layers.Pointwise(s.middle, start=he, name="expand")(y)
            y = activation(layers.BatchNorm(name="expand_norm")(y))
        y = layers.Depthwise(s.kernel, s.stride, start=he, name="depthwise")(y)
        y = activation(layers.BatchNorm(name="depthwise_norm")(y))
        if s.reduced:
            y = layers.SqueezeExcite(s.reduced, start=he, name="squeeze")(y)
        y = layers.Pointwise(s.c_out, start=he, name="project")(y)
        y = layers.BatchNorm(zero_scale=s.residual, name="project_norm")(y)
        return x + y if s.residual else y


class HardStem(nn.Module):
    """3x3 convolution, BatchNorm, hard swish."""

    spec: StemSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        x = layers.Conv(s.c_out, 3, s.stride, start=layers.HE_FAN_OUT, name="conv")(x)
        return nn.hard_swish(layers.BatchNorm(name="norm")(x))


class HardHead(nn.Module):
    """As `Head`, with hard swish."""

    spec: HeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        s, he = self.spec, layers.HE_FAN_OUT
        x = layers.Pointwise(s.middle, start=he, name="expand")(x)
        x = nn.hard_swish(layers.BatchNorm(name="expand_norm")(x))
        x = jnp.mean(x, (1, 2))
        x = nn.hard_swish(layers.Pointwise(s.c_out, start=he, name="mix")(x))
        x = layers.Dropout(s.dropout, s.dropout_width, name="dropout")(x)
        return layers.Dense(s.classes, zero_bias=True, name="classifier")(x)
