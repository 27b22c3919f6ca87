"""FBNet's space (Wu et al. 2019, arXiv 1812.03443): which block stands in each of 22 layers.

Channels and strides of the layers are fixed (table 1 of the paper). A layer is one of eight blocks
(table 2), or it is skipped; a layer that changes channels or halves the image cannot be.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from supernet_jax.elastic.choice_block import choice_block
from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import near, require
from supernet_jax.nn.blocks.cells import PlainSpec, Skip
from supernet_jax.nn.blocks.fbnet import FBNetBlock, FBNetBlockSpec
from supernet_jax.nn.blocks.relu_ends import ReluHead, ReluHeadSpec, ReluStem, ReluStemSpec
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification


class Kind(NamedTuple):
    """What a layer may be: kernel, expansion and groups of its 1x1 convolutions."""

    kernel: int
    expansion: int
    groups: int = 1


SKIP = "skip"
KINDS = {  # of table 2, the cheapest first
    "k3_e1_g2": Kind(3, 1, 2),
    "k5_e1_g2": Kind(5, 1, 2),
    "k3_e1": Kind(3, 1),
    "k5_e1": Kind(5, 1),
    "k3_e3": Kind(3, 3),
    "k5_e3": Kind(5, 3),
    "k3_e6": Kind(3, 6),
    "k5_e6": Kind(5, 6),
}
OPERATIONS = (SKIP, *KINDS)  # a decision's value is the place here


class Stage(NamedTuple):
    """Layers of one width, the first of which has the stride."""

    channels: int
    layers: int
    stride: int


STEM, HEAD = 16, 1984
STAGES = (
    *(Stage(16, 1, 1), Stage(24, 4, 2), Stage(32, 4, 2), Stage(64, 4, 2)),
    *(Stage(112, 4, 1), Stage(184, 4, 2), Stage(352, 1, 1)),
)


def fbnet(
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
) -> Space:
    """The space of layers.

    Its menu is `{"layer": [...], "resolution"}`: the place of each layer's block among
    `OPERATIONS`, of which a layer that changes the shape of its input lacks the first.

    Args:
        name: of the space.
        resolutions: sizes of images on offer, pixels, ascending.
        classes: number of logits.
        input_channels: of the images.
        stem: channels of the first convolution, which is not searched.
        stem_stride: of it.
        stages: of layers; even channels, because half of the 1x1 convolutions have two groups.
        head: channels before pooling.
        operations: which of `OPERATIONS` there are; a layer has those that fit.
    """
    shapes, c_in = [], stem
    for stage in stages:
        for i in range(stage.layers):
            shapes.append((c_in, stage.channels, 1 if i else stage.stride))
            c_in = stage.channels
    each = [_options(*shape, operations) for shape in shapes]
    menu: Menu = {
        "layer": [Choice(tuple(map(OPERATIONS.index, options))) for options in each],
        "resolution": Choice(resolutions),
    }
    begin, end = ReluStemSpec(input_channels, stem, stem_stride), ReluHeadSpec(c_in, head, classes)
    blocks: dict[str, ElasticBlock] = {"stem": elastic(ReluStem, lambda: begin, menu=menu)}
    for i, (options, shape) in enumerate(zip(each, shapes, strict=True)):
        blocks[f"layer{i + 1}"] = choice_block(
            options, menu=menu, decision=("layer", i), channels=(shape[0],)
        )
    blocks["head"] = elastic(ReluHead, lambda: end, menu=menu)
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


def _options(c_in: int, c_out: int, stride: int, operations: Sequence[str]) -> dict[str, Any]:
    """Those that fit, as a choice block takes them; skips do where nothing changes shape."""
    options: dict[str, Any] = {}
    for name in OPERATIONS:
        if name not in operations:
            continue
        if name != SKIP:
            kind = KINDS[name]
            sizes = (c_in * kind.expansion, kind.kernel, stride, kind.groups)
            options[name] = (FBNetBlock, FBNetBlockSpec(c_in, c_out, *sizes))
        elif stride == 1 and c_in == c_out:
            options[name] = (Skip, PlainSpec(c_in))
    return options


@dataclasses.dataclass(frozen=True)
class FBNetSpace:
    """22 layers of 9 blocks each, of which 6 cannot be skipped (FBNet)."""

    name: ClassVar[str] = "fbnet"  # on the command line
    resolutions: tuple[int, ...] = (224,)
    """input sizes on offer, pixels; images are resized inside the network"""
    head: int = HEAD
    """channels before pooling; more make every subnet larger"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_resolutions(self.resolutions, 32)
        checks.require_sizes(head=self.head)
        return fbnet(
            self.name,
            resolutions=tuple(sorted(set(self.resolutions))),
            classes=classes,
            input_channels=input_channels,
            head=self.head,
        )


@dataclasses.dataclass(frozen=True)
class FBNetSmall:
    """A small space of FBNet's blocks, for images of 8x8 pixels."""

    name: ClassVar[str] = "fbnet_small"  # on the command line
    resolution: int = 8
    """size of images, pixels"""
    widths: tuple[int, ...] = (8, 16)
    """channels of each stage, even; the second and further ones halve the image"""
    layers: int = 2
    """layers of each stage; more make larger networks"""
    head: int = 64
    """channels before pooling; more make every subnet larger"""
    operations: tuple[str, ...] = OPERATIONS
    """what a layer may be, by the names of the paper; more make a larger space"""

    def build(self, *, classes: int = 10, input_channels: int = 1) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_sizes(layers=self.layers, head=self.head)
        require(
            bool(self.widths) and all(width > 0 and width % 2 == 0 for width in self.widths),
            f"space.widths is {self.widths}; give even numbers above 0",
        )
        for name in self.operations:
            known = ", ".join(OPERATIONS)
            require(
                name in OPERATIONS,
                f"space.operations has {name!r}, but there are {known}{near(name, OPERATIONS)}",
            )
        require(
            any(name in KINDS for name in self.operations),
            f"space.operations is {self.operations}; give one that is no skip",
        )
        checks.require_resolution(self.resolution, 2 ** (len(self.widths) - 1))
        return fbnet(
            self.name,
            resolutions=(self.resolution,),
            classes=classes,
            input_channels=input_channels,
            stem=self.widths[0],
            stem_stride=1,
            stages=[Stage(w, self.layers, 2 if i else 1) for i, w in enumerate(self.widths)],
            head=self.head,
            operations=self.operations,
        )
