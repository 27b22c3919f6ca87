"""The blocks of transformers on text: decoders of the form of LLaMA (arXiv 2302.13971) and Gemma
(arXiv 2403.08295), and encoders of the form of BERT (arXiv 1810.04805).

Shape letters: `B` sequences, `N` tokens of each, `C` channels, `V` ids of the vocabulary, `H` heads
of queries, `G` heads of keys and values, `D` channels of a head, `P` positions, `K`
classes.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import require
from supernet_jax.nn import layers
from supernet_jax.nn.attention import NORMAL, Merge, SelfAttention
from supernet_jax.nn.block_shapes import CHANNEL

Array = jax.Array
ROTARY_BASE = 10_000.0  # of wavelengths, as published
BERT_EPSILON = 1e-12  # of its normalisations


class Table(nn.Module):
    """Rows of numbers by id, `[rows, features]`, which start with a standard deviation."""

    rows: int
    features: int
    deviation: float = 0.02

    axes = {"table": (CHANNEL,) * 2}  # noqa: RUF012  Flax would take an annotated one for a field

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """`[...]` -> `[..., features]`, float32 or whatever the table is."""
        start = nn.initializers.normal(self.deviation)
        table = layers.parameter(self, "table", start, (self.rows, self.features))
        return jnp.take(table, ids, axis=0)


class TransposedTable(nn.Module):
    """The same parameters the other way: products with each row of a table."""

    rows: int

    axes = {"table": (CHANNEL,) * 2}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` -> `[..., rows]`."""
        table = layers.parameter(self, "table", NORMAL, (self.rows, x.shape[-1]))
        return jnp.dot(x, table.T.astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class TokenEmbeddingSpec:
    """Sizes of a `TokenEmbedding`.

    Attributes:
        vocabulary: V.
        c_out: C.
        positions: P, of learned positions; 0 for none.
        types: of segments, of which text that is not a pair has the first; 0 for none.
        norm: whether a LayerNorm follows.
    """

    vocabulary: int
    c_out: int
    positions: int = 0
    types: int = 0
    norm: bool = False


class TokenEmbedding(nn.Module):
    """A row of a table for each token; a learned position, a type and a LayerNorm where wanted."""

    spec: TokenEmbeddingSpec

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Whole numbers `[B, N]` -> `[B, N, C]`.

        Raises:
            UserError: there are more tokens than positions.
        """
        s, n = self.spec, ids.shape[1]
        y = Table(s.vocabulary, s.c_out, name="tokens")(ids)
        if s.positions:
            if isinstance(n, int):
                require(
                    n <= s.positions, f"{n} tokens were given, but there are {s.positions} places"
                )
            place = jnp.arange(n).reshape(1, n)
            y = y + Table(s.positions, s.c_out, name="positions")(place)
        if s.types:
            y = y + Table(s.types, s.c_out, name="types")(jnp.zeros((1, 1), jnp.int32))
        return layers.LayerNorm(BERT_EPSILON, name="norm")(y) if s.norm else y


class Projection(nn.Module):
    """Channels to heads, kernel `[C, num_heads, head_dim]`, without bias."""

    num_heads: int
    head_dim: int

    axes = {"kernel": (CHANNEL,) * 3}  # noqa: RUF012

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> `[B, N, num_heads, head_dim]`."""
        h, d, c = self.num_heads, self.head_dim, x.shape[-1]
        kernel = layers.parameter(self, "kernel", NORMAL, (c, h, d))
        return jnp.dot(x, kernel.reshape(c, h * d).astype(x.dtype)).reshape(*x.shape[:-1], h, d)


class CausalAttention(nn.Module):
    """Self-attention of which a token sees itself and those before it, without biases.

    Several heads of queries may share one of keys and values (grouped queries, arXiv 2305.13245):
    head `i` uses number `i mod G`, whatever H is, so that fewer heads of queries use the same ones.

    Attributes:
        num_heads: H, a multiple of G.
        kv_heads: G.
        head_dim: D.
        rotary: whether queries and keys are turned by their positions.
    """

    num_heads: int
    kv_heads: int
    head_dim: int
    rotary: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        b, n, c = x.shape
        h, g, d = self.num_heads, self.kv_heads, self.head_dim
        q = Projection(h, d, name="query")(x)
        k = Projection(g, d, name="key")(x)
        v = Projection(g, d, name="value")(x)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        q = (q * d**-0.5).reshape(b, n, h // g, g, d)
        scores = jnp.einsum("bqhgd,bkgd->bhgqk", q, k).astype(jnp.float32)
        place = jnp.arange(n)
        seen = (place.reshape(n, 1) >= place.reshape(1, n)).reshape(1, 1, 1, n, n)
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        y = jnp.einsum("bhgqk,bkgd->bqhgd", weights, v).reshape(b, n, h, d)
        return Merge(c, bias=False, name="merge")(y)


def rotated(x: Array) -> Array:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): pairs of channels, `i` and `i + D / 2`,
    turned by an angle of the position times `base ** (-2 i / D)`.

    Args:
        x: `[B, N, H, D]`, D even.
    """
    _, n, _, d = x.shape
    wave = rotary_waves(d).reshape(1, 1, 1, -1)
    angle = jnp.arange(n, dtype=jnp.float32).reshape(1, n, 1, 1) * wave
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.astype(x.dtype)


def rotary_waves(channels: int) -> np.ndarray:
    """Angles of one position, float32 `[D / 2]`, rounded once, so that all formats have the same.

    Args:
        channels: D.
    """
    half = channels // 2
    return np.asarray(ROTARY_BASE ** (-np.arange(half) / half), np.float32)


@dataclasses.dataclass(frozen=True)
class DecoderSpec:
    """Sizes of a `DecoderBlock`.

    Attributes:
        c_in: C.
        num_heads: H.
        kv_heads: G; H is a multiple of it.
        head_dim: D, whatever C is.
        hidden: channels of the gated layer.
        rotary: whether positions are rotary.
        activation: of the gate.
        drop_path: rate of both branches.
    """

    c_in: int
    num_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    rotary: bool = True
    activation: Literal["silu", "gelu"] = "silu"
    drop_path: float = 0.0


class DecoderBlock(nn.Module):
    """RMSNorm and causal self-attention, RMSNorm and a gated layer (arXiv 2002.05202); each pair is
    added to its input. There are no biases.
    """

    spec: DecoderSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        s = self.spec
        attention = CausalAttention(s.num_heads, s.kv_heads, s.head_dim, s.rotary, name="attention")
        y = attention(layers.RMSNorm(name="attention_norm")(x))
        x = x + layers.DropPath(s.drop_path, name="attention_drop")(y)
        y = layers.RMSNorm(name="mlp_norm")(x)
        gate = layers.Dense(s.hidden, start=NORMAL, bias=False, name="gate")(y)
        gate = nn.silu(gate) if s.activation == "silu" else nn.gelu(gate)
        y = gate * layers.Dense(s.hidden, start=NORMAL, bias=False, name="up")(y)
        y = layers.Dense(s.c_in, start=NORMAL, bias=False, name="down")(y)
        return x + layers.DropPath(s.drop_path, name="mlp_drop")(y)


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Sizes of an `EncoderBlock`.

    Attributes:
        c_in: C.
        num_heads: H.
        head_dim: D, whatever C is.
        hidden: channels between the two linear layers.
        drop_path: rate of both branches.
    """

    c_in: int
    num_heads: int
    head_dim: int
    hidden: int
    drop_path: float = 0.0


class EncoderBlock(nn.Module):
    """Self-attention, then two linear layers with exact GELU between them; each of the two is added
    to its input, and LayerNorm follows.
    """

    spec: EncoderSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        s = self.spec
        y = SelfAttention(s.num_heads, s.head_dim, name="attention")(x)
        y = layers.DropPath(s.drop_path, name="attention_drop")(y)
        x = layers.LayerNorm(BERT_EPSILON, name="attention_norm")(x + y)
        y = layers.Dense(s.hidden, start=NORMAL, name="expand")(x)
        y = layers.Dense(s.c_in, start=NORMAL, name="project")(nn.gelu(y, approximate=False))
        y = layers.DropPath(s.drop_path, name="mlp_drop")(y)
        return layers.LayerNorm(BERT_EPSILON, name="mlp_norm")(x + y)


@dataclasses.dataclass(frozen=True)
class WidthSpec:
    """Size of a block that keeps the width: C."""

    c_in: int


class FinalNorm(nn.Module):
    """The RMSNorm before the logits of a decoder."""

    spec: WidthSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        return layers.RMSNorm(name="norm")(x)


class TokenTransform(nn.Module):
    """A linear layer, exact GELU and LayerNorm before the logits of an encoder."""

    spec: WidthSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> the same shape."""
        y = layers.Dense(self.spec.c_in, start=NORMAL, name="dense")(x)
        return layers.LayerNorm(BERT_EPSILON, name="norm")(nn.gelu(y, approximate=False))


@dataclasses.dataclass(frozen=True)
class LogitsSpec:
    """Sizes of `TokenLogits` and `TiedLogits`.

    Attributes:
        c_in: C.
        vocabulary: V.
    """

    c_in: int
    vocabulary: int


class TokenLogits(nn.Module):
    """A linear layer without bias."""

    spec: LogitsSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> logits `[B, N, V]`."""
        return layers.Dense(self.spec.vocabulary, start=NORMAL, bias=False, name="logits")(x)


class TiedLogits(nn.Module):
    """Products with the rows of the table of a `TokenEmbedding`, whose parameters it shares."""

    spec: LogitsSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> logits `[B, N, V]`."""
        return TransposedTable(self.spec.vocabulary, name="tokens")(x)


@dataclasses.dataclass(frozen=True)
class OutputBiasSpec:
    """Size of an `OutputBias`: V."""

    vocabulary: int


class OutputBias(nn.Module):
    """A bias of the logits, for those that are tied to a table."""

    spec: OutputBiasSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, V]` -> the same shape."""
        bias = layers.parameter(self, "bias", nn.initializers.zeros, (self.spec.vocabulary,))
        return x + bias.reshape(1, 1, -1).astype(x.dtype)


class Pooler(nn.Module):
    """What stands for a sequence in BERT: its first token through a linear layer and tanh."""

    spec: WidthSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, N, C]` -> `[B, C]`."""
        return jnp.tanh(layers.Dense(self.spec.c_in, start=NORMAL, name="dense")(x[:, 0]))


@dataclasses.dataclass(frozen=True)
class PooledLogitsSpec:
    """Sizes of `PooledLogits`.

    Attributes:
        c_in: C.
        classes: of sequences, K.
    """

    c_in: int
    classes: int


class PooledLogits(nn.Module):
    """A linear classifier of what stands for a sequence."""

    spec: PooledLogitsSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, C]` -> logits `[B, K]`."""
        return layers.Dense(self.spec.classes, start=NORMAL, name="classifier")(x)
