"""The first and last layers of chains with ReLU: of MnasNet (arXiv 1807.11626), FBNet, SPOS."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ReluStemSpec:
    """Sizes of a `ReluStem`: channels in and out, and the stride of its 3x3 convolution; whether
    its norm learns a scale and a bias.
    """

    c_in: int
    c_out: int
    stride: int
    affine: bool = True


class ReluStem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    spec: ReluStemSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        x = layers.Conv(s.c_out, 3, s.stride, start=layers.HE_FAN_OUT, name="conv")(x)
        return nn.relu(layers.BatchNorm(affine=s.affine, name="norm")(x))


@dataclasses.dataclass(frozen=True)
class ReluHeadSpec:
    """Sizes of a `ReluHead`.

    Attributes:
        c_in: channels of the last block.
        middle: channels before the mean over the image.
        classes: number of logits.
        dropout: rate before the classifier.
        affine: whether the norm learns a scale and a bias.
        bias: whether the classifier has one.
    """

    c_in: int
    middle: int
    classes: int
    dropout: float = 0.0
    affine: bool = True
    bias: bool = True


class ReluHead(nn.Module):
    """1x1 convolution, BatchNorm, ReLU, mean over the image, dropout, linear classifier."""

    spec: ReluHeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        s = self.spec
        x = layers.Pointwise(s.middle, start=layers.HE_FAN_OUT, name="expand")(x)
        x = nn.relu(layers.BatchNorm(affine=s.affine, name="expand_norm")(x))
        x = layers.Dropout(s.dropout, s.middle, name="dropout")(jnp.mean(x, (1, 2)))
        return layers.Dense(s.classes, zero_bias=True, bias=s.bias, name="classifier")(x)
