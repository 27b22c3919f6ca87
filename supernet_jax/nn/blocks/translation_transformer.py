"""The blocks of HAT's translation transformers (arXiv 2005.14187), and how they are connected.

They are those of Vaswani et al. 2017 (arXiv 1706.03762): LayerNorm behind each part, ReLU, biases,
positions of sines and cosines. Queries, keys and values have the same channels whatever a token
has, and the number of heads says only how these channels are grouped. A layer of the decoder may
look at the outputs of the last layers of the encoder, one behind the other (HAT, section 2.1).

Shape letters: `B` pairs, `S` ids of a source, `T` ids of a target, `N` queries, `M` keys, `C`
channels of a token, `E` those of the encoder, `Q` channels of queries, `H` heads, `V` ids of the
vocabulary.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.nn import layers
from supernet_jax.nn.blocks.text_transformer import Table

Array = jax.Array
PADDING = 0  # id that is no part of a sentence
FIRST_PLACE = 2  # number of the first position, as fairseq counts them
LONGEST_WAVE = 10_000.0  # by how much the angles of the first and the last channel differ
START: layers.Initializer = nn.initializers.xavier_uniform()
LOWEST = float(np.finfo(np.float32).min)


@dataclasses.dataclass(frozen=True)
class ScaledEmbeddingSpec:
    """Sizes of a `ScaledEmbedding`.

    Attributes:
        vocabulary: V.
        c_out: C.
        width: channels of the shared table; positions are those of so many channels, of which a
            narrower block has the first.
        dropout: rate behind the sum.
    """

    vocabulary: int
    c_out: int
    width: int
    dropout: float = 0.0


class ScaledEmbedding(nn.Module):
    """A row of a table for each token, times the root of its channels, and its position."""

    spec: ScaledEmbeddingSpec

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        """Whole numbers `[B, N]` -> `[B, N, C]`."""
        s = self.spec
        rows = Table(s.vocabulary, s.c_out, s.width**-0.5, name="tokens")(ids)
        places = jnp.asarray(sinusoids(ids.shape[1], s.width)[None, :, : s.c_out], rows.dtype)
        there = layers.alive(self, s.c_out)
        if there is None:
            y = rows * math.sqrt(s.c_out) + places
        else:
            kept = there.reshape(1, 1, -1).astype(rows.dtype)
            y = rows * jnp.sqrt(jnp.sum(there)).astype(rows.dtype) + places * kept
        return layers.Dropout(s.dropout, s.width, name="drop")(y)


def sinusoids(count: int, width: int) -> np.ndarray:
    """Positions as tensor2tensor has them: float32 `[count, width]`, first all sines, then all
    cosines, of angles that fall from channel to channel by the same factor.

    Args:
        count: of tokens.
        width: channels, even, at least 4.
    """
    half = width // 2
    waves = np.exp(np.arange(half) * -(math.log(LONGEST_WAVE) / (half - 1)))
    angles = (np.arange(count) + FIRST_PLACE)[:, None] * waves[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)


class GroupedAttention(nn.Module):
    """Multi-head attention whose heads are groups of Q channels, with biases.

    A supernet's block may be given *shares*: how likely it has so many heads, by their number.
    Products are then taken for the channels of `num_heads` heads, of which all those numbers are
    divisors. A head of more channels has the sum of its parts' products as its scores, so shares
    choose among sums, and the weights are the same for every number of heads.

    Attributes:
        qkv: Q.
        num_heads: H, of which Q is a multiple.
        features: channels of the output.
    """

    qkv: int
    num_heads: int
    features: int

    @nn.compact
    def __call__(
        self, x: Array, memory: Array, bias: Array, shares: Mapping[int, Array] | None = None
    ) -> Array:
        """`[B, N, C]` and `[B, M, E]` -> `[B, N, features]`.

        Args:
            x: of which queries are made.
            memory: of which keys and values are made.
            bias: float32, added to the scores, to be broadcast to `[B, H, N, M]`.
            shares: by number of heads, `[]`; None for `num_heads` of them.
        """
        h, d = self.num_heads, self.qkv // self.num_heads
        q, k, v = (
            layers.Dense(self.qkv, start=START, name=name)(rows).reshape(*rows.shape[:2], h, d)
            for name, rows in (("query", x), ("key", memory), ("value", memory))
        )
        products = jnp.einsum("bnhd,bmhd->bhnm", q, k).astype(jnp.float32)
        if shares is None:
            scores = products * d**-0.5
        else:
            scores = sum(
                share * (self.qkv / count) ** -0.5 * _summed(products, count)
                for count, share in shares.items()
            )
        weights = jax.nn.softmax(scores + bias).astype(x.dtype)
        y = jnp.einsum("bhnm,bmhd->bnhd", weights, v).reshape(*x.shape[:2], self.qkv)
        return layers.Dense(self.features, start=START, name="merge")(y)


def _summed(products: Array, heads: int) -> Array:
    """`[B, H, N, M]`, in which each head has the sum over those of its group, of `heads` groups."""
    b, h, n, m = products.shape
    grouped = products.reshape(b, heads, h // heads, n, m)
    sums = jnp.sum(grouped, 2, keepdims=True)
    return jnp.broadcast_to(sums, grouped.shape).reshape(products.shape)


def gate(kind: str, option: int) -> str:
    """The gate of a supernet's block that says whether one option was taken."""
    return f"{kind}_{option}"


def _shares(block: nn.Module, kind: str, most: int) -> dict[int, Array] | None:
    """How likely each option is; None for a block at its own size, which has one."""
    found: dict[int, Array] = {}
    for option in range(1, most + 1):
        if block.has_variable("gates", gate(kind, option)):
            found[option] = block.get_variable("gates", gate(kind, option))
    return found or None


def _unseen(ids: Array) -> Array:
    """What is added to the scores of keys: nothing, or the lowest number for padding."""
    return jnp.where(ids == PADDING, LOWEST, 0.0).reshape(ids.shape[0], 1, 1, ids.shape[1])


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them."""

    hidden: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., C]` -> `[..., features]`."""
        y = nn.relu(layers.Dense(self.hidden, start=START, name="expand")(x))
        return layers.Dense(self.features, start=START, name="project")(y)


@dataclasses.dataclass(frozen=True)
class TranslationEncoderSpec:
    """Sizes of a `TranslationEncoder`.

    Attributes:
        c_in: C.
        qkv: Q.
        heads: H.
        hidden: channels between the linear layers.
        width: channels for which dropout bits are drawn, in every subnet.
        dropout: rate behind each part.
    """

    c_in: int
    qkv: int
    heads: int
    hidden: int
    width: int
    dropout: float = 0.0


class TranslationEncoder(nn.Module):
    """Self-attention, then two linear layers; each is added to its input, and LayerNorm follows."""

    spec: TranslationEncoderSpec

    @nn.compact
    def __call__(self, x: Array, source: Array) -> Array:
        """`[B, S, C]` and ids `[B, S]` -> `[B, S, C]`."""
        s = self.spec
        attention = GroupedAttention(s.qkv, s.heads, s.c_in, name="attention")
        y = attention(x, x, _unseen(source), _shares(self, "heads", s.heads))
        y = layers.Dropout(s.dropout, s.width, name="attention_drop")(y)
        x = layers.LayerNorm(name="attention_norm")(x + y)
        y = FeedForward(s.hidden, s.c_in, name="mlp")(x)
        y = layers.Dropout(s.dropout, s.width, name="mlp_drop")(y)
        return layers.LayerNorm(name="mlp_norm")(x + y)


@dataclasses.dataclass(frozen=True)
class TranslationDecoderSpec:
    """Sizes of a `TranslationDecoder`.

    Attributes:
        c_in: C.
        c_memory: E.
        qkv: Q.
        heads: H of self-attention.
        memory_heads: H of attention to the encoder.
        hidden: channels between the linear layers.
        memories: to how many layers of the encoder it attends, the last one first.
        width: channels for which dropout bits are drawn, in every subnet.
        dropout: rate behind each part.
    """

    c_in: int
    c_memory: int
    qkv: int
    heads: int
    memory_heads: int
    hidden: int
    memories: int
    width: int
    dropout: float = 0.0


class TranslationDecoder(nn.Module):
    """Self-attention to what came before, attention to outputs of the encoder, two linear layers;
    each is added to its input, and LayerNorm follows.
    """

    spec: TranslationDecoderSpec

    @nn.compact
    def __call__(self, x: Array, source: Array, *memories: Array) -> Array:
        """`[B, T, C]`, ids `[B, S]` and outputs of the encoder's layers, each `[B, S, E]`, the last
        layer's first -> `[B, T, C]`.
        """
        s, n = self.spec, x.shape[1]
        later = jnp.where(np.tril(np.ones((n, n), bool)), 0.0, LOWEST).reshape(1, 1, n, n)
        attention = GroupedAttention(s.qkv, s.heads, s.c_in, name="attention")
        y = attention(x, x, later, _shares(self, "heads", s.heads))
        y = layers.Dropout(s.dropout, s.width, name="attention_drop")(y)
        x = layers.LayerNorm(name="attention_norm")(x + y)
        attention = GroupedAttention(s.qkv, s.memory_heads, s.c_in, name="memory")
        seen = jnp.concatenate(memories[: s.memories], 1)
        y = attention(x, seen, self._bias(source), _shares(self, "memory_heads", s.memory_heads))
        y = layers.Dropout(s.dropout, s.width, name="memory_drop")(y)
        x = layers.LayerNorm(name="memory_norm")(x + y)
        y = FeedForward(s.hidden, s.c_in, name="mlp")(x)
        y = layers.Dropout(s.dropout, s.width, name="mlp_drop")(y)
        return layers.LayerNorm(name="mlp_norm")(x + y)

    def _bias(self, source: Array) -> Array:
        """What is added to the scores of the keys of all memories, `[B, 1, 1, M]`.

        The logarithm of how likely a memory is there: 0 of one that is, the lowest of one that is
        not; of a relaxed code the softmax is then over expected keys.
        """
        one, count = _unseen(source), self.spec.memories
        shares = _shares(self, "memories", count)
        if shares is None:
            return jnp.concatenate([one] * count, -1)
        biases = []
        for i in range(count):
            likely = jnp.asarray(sum(share for number, share in shares.items() if number > i))
            is_there = likely > 0
            log = jnp.log(jnp.where(is_there, likely, 1.0))
            biases.append(jnp.maximum(one + jnp.where(is_there, log, LOWEST), LOWEST))
        return jnp.concatenate(biases, -1)


@dataclasses.dataclass(frozen=True)
class EncoderDecoder:
    """The topology: ids of a source and, behind them, of a target go through an encoder and a
    decoder.

    A layer that a subnet lacks puts out what it is given, so that the last of the encoder's layers
    are counted from the deepest that the space has, as HAT's published code counts them.

    Attributes:
        source: S.
        encoder: number of the encoder's layers.
        decoder: number of the decoder's layers.
        memories: of how many of the encoder's layers a layer of the decoder is given the outputs.
    """

    source: int
    encoder: int
    decoder: int
    memories: int

    def __call__(self, run: Callable[..., Any], ids: Array) -> Any:
        """Ids `[B, S + T]` -> logits `[B, T, V]`."""
        source, target = ids[:, : self.source], ids[:, self.source :]
        x, outputs = run("encoder_embed", source), []
        for i in range(self.encoder):
            x = run(f"encoder{i + 1}", x, source)
            outputs.append(x)
        y = run("decoder_embed", target)
        for i in range(self.decoder):
            y = run(f"decoder{i + 1}", y, source, *outputs[::-1][: self.memories])
        return run("head", y)
