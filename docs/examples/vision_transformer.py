"""Vision transformers of one's own: elastic width, depth, heads and MLPs, for 8x8 digits.

supernet train docs/examples/vision_transformer.py --out runs/vit
supernet search runs/vit --config docs/examples/vision_transformer.py --evaluations 100
"""

import dataclasses

import flax.linen as nn

import supernet_jax as sj
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.nn import layers
from supernet_jax.nn.attention import SelfAttention
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbedding,
    PatchEmbeddingSpec,
    TokensHead,
    TokensHeadSpec,
)
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """Sizes of an `Encoder`."""

    c_in: int
    heads: int
    hidden: int


class Encoder(nn.Module):
    """An ordinary Flax module: attention and an MLP, each behind a norm and added to its input."""

    spec: EncoderSpec

    @nn.compact
    def __call__(self, x):
        s = self.spec
        y = layers.RMSNorm(name="attention_norm")(x)
        wide = nn.initializers.normal(0.15)  # 0.02 is for wide tokens and long trainings
        x = x + SelfAttention(s.heads, head_dim=8, start=wide, name="attention")(y)
        y = layers.RMSNorm(name="mlp_norm")(x)
        y = nn.gelu(layers.Dense(s.hidden, name="expand")(y))
        return x + layers.Dense(s.c_in, name="project")(y)


@dataclasses.dataclass(frozen=True)
class VisionTransformer:
    """What a config file names. Its fields can be set on the command line: --space.depths 1 2."""

    widths: tuple[int, ...] = (24, 32, 48)
    """channels of a token on offer"""
    heads: tuple[int, ...] = (2, 3, 4)
    """heads on offer in each block"""
    ratios: tuple[int, ...] = (1, 2, 3)
    """hidden channels for each channel of a token, on offer in each block"""
    depths: tuple[int, ...] = (2, 3, 4)
    """numbers of blocks on offer"""

    def build(self, *, classes: int, input_channels: int) -> Space:
        """The space: 16 patches of 2 x 2 pixels, then blocks, of which an arch has the first."""
        width, depth, n = ("width",), ("depth",), max(self.depths)
        menu = {
            "resolution": Choice((8,)),
            "width": Choice(self.widths),
            "depth": Choice(self.depths),
            "heads": [Choice(self.heads, depth=(depth, i)) for i in range(n)],
            "ratio": [Choice(self.ratios, depth=(depth, i)) for i in range(n)],
        }
        blocks = {
            "embed": elastic(
                PatchEmbedding,
                lambda c: PatchEmbeddingSpec(input_channels, c, patch=2, deviation=0.3),
                menu=menu,
                decisions=[width],
            )
        }
        for i in range(n):
            blocks[f"block{i}"] = elastic(
                Encoder,
                lambda c, heads, ratio: EncoderSpec(c, heads, c * ratio),
                menu=menu,
                decisions=[width, ("heads", i), ("ratio", i)],
                depth=(depth, i),  # there in archs whose depth exceeds i
            )
        blocks["head"] = elastic(
            TokensHead, lambda c: TokensHeadSpec(c, classes), menu=menu, decisions=[width]
        )
        task = ImageClassification(input_channels, classes)
        return Space("vit", menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


config = sj.Config(
    space=VisionTransformer(),
    data=sj.Data(name="digits", held_out=0.2),
    optimizer=sj.optimizers.AdamW(learning_rate=2e-3, warmup=0.1, weight_decay=0.05),
    train=sj.Train(steps=400, batch=64),
)
