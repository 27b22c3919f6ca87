"""A space of one's own: a plain convolutional network with elastic width, kernel and depth.

supernet train docs/examples/space.py --out runs/plain
supernet search runs/plain --config docs/examples/space.py --evaluations 100
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

import supernet_jax as sj
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class PlainSpec:
    """Sizes of a `Plain` block."""

    c_in: int
    c_out: int
    kernel: int


class Plain(nn.Module):
    """Convolution, BatchNorm, ReLU: an ordinary Flax module that knows nothing of supernets."""

    spec: PlainSpec

    @nn.compact
    def __call__(self, x):
        x = layers.Conv(self.spec.c_out, self.spec.kernel, name="conv")(x)
        return nn.relu(layers.BatchNorm(name="norm")(x))


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """Sizes of a `Pool` head."""

    c_in: int
    classes: int


class Pool(nn.Module):
    """Mean over the image, then a linear classifier."""

    spec: PoolSpec

    @nn.compact
    def __call__(self, x):
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(x, (1, 2)))


@dataclasses.dataclass(frozen=True)
class PlainSpace:
    """What a config file names. Its fields can be set on the command line: --space.widths 8 16."""

    widths: tuple[int, ...] = (8, 16, 24)
    """channels on offer"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space: a menu, the blocks, and how each reads its sizes off the decisions."""
        menu = {
            "resolution": Choice((8,)),
            "width": Choice(self.widths),
            "depth": Choice((1, 2, 3)),
            "kernel": Choice((1, 3, 5)),
        }
        width, depth, kernel = ("width",), ("depth",), ("kernel",)
        blocks = {
            "first": elastic(
                Plain,
                lambda c, k: PlainSpec(input_channels, c, k),
                menu=menu,
                decisions=[width, kernel],
            )
        }
        for i in range(3):
            blocks[f"block{i}"] = elastic(
                Plain,
                lambda c, k: PlainSpec(c, c, k),
                menu=menu,
                decisions=[width, kernel],
                depth=(depth, i),  # there in archs whose depth exceeds i
            )
        blocks["head"] = elastic(Pool, lambda c: PoolSpec(c, classes), menu=menu, decisions=[width])
        task = ImageClassification(input_channels, classes)
        return Space("plain", menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


config = sj.Config(
    space=PlainSpace(),
    data=sj.Data(name="digits", held_out=0.2),
    optimizer=sj.optimizers.Sgd(learning_rate=0.1, warmup=0.1),
    train=sj.Train(steps=200, batch=64),
)
