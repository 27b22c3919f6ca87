"""Sequences of tokens in one of several classes.

Shape letters: `B` sequences, `T` tokens of each, `K` classes.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import optax

from supernet_jax.tasks.language_modelling import OfTokens
from supernet_jax.tasks.task import Array, Metric, Scores


@dataclasses.dataclass(frozen=True)
class SequenceClassification(OfTokens):
    """Ids of tokens `[B, T]` and labels `[B]`; networks put out logits `[B, K]`.

    Every sequence has all its T tokens: an id that fills shorter ones up is a token like any other,
    which nothing hides from the rest.

    Attributes:
        classes: K.
    """

    classes: int

    name = "classification of sequences"
    metric = Metric("accuracy", "%", mean_of="right")

    @property
    def guess(self) -> float:
        """Of equal probabilities."""
        return math.log(self.classes)

    def score(self, outputs: Array, targets: Array) -> Scores:
        """Whether each sequence is right, and its cross-entropy."""
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets)
        # Of logits that are not numbers the first would be the largest.
        return {"right": (jnp.argmax(outputs, -1) == targets) & jnp.isfinite(loss), "loss": loss}

    def value(self, scores: Scores) -> Any:
        """Share of sequences that are right."""
        return scores["right"].mean()
