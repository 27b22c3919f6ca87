"""The blocks of MCUFormer (arXiv 2310.16898): patches of several sizes, and a vision transformer
whose linear layers are products of two factors.

Shape letters: `B` images, `R` pixels on a side, `G` patches on a side, `N` tokens (the class token
first, then patches row by row), `C` channels.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.attention import KEEPING, NORMAL, Grid, SelfAttention
from supernet_jax.nn.blocks.vision_transformer import Patches

Array = jax.Array


def border(resolution: int, patch: int) -> int:
    """Pixels of zeros on each side of an image, with which patches cover it without rest.

    Raises:
        UserError: a patch larger than the image, or a border that is not the same on both sides.
    """
    missing = -resolution % patch
    require(
        1 <= patch <= resolution and missing % 2 == 0,
        f"images of {resolution} pixels cannot be cut into patches of {patch}: the patch must "
        "divide the resolution, or leave a border of zeros that is equal on both sides and smaller "
        "than a patch; choose another patch or resolution",
    )
    return missing // 2


@dataclasses.dataclass(frozen=True)
class SizedPatchEmbeddingSpec:
    """Sizes of a `SizedPatchEmbedding`.

    Attributes:
        c_in: channels of the images.
        c_out: C.
        patch: pixels on a side of a patch.
        patches: sizes of all patches that there are weights for; none for `patch` alone.
        grids: numbers of patches on a side that there are positions for; none for G alone.
        deviation: standard deviation with which the class token and positions start.
    """

    c_in: int
    c_out: int
    patch: int
    patches: tuple[int, ...] = ()
    grids: tuple[int, ...] = ()
    deviation: float = 0.02


class SizedPatchEmbedding(nn.Module):
    """Patches projected linearly, a class token before them, a learned position added to each.

    Each size of patches has a projection of its own, and each number of them positions of their
    own; all share the class token.
    """

    spec: SizedPatchEmbeddingSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, R, R, c_in]` -> `[B, N, C]`.

        Raises:
            UserError: see `border`.
        """
        s, start = self.spec, nn.initializers.normal(self.spec.deviation)
        side = (x.shape[1] + 2 * border(x.shape[1], s.patch)) // s.patch
        # All have parameters here; what is not used is computed by nothing that is compiled.
        projected = {
            p: Patches(s.c_out, p, border(x.shape[1], p), name=f"patch{p}")(x)
            for p in s.patches or (s.patch,)
        }
        positions = {
            g: layers.parameter(self, f"position{g}", start, (1 + g * g, s.c_out))
            for g in s.grids or (side,)
        }
        token = layers.parameter(self, "class_token", start, (s.c_out,)).reshape(1, 1, -1)
        token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, s.c_out))
        y = jnp.concatenate([token, projected[s.patch]], 1)
        return y + positions[side][None].astype(y.dtype)


@jax.jit
def gelu(x: Array) -> Array:
    """Exact GELU. Traced by itself, it is one operation in place, see `liveness`."""
    return nn.gelu(x, approximate=False)


@dataclasses.dataclass(frozen=True)
class LowRankTransformerSpec:
    """Sizes of a `LowRankTransformerBlock`.

    Attributes:
        c_in: C.
        num_heads: of attention.
        head_dim: channels of each head, whatever C is.
        hidden: channels between the two linear layers of the MLP.
        heads_rank: of the product that makes queries, keys and values.
        merge_rank: of the one that merges heads.
        expand_rank: of the MLP's first linear layer.
        project_rank: of its second.
        distance: largest distance between patches with a relative position of its own; 0 for no
            relative positions.
        drop_path: rate of both branches.
        deviation: standard deviation with which second factors start; narrow tokens and short
            trainings want more.
    """

    c_in: int
    num_heads: int
    head_dim: int
    hidden: int
    heads_rank: int
    merge_rank: int
    expand_rank: int
    project_rank: int
    distance: int = 0
    drop_path: float = 0.0
    deviation: float = 0.02


class LowRankTransformerBlock(nn.Module):
    """LayerNorm and self-attention, LayerNorm and two linear layers with exact GELU between them;
    each pair is added to its input. Every linear layer is `x A B + b`, with A `[inputs, rank]` and
    B `[rank, outputs]`.
    """

    spec: LowRankTransformerSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape; N is 1 and a square number."""
        s, side = self.spec, math.isqrt(x.shape[1] - 1)
        start = NORMAL if s.deviation == 0.02 else nn.initializers.normal(s.deviation)
        attention = SelfAttention(
            s.num_heads,
            s.head_dim,
            grid=Grid(side, side, s.distance) if s.distance else None,
            start=start,
            ranks=(s.heads_rank, s.merge_rank),
            name="attention",
        )
        y = attention(layers.LayerNorm(name="attention_norm")(x))
        x = x + layers.DropPath(s.drop_path, name="attention_drop")(y)
        y = layers.LayerNorm(name="mlp_norm")(x)
        y = layers.Dense(s.expand_rank, start=KEEPING, bias=False, name="expand_down")(y)
        y = layers.Dense(s.hidden, start=start, name="expand")(y)
        y = gelu(y)
        y = layers.Dense(s.project_rank, start=KEEPING, bias=False, name="project_down")(y)
        y = layers.Dense(s.c_in, start=start, name="project")(y)
        return x + layers.DropPath(s.drop_path, name="mlp_drop")(y)
