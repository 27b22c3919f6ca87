"""Single-Path NAS (Stamoulis et al. 2019, arXiv 1904.02877): MnasNet's chain, kernels 3 or 5,
expansions 3 or 6, and no block at all, all of them in one depthwise superkernel for each block.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import ClassVar

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.elastic.transforms import superkernel
from supernet_jax.errors import require
from supernet_jax.nn.blocks.mobilenet import RELU
from supernet_jax.nn.blocks.mobilenetv3 import InvertedResidual, InvertedResidualSpec
from supernet_jax.nn.blocks.relu_ends import ReluHead, ReluHeadSpec, ReluStem, ReluStemSpec
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification

# Widths and strides of the five stages, as the published code has them.
STAGES = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2))


def single_path_nas(
    name: str,
    *,
    resolution: int,
    stem: int,
    stem_stride: int,
    first: int,
    stages: Sequence[tuple[int, int]],
    blocks: int,
    kernels: tuple[int, ...],
    expands: tuple[int, ...],
    last: int,
    middle: int,
    classes: int,
    input_channels: int = 3,
    dropout: float = 0.0,
) -> Space:
    """A chain of inverted residuals with superkernels.

    Its menu is `{"resolution", "kernel": [blocks...], "expand": [blocks...], "keep": [blocks...]}`.
    Blocks whose output has another shape than their input are always there. Of the largest arch a
    block computes what its superkernel uses, see `elastic.transforms.superkernels`; other archs
    have plain parts of the shared weights.

    Args:
        name: of the space.
        resolution: of the images, pixels.
        stem: channels of the first convolution.
        stem_stride: its stride.
        first: channels of the block behind it, which has nothing to choose, nor has the last one.
        stages: channels of each stage, and the stride of its first block.
        blocks: of each stage.
        kernels: sizes on offer, odd, smallest first.
        expands: expansions on offer, smallest first.
        last: channels of the last block.
        middle: channels of the head before the mean over the image.
        classes: number of logits.
        input_channels: of the images.
        dropout: rate before the classifier.
    """
    sizes = []  # of each block to choose: channels in and out, stride
    c_in = first
    for width, stride in stages:
        for j in range(blocks):
            sizes.append((c_in, width, stride if j == 0 else 1))
            c_in = width
    skips = [c == width and stride == 1 for c, width, stride in sizes]
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "kernel": [Choice(kernels)] * len(sizes),
        "expand": [Choice(expands)] * len(sizes),
        "keep": [Choice((0, 1) if skip else (1,)) for skip in skips],
    }

    def spec(c_in: int, c_out: int, stride: int, kernel: int, ratio: int) -> InvertedResidualSpec:
        return InvertedResidualSpec(
            c_in=c_in,
            c_out=c_out,
            middle=c_in * ratio,
            kernel=kernel,
            stride=stride,
            expand=ratio > 1,
            reduced=0,
            activation=RELU,
        )

    def plain(c_in: int, c_out: int, ratio: int) -> ElasticBlock:
        return elastic(InvertedResidual, lambda: spec(c_in, c_out, 1, 3, ratio), menu=menu)

    chosen: dict[str, ElasticBlock] = {
        "stem": elastic(
            ReluStem, lambda: ReluStemSpec(input_channels, stem, stem_stride), menu=menu
        ),
        "first": plain(stem, first, 1),
    }
    for n, (c_in, c_out, stride) in enumerate(sizes):
        channels = tuple(c_in * ratio for ratio in expands)
        of_sizes = functools.partial(spec, c_in, c_out, stride)
        chosen[f"stage{n // blocks + 1}_block{n % blocks + 1}"] = elastic(
            InvertedResidual,
            of_sizes,
            menu=menu,
            decisions=[("kernel", n), ("expand", n)],
            depth=(("keep", n), 0),
            relaxed=("depthwise_norm",),
            transforms=(superkernel(kernels, channels, skips=skips[n]),),
        )
    head = ReluHeadSpec(last, middle, classes, dropout)
    chosen |= {
        "last": plain(stages[-1][0], last, expands[-1]),
        "head": elastic(ReluHead, lambda: head, menu=menu),
    }
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, chosen, chain(tuple(chosen)), task, static=(("resolution",),))


@dataclasses.dataclass(frozen=True)
class SinglePathNAS:
    """Single-Path NAS' space: 20 blocks, of which 15 may be skipped, as one superkernel each."""

    name: ClassVar[str] = "single_path_nas"  # on the command line
    resolution: int = 224
    """size of images, pixels; more cost more"""
    stem: int = 32
    """channels of the first convolution"""
    stem_stride: int = 2
    """stride of the first convolution; 1 suits small images"""
    first: int = 16
    """channels of the block behind it"""
    widths: tuple[int, ...] = tuple(width for width, _ in STAGES)
    """channels of each stage; more widths make more stages"""
    strides: tuple[int, ...] = tuple(stride for _, stride in STAGES)
    """stride of the first block of each stage, 1 or 2; 2 halves images"""
    blocks: int = 4
    """blocks of each stage; more make more decisions"""
    kernels: tuple[int, ...] = (3, 5)
    """sizes of kernels on offer, odd"""
    expands: tuple[int, ...] = (3, 6)
    """expansions on offer; larger ones cost more"""
    last: int = 320
    """channels of the last block"""
    middle: int = 1280
    """channels of the head before the mean over the image"""
    dropout: float = 0.2
    """dropout rate before the classifier, of the subnets that are regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        offered = checks.ascending(kernels=self.kernels, expands=self.expands)
        checks.require_sizes(
            stem=self.stem,
            stem_stride=self.stem_stride,
            first=self.first,
            blocks=self.blocks,
            last=self.last,
            middle=self.middle,
        )
        require(
            all(k % 2 for k in self.kernels), f"space.kernels is {self.kernels}; give odd sizes"
        )
        require(
            len(self.widths) == len(self.strides) > 0 and set(self.strides) <= {1, 2},
            f"space.strides is {self.strides}; give 1 or 2 for each of space.widths, {self.widths}",
        )
        require(min(self.widths) > 0, f"space.widths is {self.widths}; give numbers above 0")
        checks.require_resolution(self.resolution, self.stem_stride * math.prod(self.strides))
        checks.require_rates(self.dropout)
        return single_path_nas(
            self.name,
            resolution=self.resolution,
            stem=self.stem,
            stem_stride=self.stem_stride,
            first=self.first,
            blocks=self.blocks,
            last=self.last,
            middle=self.middle,
            stages=tuple(zip(self.widths, self.strides, strict=True)),
            classes=classes,
            input_channels=input_channels,
            dropout=self.dropout,
            **offered,
        )
