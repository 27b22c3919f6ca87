"""SPOS' space (Guo et al. 2020, arXiv 1904.00420): which of four blocks stands in each of 20
places, and how many channels it has inside.

Channels and strides of the places are fixed, as in the published code
(megvii-model/SinglePathOneShot).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn

from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import near, require
from supernet_jax.nn.blocks.relu_ends import ReluHead, ReluHeadSpec, ReluStem, ReluStemSpec
from supernet_jax.nn.blocks.shufflenet import ShuffleBlock, ShuffleSpec, ShuffleXception
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification


class Kind(NamedTuple):
    """What a place may have: the module, and the kernel of its depthwise convolutions."""

    module: type[nn.Module]
    kernel: int


KINDS = {
    "choice_3": Kind(ShuffleBlock, 3),
    "choice_5": Kind(ShuffleBlock, 5),
    "choice_7": Kind(ShuffleBlock, 7),
    "choice_x": Kind(ShuffleXception, 3),
}
OPERATIONS = tuple(KINDS)  # a decision's value is the place here: the published numbers


class Stage(NamedTuple):
    """Blocks of one number of channels, the first of which has the stride."""

    channels: int
    blocks: int
    stride: int = 2


STEM, HEAD = 16, 1024
STAGES = (Stage(64, 4), Stage(160, 4), Stage(320, 8), Stage(640, 4))
WIDTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def spos(
    name: str,
    *,
    resolutions: tuple[int, ...],
    classes: int,
    input_channels: int,
    stem: int = STEM,
    stem_stride: int = 2,
    stages: Sequence[Stage] = STAGES,
    head: int = HEAD,
    operations: Sequence[str] = OPERATIONS,
    widths: tuple[float, ...] = WIDTHS,
    affine: bool = False,
    dropout: float = 0.0,
) -> Space:
    """The space of blocks and of channels inside them.

    Its menu is `{"op": [...], "width": [...], "resolution"}`: for each block its place among
    `OPERATIONS`, and the channels inside it as a multiple of half of those it puts out, rounded
    down. A narrower block has the leading channels of the widest one of its kind; blocks of
    different kinds share nothing.

    Args:
        name: of the space.
        resolutions: sizes of images on offer, pixels, ascending.
        classes: number of logits.
        input_channels: of the images.
        stem: channels of the first convolution, which is not searched.
        stem_stride: of it.
        stages: of blocks. Channels are even; those of a stage with stride 2 are more than those
            before it, those of a stage with stride 1 the same.
        head: channels before pooling.
        operations: which of `OPERATIONS` there are.
        widths: on offer for each block, ascending; one alone leaves the channels unsearched.
        affine: whether norms learn a scale and a bias.
        dropout: rate before the classifier.
    """
    sizes, c_in = [], stem
    for stage in stages:
        for i in range(stage.blocks):
            sizes.append((c_in, stage.channels, 1 if i else stage.stride))
            c_in = stage.channels
    kinds = {op: KINDS[op] for op in OPERATIONS if op in operations}
    menu: Menu = {
        "op": [Choice(tuple(map(OPERATIONS.index, kinds))) for _ in sizes],
        "width": [Choice(widths) for _ in sizes],
        "resolution": Choice(resolutions),
    }

    def spec(c_in: int, c_out: int, stride: int, kernel: int, width: float) -> ShuffleSpec:
        return ShuffleSpec(c_in, c_out, max(1, int(c_out // 2 * width)), kernel, stride, affine)

    begin = ReluStemSpec(input_channels, stem, stem_stride, affine)
    end = ReluHeadSpec(c_in, head, classes, dropout, affine, bias=False)
    blocks: dict[str, ElasticBlock] = {"stem": elastic(ReluStem, lambda: begin, menu=menu)}
    for i, size in enumerate(sizes):
        blocks[f"block{i + 1}"] = choice_block(
            {
                op: (kind.module, functools.partial(spec, *size, kind.kernel))
                for op, kind in kinds.items()
            },
            menu=menu,
            decision=("op", i),
            sizes=(("width", i),),
            channels=(size[0],),
        )
    blocks["head"] = elastic(ReluHead, lambda: end, menu=menu)
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


@dataclasses.dataclass(frozen=True)
class SPOS:
    """20 blocks of 4 kinds, and 10 numbers of channels inside each of them (SPOS)."""

    name: ClassVar[str] = "spos"  # on the command line
    resolutions: tuple[int, ...] = (224,)
    """input sizes on offer, pixels; images are resized inside the network"""
    widths: tuple[float, ...] = WIDTHS
    """channels inside a block over half of its outputs; 1.0 alone is the search of blocks"""
    head: int = HEAD
    """channels before pooling; more make every subnet larger"""
    affine: bool = False
    """whether norms learn a scale and a bias: not in the published supernet, but in its networks"""
    dropout: float = 0.1
    """dropout rate before the classifier, of the subnets that are regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_resolutions(self.resolutions, 32)
        checks.require_sizes(head=self.head)
        checks.require_rates(self.dropout)
        return spos(
            self.name,
            resolutions=tuple(sorted(set(self.resolutions))),
            classes=classes,
            input_channels=input_channels,
            head=self.head,
            affine=self.affine,
            dropout=self.dropout,
            **checks.ascending(widths=self.widths),
        )


@dataclasses.dataclass(frozen=True)
class SPOSSmall:
    """A small space of SPOS' blocks, for images of 8x8 pixels."""

    name: ClassVar[str] = "spos_small"  # on the command line
    resolution: int = 8
    """size of images, pixels"""
    channels: tuple[int, ...] = (16, 32)
    """channels of each stage, even and ascending; the second and further ones halve the image"""
    blocks: int = 2
    """blocks of each stage; more make larger networks"""
    head: int = 64
    """channels before pooling; more make every subnet larger"""
    operations: tuple[str, ...] = OPERATIONS
    """what a block may be, by the names of the paper; more make a larger space"""
    widths: tuple[float, ...] = (0.5, 1.0, 2.0)
    """channels inside a block over half of its outputs; 1.0 alone is the search of blocks"""
    affine: bool = False
    """whether norms learn a scale and a bias; in the published supernet they do not"""

    def build(self, *, classes: int = 10, input_channels: int = 1) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_sizes(blocks=self.blocks, head=self.head)
        require(
            bool(self.channels)
            and all(c > 0 and c % 2 == 0 for c in self.channels)
            and list(self.channels) == sorted(set(self.channels)),
            f"space.channels is {self.channels}; give even numbers above 0, smallest first",
        )
        require(
            bool(self.operations), f"space.operations is {self.operations}; give some of {_SHOWN}"
        )
        for op in self.operations:
            require(
                op in KINDS,
                f"space.operations has {op!r}, but there are {_SHOWN}{near(op, OPERATIONS)}",
            )
        checks.require_resolution(self.resolution, 2 ** (len(self.channels) - 1))
        return spos(
            self.name,
            resolutions=(self.resolution,),
            classes=classes,
            input_channels=input_channels,
            stem=self.channels[0],
            stem_stride=1,
            stages=[Stage(c, self.blocks, 2 if i else 1) for i, c in enumerate(self.channels)],
            head=self.head,
            operations=self.operations,
            affine=self.affine,
            **checks.ascending(widths=self.widths),
        )


_SHOWN = ", ".join(OPERATIONS)
