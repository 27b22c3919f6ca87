"""ViT-ResNAS's spaces (Liao et al. 2021, arXiv 2109.00642): vision transformers in three stages,
between which tokens become a quarter as many and wider.

Each stage has a width; each block its heads and its hidden channels by itself, and every second
block of a stage may be left out. A head has a fixed number of channels in each stage.
"""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from supernet_jax.elastic.choices import Choice, Lookup, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.vision_transformer import (
    TokensHead,
    TokensHeadSpec,
    TransformerBlock,
    TransformerSpec,
)
from supernet_jax.nn.blocks.vit_resnas import (
    NORM_DIGITS,
    ConvPatchEmbedding,
    ConvPatchEmbeddingSpec,
    SpatialReduction,
    SpatialReductionSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification

STAGES = 3


def vit_resnas(
    name: str,
    *,
    widths: tuple[tuple[int, ...], ...],
    num_heads: tuple[tuple[int, ...], ...],
    hidden: tuple[tuple[int, ...], ...],
    head_dims: tuple[int, ...],
    blocks: int,
    optional: bool = True,
    resolution: int = 224,
    patch: int = 14,
    middle: int = 24,
    classes: int = 1000,
    input_channels: int = 3,
    drop_path: float = 0.0,
) -> Space:
    """A vision transformer in stages.

    Its menu is `{"resolution", "width": [stages...], "num_heads", "hidden", "there": [blocks of all
    stages...]}`; decisions of a block that is not there change nothing.

    Args:
        name: of the space.
        widths: of each stage: channels of a token on offer, smallest first.
        num_heads: of each stage: on offer in every block.
        hidden: of each stage: channels of the MLP on offer in every block.
        head_dims: of each stage: channels of a head.
        blocks: of a stage.
        optional: whether every second one may be left out.
        resolution: of the images, pixels, a multiple of the patch for each reduction of 2.
        patch: pixels on a side of a patch, even.
        middle: channels of the convolutions before patches.
        classes: number of logits.
        input_channels: of the images.
        drop_path: rate of the last block's branches; that of block `i` of `n` is
            `drop_path * i / (n - 1)`, counted from 0.

    Raises:
        UserError: images or widths do not fit the reductions.
    """
    stages = len(widths)
    _check(name, widths, resolution, patch)
    count = stages * blocks
    of = [i // blocks for i in range(count)]  # the stage of each block
    both = [(0, 1) if optional and i % blocks % 2 else (1,) for i in range(count)]
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "width": [Choice(each) for each in widths],
        "num_heads": [Choice(num_heads[stage]) for stage in of],
        "hidden": [Choice(hidden[stage]) for stage in of],
        "there": [Choice(each) for each in both],
    }
    made = {
        "embed": elastic(
            ConvPatchEmbedding,
            lambda c: ConvPatchEmbeddingSpec(input_channels, c, patch, middle),
            menu=menu,
            decisions=[("width", 0)],
            relaxed=("patches", "class_token", "position"),
        )
    }
    for stage in range(stages):
        if stage:
            side = resolution // patch >> (stage - 1)
            made[f"reduction{stage}"] = _reduction(menu, stage, side)
        for i in range(stage * blocks, (stage + 1) * blocks):
            rate = drop_path * i / max(count - 1, 1)
            block = f"stage{stage + 1}_block{i % blocks + 1}"
            made[block] = _block(menu, stage, i, head_dims[stage], rate)
    made["head"] = elastic(
        TokensHead,
        lambda c: TokensHeadSpec(c, classes, "class_token", NORM_DIGITS),
        menu=menu,
        decisions=[("width", stages - 1)],
        relaxed=("norm",),
    )
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, made, chain(tuple(made)), task, static=(("resolution",),))


def _check(name: str, widths: tuple[tuple[int, ...], ...], resolution: int, patch: int) -> None:
    total = patch * 2 ** (len(widths) - 1)
    require(
        patch >= 2 and patch % 2 == 0,
        f"the space {name} has patches of {patch} pixels, but they must be even, as the first "
        "convolution halves images; give another space.patch",
    )
    require(
        resolution >= total and resolution % total == 0,
        f"the space {name} has images of {resolution} pixels, but reduces them by {total}; give a "
        f"space.resolution that is a multiple of {total}",
    )
    for before, after in itertools.pairwise(widths):
        require(
            after[0] >= before[-1],
            f"the space {name} has a stage of {after[0]} channels behind one of {before[-1]}, but "
            "a reduction does not take channels away; give space.widths that differ by less than "
            "a factor of 2",
        )


def _reduction(menu: Menu, stage: int, side: int) -> ElasticBlock:
    return elastic(
        SpatialReduction,
        lambda c_in, c_out: SpatialReductionSpec(c_in, c_out, side),
        menu=menu,
        decisions=[("width", stage - 1), ("width", stage)],
        relaxed=("norm", "reduce", "token", "position"),
    )


def _block(menu: Menu, stage: int, i: int, head_dim: int, rate: float) -> ElasticBlock:
    there = menu["there"][i].values
    alive = None if there == (1,) else Lookup((("there", i),), np.asarray(there, np.int32))
    return elastic(
        TransformerBlock,
        lambda c, heads, hidden: TransformerSpec(
            c, heads, head_dim, hidden, drop_path=rate, norm_digits=NORM_DIGITS
        ),
        menu=menu,
        decisions=[("width", stage), ("num_heads", i), ("hidden", i)],
        relaxed=("attention_norm", "attention", "mlp_norm", "expand", "project"),
        alive=alive,
    )


def _built(offers: "ViTResNAS | ViTResNASSmall", classes: int, input_channels: int) -> Space:
    checks.require_rates(0.0, offers.drop_path)
    first = checks.ascending(widths=offers.widths, num_heads=offers.num_heads, hidden=offers.hidden)
    require(
        len(offers.head_dims) == STAGES and min(offers.head_dims) >= 1,
        f"space.head-dims is {offers.head_dims}; give {STAGES} numbers above 0, one for each stage",
    )
    for setting, value in (("blocks", offers.blocks), ("middle", offers.middle)):
        require(value >= 1, f"space.{setting} is {value}, but must be at least 1")
    wider = [1, 2, 4]  # stages by the first: tokens and hidden channels
    more = [1, 2, 2]  # and heads
    return vit_resnas(
        offers.name,
        widths=tuple(tuple(factor * n for n in first["widths"]) for factor in wider),
        num_heads=tuple(tuple(factor * n for n in first["num_heads"]) for factor in more),
        hidden=tuple(tuple(factor * n for n in first["hidden"]) for factor in wider),
        head_dims=offers.head_dims,
        blocks=offers.blocks,
        resolution=offers.resolution,
        patch=offers.patch,
        middle=offers.middle,
        classes=classes,
        input_channels=input_channels,
        drop_path=offers.drop_path,
    )


@dataclasses.dataclass(frozen=True)
class ViTResNAS:
    """ViT-ResNAS, the space of its Tiny (images of 224 pixels)."""

    name: ClassVar[str] = "vit_resnas"  # on the command line
    widths: tuple[int, ...] = (160, 176, 192, 224, 256)
    """channels of a token on offer in the first stage, doubled at each reduction"""
    num_heads: tuple[int, ...] = (3, 4, 5, 6)
    """heads on offer in each block of the first stage; the others have twice as many"""
    hidden: tuple[int, ...] = (384, 448, 512, 576, 640, 704, 768)
    """channels of the MLP on offer in each block of the first stage, doubled at each reduction"""
    head_dims: tuple[int, ...] = (32, 48, 64)
    """channels of a head in each stage"""
    blocks: int = 6
    """of a stage, every second of which may be left out"""
    resolution: int = 224
    """pixels on a side of the images, a multiple of four patches"""
    patch: int = 14
    """pixels on a side of a patch of the first stage, even"""
    middle: int = 24
    """channels of the convolutions before patches"""
    drop_path: float = 0.2
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, classes, input_channels)


@dataclasses.dataclass(frozen=True)
class ViTResNASSmall:
    """The space of ViT-ResNAS-Small and Medium (images of 224 pixels)."""

    name: ClassVar[str] = "vit_resnas_small"  # on the command line
    widths: tuple[int, ...] = (200, 220, 240, 280, 320)
    """channels of a token on offer in the first stage, doubled at each reduction"""
    num_heads: tuple[int, ...] = (5, 6, 7, 8)
    """heads on offer in each block of the first stage; the others have twice as many"""
    hidden: tuple[int, ...] = (480, 560, 640, 720, 800, 880, 960)
    """channels of the MLP on offer in each block of the first stage, doubled at each reduction"""
    head_dims: tuple[int, ...] = (32, 48, 64)
    """channels of a head in each stage"""
    blocks: int = 7
    """of a stage, every second of which may be left out"""
    resolution: int = 224
    """pixels on a side of the images, a multiple of four patches"""
    patch: int = 14
    """pixels on a side of a patch of the first stage, even"""
    middle: int = 24
    """channels of the convolutions before patches"""
    drop_path: float = 0.3
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, classes, input_channels)
