"""Sequences of tokens: networks give probabilities of the next one, or of those that were hidden.

Shape letters: `B` sequences, `T` tokens of each, `V` tokens of the vocabulary.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError, require
from supernet_jax.tasks.task import Array, Metric, Scores, Size

IGNORED = -1  # a target that does not count


@dataclasses.dataclass(frozen=True)
class OfTokens:
    """What tasks have alike whose inputs are ids of tokens `[B, T]`; networks put out `[B, T, V]`.

    A space may have the length of sequences as its static decision. Shorter ones are the beginnings
    of longer ones. Without such a decision networks take sequences as long as they come.

    Attributes:
        vocabulary: V, the number of ids.
        length: T of the data, the longest.
    """

    vocabulary: int
    length: int

    name = "a task on tokens"
    metric = Metric("perplexity", higher_is_better=False)

    @property
    def guess(self) -> float:
        """Of equal probabilities."""
        return math.log(self.vocabulary)

    def inputs(self, size: Size) -> jax.ShapeDtypeStruct:
        """One sequence."""
        return jax.ShapeDtypeStruct((1, _length(size, self.length)), jnp.int32)

    def fit(self, inputs: Array, size: Size) -> Array:
        """The beginnings of sequences; all of them where their length is no static decision."""
        return _beginnings(inputs, inputs.shape[1] if size == () else _length(size, self.length))

    def score(self, outputs: Array, targets: Array) -> Scores:
        """See `sequence_scores`."""
        return sequence_scores(outputs, targets)

    def value(self, scores: Scores) -> Any:
        """See `perplexity`."""
        return perplexity(scores)


@dataclasses.dataclass(frozen=True)
class NextToken(OfTokens):
    """The targets are the token that follows each."""

    name = "language modelling"


@dataclasses.dataclass(frozen=True)
class HiddenTokens(OfTokens):
    """Some tokens are hidden behind an id of their own, the last one of the vocabulary; targets are
    those that were there, `IGNORED` elsewhere.

    BERT's masked language modelling (Devlin et al. 2018, arXiv 1810.04805, section 3.1), with every
    chosen token hidden (there 80 % are).

    Attributes:
        share: of tokens that are hidden.
    """

    share: float = 0.15

    name = "masked language modelling"

    def hide(self, tokens: Array, key: Array, ids: Array) -> tuple[Array, Array]:
        """Hides some tokens: `(inputs, targets)`.

        Args:
            tokens: `[B, T]`.
            key: what is hidden depends on it and on the example alone.
            ids: int32 `[B]`, of the examples.
        """

        def one(tokens: Array, example: Array) -> tuple[Array, Array]:
            hidden = jax.random.bernoulli(
                jax.random.fold_in(key, example), self.share, tokens.shape
            )
            ids = tokens.astype(jnp.int32)
            return jnp.where(hidden, self.vocabulary - 1, ids), jnp.where(hidden, ids, IGNORED)

        inputs, targets = jax.vmap(one)(tokens, ids)
        return inputs, targets


@dataclasses.dataclass(frozen=True)
class HideTokens:
    """Bytes of text hidden at random, to be found by what is around them (BERT)."""

    share: float = 0.15
    """share of the bytes that are hidden; more make each example say more, and harder to guess"""

    def build(self, *, vocabulary: int, length: int) -> HiddenTokens:
        """The task for data of so many ids, with one more that hides."""
        require(0 < self.share < 1, f"task.share is {self.share}, but must be above 0 and below 1")
        return HiddenTokens(vocabulary + 1, length, self.share)


def sequence_scores(outputs: Array, targets: Array) -> Scores:
    """Negative log-likelihood of each sequence in nats `[B]`, and how many tokens it is of; "loss"
    is the one divided by the other.

    Args:
        outputs: logits `[B, T, V]`.
        targets: `[B, T']` with T' of at least T: the first T count, `IGNORED` ones do not.
    """
    targets = targets[:, : outputs.shape[1]]
    counts = targets >= 0
    wanted = jnp.maximum(targets, 0).astype(jnp.int32)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, wanted)
    nats, tokens = jnp.sum(jnp.where(counts, losses, 0.0), 1), jnp.sum(counts, 1)
    return {"loss": nats / jnp.maximum(tokens, 1), "nats": nats, "tokens": tokens}


def perplexity(scores: Scores) -> Any:
    """E to the mean loss of a token, over all tokens of all sequences."""
    return jnp.exp(scores["nats"].sum() / scores["tokens"].sum())


def _length(size: Size, longest: int) -> int:
    if isinstance(size, int):
        return size
    return size[0] if size else longest


def _beginnings(inputs: Array, length: int) -> Array:
    if inputs.shape[1] < length:
        raise UserError(
            f"sequences have {inputs.shape[1]} tokens, but the space wants {length}; give longer "
            "ones, or a space of shorter ones"
        )
    return jnp.asarray(inputs[:, :length], jnp.int32)
