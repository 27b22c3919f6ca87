"""The attention block of NASViT (Gong et al., ICLR 2022), as its published code computes it.

Shape letters: `B` images, `N` places on a side of an image, `C` channels, `H` heads, `D` channels
of a head, `S` largest number of places on a side.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.attention import NORMAL
from supernet_jax.nn.block_shapes import CHANNEL, SPATIAL

Array = jax.Array
REMAINDERS = 8  # branches have a scale of their own for each remainder of the number of places
START = 1e-4  # of the scales of branches


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Sizes of an `AttentionBlock`.

    Attributes:
        c_in: C, a multiple of `head_dim`.
        head_dim: D of queries and keys, whatever C is.
        value_ratio: channels of the values, by C.
        side: S, whose distances have a bias.
        rows: how many scales of its branches a block holds, by depth of the stage and by remainder
            of the number of places: all of them in shared weights, one in a subnet.
        row: which of the shared ones a subnet has; `scale_of_row` takes it out of them.
        drop_path: rate of all branches.
    """

    c_in: int
    head_dim: int
    value_ratio: int
    side: int
    rows: tuple[int, int] = (1, 1)
    row: tuple[int, int] = (0, 0)
    drop_path: float = 0.0


class AttentionBlock(nn.Module):
    """Attention between all places of an image, then two MLPs, each behind a norm of the whole
    image, scaled by channel and added to its input.

    Differs from a usual transformer's: the values are wider than queries and keys and pass a
    depthwise 3x3 convolution; scores have a learned bias for each distance and head (Swin, arXiv
    2103.14030); heads are mixed before and after the softmax (talking heads, arXiv
    2003.02436); swish is applied before heads are merged. The hidden channels of the MLPs are C.
    """

    spec: AttentionSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, N, C]` -> the same shape.

        Raises:
            UserError: N exceeds S.
        """
        s = self.spec
        branch = self._attention(_norm("attention_norm")(x))
        branch = branch * BranchScale(s.rows, name="attention_scale")(branch)
        x = x + layers.DropPath(s.drop_path, name="attention_drop")(branch)
        scale = BranchScale(s.rows, name="mlp_scale")(x)  # one for both
        for mlp in ("first_mlp", "second_mlp"):
            y = layers.Dense(s.c_in, name=f"{mlp}_expand")(_norm(f"{mlp}_norm")(x))
            y = layers.Dense(s.c_in, name=f"{mlp}_project")(nn.swish(y)) * scale
            x = x + layers.DropPath(s.drop_path, name=f"{mlp}_drop")(y)
        return x

    def _attention(self, x: Array) -> Array:
        s, (b, n, _, c) = self.spec, x.shape
        heads, wide = c // s.head_dim, c * s.value_ratio
        q = layers.Dense(c, name="query")(x).reshape(b, n * n, heads, s.head_dim)
        k = layers.Dense(c, name="key")(x).reshape(b, n * n, heads, s.head_dim)
        v = layers.Depthwise(3, name="value_conv")(layers.Dense(wide, name="value")(x))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * s.head_dim**-0.5, k)
        bias = DistanceBias(s.side, heads, name="distances")(n)
        scores = MixedHeads(name="mix_scores")(scores + bias[None].astype(scores.dtype))
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
        weights = MixedHeads(name="mix_weights")(weights)
        y = jnp.einsum("bhqk,bkhe->bqhe", weights, v.reshape(b, n * n, heads, wide // heads))
        return layers.Dense(c, name="merge")(nn.swish(y.reshape(b, n, n, wide)))


def _norm(name: str) -> layers.LayerNorm:
    """Moments over all channels of all places of an image."""
    return layers.LayerNorm(over=3, name=name)


class MixedHeads(nn.Module):
    """Each head of the output is a weighted sum of all heads, kernel `[H, H]`, and a bias."""

    axes = {"kernel": (CHANNEL, CHANNEL)}  # noqa: RUF012  Flax would take an annotated one for a field

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, N * N, N * N]` -> the same shape."""
        h = x.shape[1]
        start = layers.uniform_fan_in(h)
        kernel = layers.parameter(self, "kernel", start, (h, h))
        bias = layers.parameter(self, "bias", start, (h,))
        there = layers.alive(self, h)
        if there is not None:  # what other heads hold is not zero, as their softmax is not
            kernel = kernel * there.reshape(-1, 1).astype(kernel.dtype)
        y = jnp.einsum("bhqk,hg->bgqk", x, kernel.astype(x.dtype))
        return y + bias.reshape(1, -1, 1, 1).astype(y.dtype)


class DistanceBias(nn.Module):
    """A bias for each vertical and horizontal distance of a place from another, and each head.

    Its table, `[2 S - 1, 2 S - 1, H]`, is cut at its centre for smaller images, as a kernel is.
    """

    side: int
    heads: int

    axes = {"table": (SPATIAL, SPATIAL, CHANNEL)}  # noqa: RUF012

    @nn.compact
    def __call__(self, n: int) -> Array:
        """The biases of `n` x `n` places, row by row, by query and key: `[H, n * n, n * n]`."""
        require(
            n <= self.side,
            f"attention is between {n} x {n} places, but {self.side} x {self.side} have biases; "
            "take smaller images, or raise space.window",
        )
        edge = 2 * self.side - 1
        table = layers.parameter(self, "table", NORMAL, (edge, edge, self.heads))
        place = np.arange(n)
        of = place[:, None] - place[None, :] + self.side - 1  # query less key
        found = table[of][:, :, of]  # rows of query and key, then columns
        return found.transpose(4, 0, 2, 1, 3).reshape(self.heads, n * n, n * n)


class BranchScale(nn.Module):
    """What a branch is multiplied by, for each channel: a row of `[rows, rows, C]`, times 8 / C.

    The published code has a row for each depth of the stage and each remainder of the number of
    places divided by 8. A subnet has one of them. In a union, the one picked lies where a kernel of
    size 1 would, at the centre.
    """

    rows: tuple[int, int]

    axes = {"scale": (SPATIAL, SPATIAL, CHANNEL)}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` -> as many axes, all but the last of size 1."""
        c, (depths, remainders) = x.shape[-1], self.rows
        shape = (depths, remainders, c)
        scale = layers.parameter(self, "scale", nn.initializers.constant(START), shape)
        there = layers.alive(self, c)
        count = c if there is None else jnp.sum(there)
        row = scale[(depths - 1) // 2, (remainders - 1) // 2].reshape((1,) * (x.ndim - 1) + (c,))
        return (row * (REMAINDERS / count)).astype(x.dtype)


def scale_of_row(_: object, scales: Array, row: tuple[int, int]) -> Array:
    """The transform of a `BranchScale`: `[depths, remainders, C]` -> `[1, 1, C]`."""
    depth, remainder = row
    return scales[depth : depth + 1, remainder : remainder + 1]
