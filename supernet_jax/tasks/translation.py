"""Pairs of sequences: networks translate a source, token by token.

A source and what stands before each token of its target are one array of ids, so that an example
is one array for everything between the data and a network. In both, `PADDING` fills up what is
shorter, and `END` ends a sentence; it also stands before the first token of a target, as in
fairseq. Of text these ids are bytes that no line has: 0, and the end of a line.

Shape letters: `B` pairs, `S` ids of a source, `T` ids of a target, `V` ids of the vocabulary.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from supernet_jax.errors import UserError
from supernet_jax.tasks.language_modelling import perplexity, sequence_scores
from supernet_jax.tasks.task import Array, Metric, Scores, Size

PADDING, END = 0, 10


@dataclasses.dataclass(frozen=True)
class Translation:
    """Inputs are ids `[B, S + T]`, sources and then targets moved by one token; networks put out
    logits `[B, T, V]`. Targets are `[B, T]`, `language_modelling.IGNORED` behind the end.

    The metric is the perplexity of a token, e to the loss by which HAT's search compares subnets.
    Among the scores is the share of tokens that are right, where the tokens before are given.

    Attributes:
        vocabulary: V.
        source: S, the longest.
        target: T, the longest.
    """

    vocabulary: int
    source: int
    target: int

    name = "translation"
    metric = Metric("perplexity", higher_is_better=False)

    @property
    def guess(self) -> float:
        """Of equal probabilities."""
        return math.log(self.vocabulary)

    def inputs(self, size: Size) -> jax.ShapeDtypeStruct:
        """One pair; there is no size."""
        return jax.ShapeDtypeStruct((1, self.source + self.target), jnp.int32)

    def fit(self, inputs: Array, size: Size) -> Array:
        """Pairs as they are.

        Raises:
            UserError: they have other lengths.
        """
        wanted = self.source + self.target
        if inputs.shape[1] != wanted:
            raise UserError(
                f"pairs have {inputs.shape[1]} ids, but there must be {wanted}: {self.source} of "
                f"the source and {self.target} of the target, padded with {PADDING}"
            )
        return jnp.asarray(inputs, jnp.int32)

    def score(self, outputs: Array, targets: Array) -> Scores:
        """Loss, nats and tokens of each pair, see `sequence_scores`, and how many tokens are right:
        all `[B]`.
        """
        right = (jnp.argmax(outputs, -1) == targets) & (targets >= 0)
        return {**sequence_scores(outputs, targets), "right": jnp.sum(right, 1)}

    def value(self, scores: Scores) -> Any:
        """E to the mean loss of a token, over all tokens of all pairs."""
        return perplexity(scores)

    def accuracy(self, scores: Scores) -> Any:
        """Share of all tokens of all pairs that are right, where the tokens before are given."""
        return scores["right"].sum() / scores["tokens"].sum()
