"""Self-attention, for vision transformers and for decoders.

The number of heads may be elastic: kernels have an axis of their own for it, of which a smaller
layer has the leading part. Scores are divided by the root of the width of a head, which is fixed.

Shape letters: `B` examples, `N` tokens, `C` channels, `H` heads, `D` channels of a head, `R` rows
and `S` columns of a grid of patches, `M` largest distance on it.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.block_shapes import CHANNEL, HEAD

Array = jax.Array
# As timm's trunc_normal_(std=0.02) in effect: it cuts at 2, a hundred standard deviations.
NORMAL: layers.Initializer = nn.initializers.normal(0.02)
# Of the first of two factors: it keeps the scale of what it reads (variance 1 / inputs).
KEEPING: layers.Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
BY_HEAD, PREFIX, NONE = "by head", "prefix", "none"  # kinds of bias of queries, keys and values


class Grid(NamedTuple):
    """Tokens that are a class token and patches row by row, and how far their distances count.

    Attributes:
        rows: R.
        columns: S.
        distance: M; patches farther apart are taken to be M apart.
    """

    rows: int
    columns: int
    distance: int


class Heads(nn.Module):
    """Queries, keys and values in one product, kernel `[C, 3, H, D]`.

    Attributes:
        num_heads: H.
        head_dim: D.
        bias: "by head" for one of `[3, H, D]`, of which fewer heads have the leading ones; "prefix"
            for one of `[3 * H * D]`, which fewer heads read from its beginning: first all queries,
            then all keys, then all values, wherever those of more heads begin (AutoFormer's
            published code); "none".
        start: of the kernel; biases start at 0.
    """

    num_heads: int
    head_dim: int
    bias: str = BY_HEAD
    start: layers.Initializer = NORMAL

    # Flax would take an annotated one for a field.
    axes = {"kernel": (CHANNEL, CHANNEL, HEAD, CHANNEL)}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> `[B, N, 3, H, D]`."""
        h, d, c = self.num_heads, self.head_dim, x.shape[-1]
        kernel = layers.parameter(self, "kernel", self.start, (c, 3, h, d))
        y = jnp.dot(x, kernel.reshape(c, 3 * h * d).astype(x.dtype)).reshape(*x.shape[:-1], 3, h, d)
        if self.bias == NONE:
            return y
        shape = (3 * h * d,) if self.bias == PREFIX else (3, h, d)
        bias = layers.parameter(self, "bias", nn.initializers.zeros, shape)
        if self.bias == PREFIX:
            bias = read_prefix(bias, h, layers.alive(self, h))
        return y + bias.reshape(1, 1, 3, h, d).astype(y.dtype)


def read_prefix(bias: Array, heads: int, there: Array | None) -> Array:
    """The biases of queries, keys and values out of one prefix; see `Heads`.

    Args:
        bias: `[3 * H * D]`; beyond what the heads read it does not count.
        heads: H.
        there: which heads are there, `[H]`, the leading ones; None for all. Of a relaxed code how
            likely each is: then the result is the expectation.

    Returns:
        `[3, H, D]`, zero for heads that are not there.
    """
    d = bias.size // (3 * heads)
    if there is None:
        return bias.reshape(3, heads, d)
    number = np.arange(1, heads + 1).reshape(-1, 1, 1, 1)  # of heads that may be there
    kind, head = np.arange(3).reshape(1, 3, 1, 1), np.arange(heads).reshape(1, 1, -1, 1)
    place = (kind * number + head) * d + np.arange(d).reshape(1, 1, 1, -1)
    padded = jnp.concatenate([bias, jnp.zeros((1,), bias.dtype)])
    # A table for each number of heads and a sum, not a traced place: exact, with a gradient, and
    # right for codes too.
    tables = padded[np.where(head < number, place, bias.size)]
    exactly = there - jnp.concatenate([there[1:], jnp.zeros((1,), there.dtype)])
    return jnp.sum(exactly.reshape(-1, 1, 1, 1).astype(bias.dtype) * tables, 0)


class Merge(nn.Module):
    """Heads back to channels, kernel `[H, D, features]`, with a bias unless `bias` is false."""

    features: int
    bias: bool = True
    start: layers.Initializer = NORMAL

    axes = {"kernel": (HEAD, CHANNEL, CHANNEL)}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, H, D]` -> `[B, N, features]`."""
        *batch, h, d = x.shape
        kernel = layers.parameter(self, "kernel", self.start, (h, d, self.features))
        there = layers.alive(self, h)
        if there is not None:  # weights of an arch are masked as it is, those of a code are not
            kernel = kernel * there.reshape(-1, 1, 1).astype(kernel.dtype)
        y = jnp.dot(x.reshape(*batch, h * d), kernel.reshape(h * d, -1).astype(x.dtype))
        if not self.bias:
            return y
        bias = layers.parameter(self, "bias", nn.initializers.zeros, (self.features,))
        return y + bias.reshape(1, 1, -1).astype(y.dtype)


class Offsets(NamedTuple):
    """Embeddings of the distances between tokens of a grid.

    Attributes:
        token: of any pair with the class token in it, `[D]`.
        vertical: of the query's row and the key's, `[R, R, D]`.
        horizontal: of the query's column and the key's, `[S, S, D]`.
    """

    token: Array
    vertical: Array
    horizontal: Array


class RelativePositions(nn.Module):
    """AutoFormer's relative position (arXiv 2107.00651, section 3.3): a table for vertical and one
    for horizontal distances, `[2 M + 2, D]`.

    A pair of patches has the sum of two embeddings, those of the key's row and column less the
    query's, clipped to -M..M: rows 1 to 2 M + 1 of the tables. Row 0 of both is that of any pair
    with the class token in it.
    """

    grid: Grid
    head_dim: int

    @nn.compact
    def __call__(self) -> Offsets:
        """The embeddings of a grid."""
        rows, columns, m = self.grid
        shape = (2 * m + 2, self.head_dim)
        vertical = layers.parameter(self, "vertical", NORMAL, shape)
        horizontal = layers.parameter(self, "horizontal", NORMAL, shape)
        token = vertical[0] + horizontal[0]
        return Offsets(token, vertical[offset_rows(rows, m)], horizontal[offset_rows(columns, m)])


def offset_rows(count: int, distance: int) -> np.ndarray:
    """Rows of a table by place of the query and of the key: int `[count, count]`."""
    place = np.arange(count)
    return np.clip(place[None, :] - place[:, None], -distance, distance) + distance + 1


def position_scores(q: Array, offsets: Offsets) -> Array:
    """Each query times the embedding of its distance to each key: `[B, H, N, N]`.

    The distances are sums of those of rows and of columns, so products are taken with `R + S`
    embeddings for each query instead of N.

    Args:
        q: `[B, N, H, D]`, `N = 1 + R * S`.
        offsets: of the keys.
    """
    token, vertical, horizontal = (e.astype(q.dtype) for e in offsets)
    b, n, h, d = q.shape
    r, s = len(vertical), len(horizontal)
    of_token = jnp.einsum("bnhd,d->bhn", q, token)
    patches = q[:, 1:].reshape(b, r, s, h, d)
    of_rows = jnp.einsum("brshd,rid->bhrsi", patches, vertical)
    of_columns = jnp.einsum("brshd,sjd->bhrsj", patches, horizontal)
    of_patches = of_rows[..., :, None] + of_columns[..., None, :]
    below = jnp.concatenate([of_token[:, :, 1:, None], of_patches.reshape(b, h, n - 1, n - 1)], -1)
    first = jnp.broadcast_to(of_token[:, :, :1, None], (b, h, 1, n))
    return jnp.concatenate([first, below], 2)


def position_values(weights: Array, offsets: Offsets) -> Array:
    """The embeddings of distances, averaged by the weights of the keys: `[B, N, H, D]`.

    Args:
        weights: `[B, H, N, N]`, `N = 1 + R * S`.
        offsets: of the values.
    """
    token, vertical, horizontal = (e.astype(weights.dtype) for e in offsets)
    b, h, n, _ = weights.shape
    r, s = len(vertical), len(horizontal)
    patches = weights[:, :, 1:, 1:].reshape(b, h, r, s, r, s)
    y = jnp.einsum("bhrsi,rid->brshd", patches.sum(-1), vertical)
    y = y + jnp.einsum("bhrsj,sjd->brshd", patches.sum(-2), horizontal)
    of_token = jnp.concatenate([weights[:, :, :1].sum(-1), weights[:, :, 1:, 0]], -1)
    below = jnp.concatenate(
        [jnp.zeros((b, 1, h, token.size), y.dtype), y.reshape(b, n - 1, h, -1)], 1
    )
    return below + of_token.transpose(0, 2, 1)[..., None] * token.reshape(1, 1, 1, -1)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).

    Attributes:
        num_heads: H.
        head_dim: D, whatever `C / H` is.
        causal: whether a token sees itself and those before it alone.
        bias: of queries, keys and values, see `Heads`.
        out_bias: whether the output has one.
        grid: of relative positions, see `RelativePositions`; None for none.
        start: of kernels.
        ranks: of the products that make queries, keys and values, and that merge heads: each is
            then one of two kernels, of which the first has no bias. None for one kernel each.
    """

    num_heads: int
    head_dim: int
    causal: bool = False
    bias: str = BY_HEAD
    out_bias: bool = True
    grid: Grid | None = None
    start: layers.Initializer = NORMAL
    ranks: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape.

        Raises:
            UserError: the tokens are not those of the grid.
        """
        n, c = x.shape[1:]
        if self.ranks is not None:
            x = layers.Dense(self.ranks[0], start=KEEPING, bias=False, name="heads_down")(x)
        heads = Heads(self.num_heads, self.head_dim, self.bias, self.start, name="heads")(x)
        q, k, v = jnp.moveaxis(heads, 2, 0)
        q = q * self.head_dim**-0.5
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        if self.grid is not None:
            rows, columns, _ = self.grid
            require(
                n == 1 + rows * columns,
                f"a grid of {rows} x {columns} patches and a class token are "
                f"{1 + rows * columns} tokens, but there are {n}",
            )
            keys = RelativePositions(self.grid, self.head_dim, name="key_positions")()
            values = RelativePositions(self.grid, self.head_dim, name="value_positions")()
            scores = scores + position_scores(q, keys)
        scores = scores.astype(jnp.float32)
        if self.causal:
            seen = np.tril(np.ones((n, n), bool)).reshape(1, 1, n, n)
            scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        if self.grid is not None:
            y = y + position_values(weights, values)
        if self.ranks is None:
            return Merge(c, self.out_bias, self.start, name="merge")(y)
        y = Merge(self.ranks[1], False, KEEPING, name="merge")(y)
        return layers.Dense(c, start=self.start, bias=self.out_bias, name="merge_up")(y)
