"""A task of one's own: text measured in bits per byte, what a compressor would need.

supernet train docs/examples/task.py --out runs/bits
supernet search runs/bits --config docs/examples/task.py --evaluations 50
"""

import dataclasses
import math
from typing import Any

import jax

import supernet_jax as sj
from supernet_jax.tasks import Metric, NextToken, Scores, Size


@dataclasses.dataclass(frozen=True)
class Bits:
    """The next byte of text, as the library's own task has it; only the metric is another."""

    vocabulary: int
    length: int

    name = "compression"
    metric = Metric("bits", "per byte", higher_is_better=False)

    @property
    def usual(self) -> NextToken:
        """What does all the rest."""
        return NextToken(self.vocabulary, self.length)

    @property
    def guess(self) -> float:
        """Loss in nats of who knows nothing."""
        return math.log(self.vocabulary)

    def inputs(self, size: Size) -> jax.ShapeDtypeStruct:
        """One example, as the first block gets it."""
        return self.usual.inputs(size)

    def fit(self, inputs: jax.Array, size: Size) -> jax.Array:
        """Inputs of any size, brought to a size."""
        return self.usual.fit(inputs, size)

    def score(self, outputs: jax.Array, targets: jax.Array) -> Scores:
        """What is measured of each example: "loss", "nats" and "tokens"."""
        return self.usual.score(outputs, targets)

    def value(self, scores: Scores) -> Any:
        """The metric of all examples, by all their scores at once."""
        return scores["nats"].sum() / scores["tokens"].sum() / math.log(2)


@dataclasses.dataclass(frozen=True)
class CountBits:
    """What a config file names."""

    def build(self, *, vocabulary: int, length: int) -> Bits:
        """The task for data of so many ids and such examples."""
        return Bits(vocabulary, length)


config = sj.Config(
    task=CountBits(),
    space=sj.spaces.Decoder(),
    data=sj.Data(name="source:stdlib", length=64),
    loss=sj.losses.SoftCrossEntropy(smoothing=0.0),
    optimizer=sj.optimizers.AdamW(learning_rate=2e-3),
    train=sj.Train(steps=300, batch=16),
    evaluation=sj.Evaluation(limit=512),
)
