"""The blocks of ViT-ResNAS (Liao et al. 2021, arXiv 2109.00642) beside those of a vision
transformer: patches behind convolutions, and tokens reduced to a quarter.

Shape letters: `B` images, `R` pixels on a side, `S` patches on a side, `N` tokens (the class token
first, then patches row by row), `C` channels.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.errors import require
from supernet_jax.nn import layers, resize
from supernet_jax.nn.attention import NORMAL
from supernet_jax.nn.blocks.vision_transformer import Patches, with_class_token

Array = jax.Array
NORM_DIGITS = 6  # of the published norms


@dataclasses.dataclass(frozen=True)
class ConvPatchEmbeddingSpec:
    """Sizes of a `ConvPatchEmbedding`.

    Attributes:
        c_in: channels of the images.
        c_out: C.
        patch: pixels on a side of a patch, even.
        middle: channels of the convolutions.
    """

    c_in: int
    c_out: int
    patch: int
    middle: int


class ConvPatchEmbedding(nn.Module):
    """Three 3x3 convolutions, each with BatchNorm and ReLU, the first at stride 2 and its output
    added to the last's; their patches projected, with a class token and positions.
    """

    spec: ConvPatchEmbeddingSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, R, R, c_in]` -> `[B, N, C]`, `N = 1 + (R / patch) ** 2`.

        Raises:
            UserError: R is not a multiple of the patch.
        """
        s = self.spec
        r = x.shape[1]
        require(
            r % s.patch == 0,
            f"images of {r} x {r} pixels have no patches of {s.patch} x {s.patch} without rest",
        )
        made = []
        for i in range(1, 4):
            y = layers.Conv(s.middle, 3, 2 if i == 1 else 1, name=f"conv{i}")(x)
            x = nn.relu(layers.BatchNorm(name=f"norm{i}")(y))
            made.append(x)
        patches = Patches(s.c_out, s.patch // 2, name="patches")(x + made[0])
        return with_class_token(self, patches, NORMAL)


@dataclasses.dataclass(frozen=True)
class SpatialReductionSpec:
    """Sizes of a `SpatialReduction`.

    Attributes:
        c_in: channels of the input's tokens.
        c_out: C, at least `c_in`.
        side: S of the input, even.
    """

    c_in: int
    c_out: int
    side: int


class SpatialReduction(nn.Module):
    """Residual spatial reduction: a norm, then patches through a 3x3 convolution at
    stride 2, to which positions are added, and the class token through a linear layer; plus the
    input, its patches averaged by fours, with zeros for the channels that it lacks.
    """

    spec: SpatialReductionSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, 1 + S * S, c_in]` -> `[B, 1 + S * S / 4, C]`."""
        s, (b, _, c) = self.spec, x.shape
        y = layers.LayerNorm(10.0**-NORM_DIGITS, name="norm")(x)
        image = (b, s.side, s.side, c)
        patches = layers.Conv(s.c_out, 3, 2, bias=True, name="reduce")(y[:, 1:].reshape(image))
        patches = patches.reshape(b, -1, s.c_out)
        position = layers.parameter(self, "position", NORMAL, patches.shape[1:])
        patches = patches + position[None].astype(x.dtype)
        token = layers.Dense(s.c_out, start=NORMAL, name="token")(y[:, :1])
        pooled = resize.average_pool(x[:, 1:].reshape(image), 2).reshape(b, -1, c)
        residual = resize.pad_channels(jnp.concatenate([x[:, :1], pooled], 1), s.c_out)
        return jnp.concatenate([token, patches], 1) + residual
