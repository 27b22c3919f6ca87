"""A space that compiles in a moment: mixed pixels and a mean, with normalisation and dropout."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from supernet_jax.elastic import strategies
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.nn import layers
from supernet_jax.tasks import ImageClassification

CLASSES, CHANNELS = 5, 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the blocks."""

    c_in: int
    c_out: int
    dropout: float = 0.0


class Mix(nn.Module):
    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = layers.Pointwise(self.spec.c_out, bias=True, name="mix")(x)
        return nn.swish(layers.BatchNorm(name="norm")(y))


class Pool(nn.Module):
    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dropped = layers.Dropout(self.spec.dropout, 6, name="dropout")(jnp.mean(x, (1, 2)))
        return layers.Dense(self.spec.c_out, name="classifier")(dropped)


def light(
    *,
    dropout: float = 0.0,
    bank: Bank | None = None,
    widths: tuple[int, ...] = (3, 4, 6),
    resolutions: tuple[int, ...] = (6, 8),
) -> Space:
    """12 archs: up to two layers of elastic width, then a classifier of the mean."""
    menu = {"resolution": Choice(resolutions), "width": Choice(widths), "depth": Choice((1, 2))}
    make = functools.partial(elastic, menu=menu, decisions=[("width",)])
    blocks = {
        "first": make(Mix, lambda c: Sizes(CHANNELS, c)),
        "second": make(Mix, lambda c: Sizes(c, c), depth=(("depth",), 1)),
        "pool": make(Pool, lambda c: Sizes(c, CLASSES, dropout)),
    }
    forward = strategies.chain(tuple(blocks))
    task = ImageClassification(CHANNELS, CLASSES)
    return Space("light", menu, blocks, forward, task, (("resolution",),), bank=bank)


@dataclasses.dataclass(frozen=True)
class LinearSpec:
    """Channels of a `Linear`."""

    c_in: int
    c_out: int


class Linear(nn.Module):
    spec: LinearSpec

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return layers.Dense(self.spec.c_out, name="dense")(x)


def tied() -> Space:
    """A linear layer used up to twice, first optionally, and a classifier."""
    menu = {"resolution": Choice((2,)), "depth": Choice((1, 2)), "width": Choice((3, 4))}
    width = [("width",)]
    blocks = {
        "stem": elastic(Linear, lambda c: LinearSpec(1, c), menu=menu, decisions=width),
        "maybe": elastic(
            Linear,
            lambda c: LinearSpec(c, c),
            menu=menu,
            decisions=width,
            depth=(("depth",), 1),
            group="shared",
        ),
        "always": elastic(
            Linear, lambda c: LinearSpec(c, c), menu=menu, decisions=width, group="shared"
        ),
        "head": elastic(Linear, lambda c: LinearSpec(c, 5), menu=menu, decisions=width),
    }

    def forward(run: Any, x: Any) -> Any:
        x = run("always", run("maybe", run("stem", x)))
        return jnp.mean(run("head", x), (1, 2))

    return Space("tied", menu, blocks, forward, ImageClassification(1, 5), (("resolution",),))
