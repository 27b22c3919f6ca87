"""The blocks of vision transformers (ViT, arXiv 2010.11929), with what AutoFormer adds to them.

Shape letters: `B` images, `R` pixels on a side, `N` tokens (the class token first, then patches row
by row), `C` channels, `K` classes.
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.attention import BY_HEAD, NORMAL, PREFIX, Grid, SelfAttention

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PatchEmbeddingSpec:
    """Sizes of a `PatchEmbedding`.

    Attributes:
        c_in: channels of the images.
        c_out: C.
        patch: pixels on a side of a patch.
        deviation: standard deviation with which the class token and positions start; narrow tokens
            and short trainings want more than the published 0.02.
    """

    c_in: int
    c_out: int
    patch: int
    deviation: float = 0.02


class PatchEmbedding(nn.Module):
    """Patches projected linearly, a class token before them, a learned position added to each."""

    spec: PatchEmbeddingSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, R, R, c_in]` -> `[B, N, C]`.

        Raises:
            UserError: R is not a multiple of the patch.
        """
        patches = Patches(self.spec.c_out, self.spec.patch, name="patches")(x)
        return with_class_token(self, patches, nn.initializers.normal(self.spec.deviation))


def with_class_token(block: nn.Module, patches: Array, start: layers.Initializer) -> Array:
    """A class token before patches, and a learned position added to each.

    Args:
        block: which gets the parameters `class_token`, `[C]`, and `position`, `[N, C]`; to be
            called from within its compact `__call__`.
        patches: `[B, N - 1, C]`.
        start: of both.

    Returns:
        `[B, N, C]`.
    """
    b, _, c = patches.shape
    token = block.param("class_token", start, (c,)).reshape(1, 1, c)
    token = jnp.broadcast_to(token.astype(patches.dtype), (b, 1, c))
    y = jnp.concatenate([token, patches], 1)
    position = block.param("position", start, (y.shape[1], c))
    return y + position.reshape(1, -1, c).astype(patches.dtype)


class Patches(nn.Module):
    """A convolution whose stride is its kernel, `[p, p, c_in, features]`, with a bias.

    Attributes:
        features: channels of a patch.
        patch: p.
        border: pixels of zeros, b, on each side of an image.
    """

    features: int
    patch: int
    border: int = 0

    def makes(self, x: Array) -> tuple[int, ...]:
        """The shape of its output, see `liveness`."""
        return x.shape[0], ((x.shape[1] + 2 * self.border) // self.patch) ** 2, self.features

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, R, R, c_in]` -> `[B, ((R + 2 b) / p) ** 2, features]`."""
        if self.border:
            sides = (self.border, self.border)
            x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
        b, r, _, c = x.shape
        p, f = self.patch, self.features
        require(r % p == 0, f"images of {r} x {r} pixels have no patches of {p} x {p} without rest")
        start = layers.uniform_fan_in(p * p * c)  # PyTorch's, in the published code too
        kernel = layers.parameter(self, "kernel", start, (p, p, c, f))
        rows = x.reshape(b, r // p, p, r // p, p, c).transpose(0, 1, 3, 2, 4, 5)
        y = jnp.dot(rows.reshape(b, -1, p * p * c), kernel.reshape(-1, f).astype(x.dtype))
        return y + layers.parameter(self, "bias", start, (f,)).reshape(1, 1, f).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class TransformerSpec:
    """Sizes of a `TransformerBlock`.

    Attributes:
        c_in: C.
        num_heads: of attention.
        head_dim: channels of each head, whatever C is.
        hidden: channels between the two linear layers.
        grid: patches on a side of an image, whose relative positions count; 0 for none.
        distance: largest distance between patches that counts as such.
        prefix_bias: whether the bias of queries, keys and values is one vector, see
            `attention.Heads`.
        norm_digits: norms add 10 to the power of `-norm_digits` to a variance.
        drop_path: rate of both branches.
    """

    c_in: int
    num_heads: int
    head_dim: int
    hidden: int
    grid: int = 0
    distance: int = 0
    prefix_bias: bool = False
    drop_path: float = 0.0
    norm_digits: int = dataclasses.field(default=5, metadata={"later": True})


class TransformerBlock(nn.Module):
    """LayerNorm and self-attention, LayerNorm and two linear layers with exact GELU between them;
    each pair is added to its input.
    """

    spec: TransformerSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        s = self.spec
        attention = SelfAttention(
            s.num_heads,
            s.head_dim,
            bias=PREFIX if s.prefix_bias else BY_HEAD,
            grid=Grid(s.grid, s.grid, s.distance) if s.grid else None,
            name="attention",
        )
        norm = functools.partial(layers.LayerNorm, 10.0**-s.norm_digits)
        y = attention(norm(name="attention_norm")(x))
        x = x + layers.DropPath(s.drop_path, name="attention_drop")(y)
        y = norm(name="mlp_norm")(x)
        y = layers.Dense(s.hidden, start=NORMAL, name="expand")(y)
        y = layers.Dense(s.c_in, start=NORMAL, name="project")(nn.gelu(y, approximate=False))
        return x + layers.DropPath(s.drop_path, name="mlp_drop")(y)


@dataclasses.dataclass(frozen=True)
class TokensHeadSpec:
    """Sizes of a `TokensHead`.

    Attributes:
        c_in: C.
        classes: K.
        pool: what stands for the image: the mean of its patches, or the class token.
        norm_digits: as of a `TransformerSpec`.
    """

    c_in: int
    classes: int
    pool: Literal["patches", "class_token"] = "patches"
    norm_digits: int = dataclasses.field(default=5, metadata={"later": True})


class TokensHead(nn.Module):
    """LayerNorm, the mean of the patches or the class token, and a linear classifier."""

    spec: TokensHeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> logits `[B, K]`."""
        x = layers.LayerNorm(10.0**-self.spec.norm_digits, name="norm")(x)
        x = jnp.mean(x[:, 1:], 1) if self.spec.pool == "patches" else x[:, 0]
        return layers.Dense(self.spec.classes, start=NORMAL, name="classifier")(x)
