"""A task of one's own: text measured in bits per byte, what a compressor would need.

supernet train docs/examples/task.py --out runs/bits
supernet search runs/bits --config docs/examples/task.py --evaluations 50
"""

import dataclasses
import math
from typing import Any

import supernet_jax as sj
from supernet_jax.tasks import Metric, NextToken, Scores


@dataclasses.dataclass(frozen=True)
class Bits(NextToken):
    """The next byte of text, as the library's own task has it; only the metric is another."""

    name = "compression"
    metric = Metric("bits", "per byte", higher_is_better=False)

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
