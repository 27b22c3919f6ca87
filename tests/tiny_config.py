"""A config file of a user's own, with a space that compiles in seconds: 24 archs for 8x8 images.

supernet train tests/tiny_config.py --out runs/tiny
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Uniform


@dataclasses.dataclass(frozen=True)
class FilterSpec:
    """Sizes of a `Filter`."""

    c_in: int
    c_out: int
    kernel: int


class Filter(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    spec: FilterSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Conv(self.spec.c_out, self.spec.kernel, name="conv")(x)
        return nn.relu(layers.BatchNorm(name="norm")(x))


@dataclasses.dataclass(frozen=True)
class LinearSpec:
    """Sizes of a `Linear`."""

    c_in: int
    classes: int


class Linear(nn.Module):
    """A linear classifier of the mean over the image."""

    spec: LinearSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(x, (1, 2)))


@dataclasses.dataclass(frozen=True)
class TinySpace:
    """One block and perhaps another, each with two kernels."""

    widths: tuple[int, ...] = (2, 4, 6)
    """channels on offer"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space for data with so many classes and channels."""
        menu = {
            "resolution": Choice((8,)),
            "width": Choice(self.widths),
            "depth": Choice((0, 1)),
            "kernel": [Choice((1, 3)), Choice((1, 3))],
        }
        blocks = {
            "first": elastic(
                Filter,
                lambda c, k: FilterSpec(input_channels, c, k),
                menu=menu,
                decisions=[("width",), ("kernel", 0)],
            ),
            "second": elastic(
                Filter,
                lambda c, k: FilterSpec(c, c, k),
                menu=menu,
                decisions=[("width",), ("kernel", 1)],
                depth=(("depth",), 0),
            ),
            "head": elastic(
                Linear, lambda c: LinearSpec(c, classes), menu=menu, decisions=[("width",)]
            ),
        }
        task = ImageClassification(input_channels, classes)
        return Space("tiny", menu, blocks, chain(tuple(blocks)), task, (("resolution",),))


config = Config(
    space=TinySpace(),
    data=Data(name="digits", held_out=0.2),
    sampler=Uniform(n_random=1),
    loss=HardLabels(smoothing=0.0),
    optimizer=Sgd(learning_rate=0.5),
    train=Train(steps=30, batch=64, checkpoint_every=15, log_every=10),
    evaluation=Evaluation(calibration_batches=1, batch=64, chunk=4, limit=64),
)
