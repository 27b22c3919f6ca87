"""Once-for-All's MobileNetV3 space (arXiv 1908.09791), and small presets of the same family.

Widths of the stages are fixed; kernel size and expansion are elastic for every block by itself, the
depth for every stage. A smaller kernel is not only the centre of the larger one, but a learned
linear map of it, one matrix for each block and pair of sizes (section 3.3 of the paper).

Shape letters: `C` channels, `k` size of a kernel.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from supernet_jax.elastic.choices import Array, Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, Transform, Tree, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.mobilenet import HARD_SWISH, RELU, HeadSpec, StemSpec
from supernet_jax.nn.blocks.mobilenetv3 import (
    HardHead,
    HardStem,
    InvertedResidual,
    InvertedResidualSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.spaces.mobilenet import make_divisible
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of elastic blocks: what is fixed in it."""

    width: int
    stride: int
    activation: str
    squeeze: bool = False


def ofa(
    name: str,
    *,
    resolutions: tuple[int, ...],
    stem: int,
    stem_stride: int,
    first: int,
    stages: Sequence[Stage],
    kernels: tuple[int, ...],
    expands: tuple[int, ...],
    depths: tuple[int, ...],
    middle: int,
    last: int,
    classes: int,
    width: float = 1.0,
    input_channels: int = 3,
    dropout: float = 0.0,
) -> Space:
    """A MobileNetV3 with elastic kernels and expansions of blocks, and depths of stages.

    Its menu is `{"ks": [blocks...], "e": [blocks...], "d": [stages...], "r": [resolution]}`, the
    notation of the published archs. Decisions of blocks that an arch skips change nothing.

    Args:
        name: of the space.
        resolutions: input sizes on offer, pixels.
        stem: channels of the first convolution.
        stem_stride: its stride.
        first: channels of the first block, which has nothing elastic.
        stages: the elastic stages in order; only the first block of a stage has its stride.
        kernels: sizes on offer in every block, odd, smallest first.
        expands: expansions on offer in every block, smallest first.
        depths: numbers of blocks on offer in every stage, smallest first.
        middle: channels of the head before pooling.
        last: features before the classifier.
        classes: number of logits.
        width: factor of all channels, which are then rounded to multiples of 8.
        input_channels: of the images.
        dropout: rate before the classifier.
    """
    count = len(stages) * depths[-1]
    menu: Menu = {
        "ks": [Choice(kernels)] * count,
        "e": [Choice(expands)] * count,
        "d": [Choice(depths)] * len(stages),
        "r": [Choice(resolutions)],
    }
    c, c_first, c_middle, c_last = (make_divisible(n * width) for n in (stem, first, middle, last))
    blocks: dict[str, ElasticBlock] = {
        "stem": elastic(HardStem, lambda: StemSpec(input_channels, c, stem_stride), menu=menu),
        "first": elastic(
            InvertedResidual,
            lambda: InvertedResidualSpec(c, c_first, c, 3, 1, False, 0, RELU),
            menu=menu,
        ),
    }
    c_in, transforms = c_first, _transforms(kernels)
    for i, stage in enumerate(stages):
        for j in range(depths[-1]):
            c_out, stride = make_divisible(stage.width * width), stage.stride if j == 0 else 1
            own = dataclasses.replace(stage, width=c_out, stride=stride)
            blocks[f"stage{i + 1}_block{j + 1}"] = _block(menu, own, c_in, i, j, transforms)
            c_in = own.width
    head = HeadSpec(c_in, c_middle, c_last, classes, dropout, c_last)
    blocks["head"] = elastic(HardHead, lambda: head, menu=menu)
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("r", 0),))


def _block(
    menu: Menu, stage: Stage, c_in: int, i: int, j: int, transforms: tuple[Transform, ...]
) -> ElasticBlock:
    """Block `j` of stage `i`."""

    def spec(kernel: int, ratio: int) -> InvertedResidualSpec:
        middle = make_divisible(round(c_in * ratio))
        return InvertedResidualSpec(
            c_in=c_in,
            c_out=stage.width,
            middle=middle,
            kernel=kernel,
            stride=stage.stride,
            expand=True,
            reduced=make_divisible(middle // 4) if stage.squeeze else 0,
            activation=stage.activation,
        )

    n = i * menu["d"][i].values[-1] + j
    return elastic(
        InvertedResidual,
        spec,
        menu=menu,
        decisions=[("ks", n), ("e", n)],
        depth=(("d", i), j),
        relaxed=("depthwise_norm", "squeeze"),
        transforms=transforms,
    )


def _transforms(kernels: tuple[int, ...]) -> tuple[Transform, ...]:
    """The learned map of the depthwise kernel to its smaller sizes; none for a single size.

    Its parameters are `{"7to5": [25, 25], "5to3": [9, 9]}`, as published: output by input, places
    of a kernel row by row. The step to a size acts on the centre of what the step before it gave.
    """
    steps = list(itertools.pairwise(kernels[::-1]))
    if not steps:
        return ()

    def init(key: Array, shape: tuple[int, ...]) -> Tree:
        del key, shape
        return {f"{source}to{target}": jnp.eye(target**2) for source, target in steps}

    def apply(params: Tree, kernel: Array, size: int) -> Array:
        for source, target in steps:
            if target < size:
                break
            kernel = transformed(params[f"{source}to{target}"], kernel)
        return kernel

    return (Transform(("depthwise", "kernel"), lambda spec: spec.kernel, init, apply),)


def transformed(matrix: Array, kernel: Array) -> Array:
    """A smaller kernel out of a larger one: the matrix times the places of its centre.

    Args:
        matrix: `[k * k, k * k]` of the smaller k, output by input.
        kernel: `[K, K, 1, C]`; the result is `[k, k, 1, C]`.
    """
    size = round(matrix.shape[0] ** 0.5)
    start = (kernel.shape[0] - size) // 2
    centre = kernel[start : start + size, start : start + size]
    # Weights are made once for all images: exactness costs nothing.
    made = jnp.dot(matrix, centre.reshape(size**2, -1), precision=jax.lax.Precision.HIGHEST)
    return made.reshape(centre.shape)


def ofa_mobilenetv3(
    *,
    width: float = 1.0,
    resolutions: tuple[int, ...] = tuple(range(128, 225, 4)),
    classes: int = 1000,
    input_channels: int = 3,
    dropout: float = 0.1,
) -> Space:
    """The published space, exactly: 7371**5 = 2.2e19 subnets at each resolution.

    Args:
        width: 1.0 (121 to 566 M MACs at 224 pixels) or 1.2, as published, or any other factor.
        resolutions: input sizes on offer, pixels.
        classes: number of logits.
        input_channels: of the images.
        dropout: rate before the classifier.
    """
    return ofa(
        "ofa_mobilenetv3" if width == 1.0 else f"ofa_mobilenetv3_w{width:g}",
        resolutions=resolutions,
        stem=16,
        stem_stride=2,
        first=16,
        stages=(
            Stage(24, 2, RELU),
            Stage(40, 2, RELU, squeeze=True),
            Stage(80, 2, HARD_SWISH),
            Stage(112, 1, HARD_SWISH, squeeze=True),
            Stage(160, 2, HARD_SWISH, squeeze=True),
        ),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        depths=(2, 3, 4),
        middle=960,
        last=1280,
        classes=classes,
        width=width,
        input_channels=input_channels,
        dropout=dropout,
    )


def ofa_small(
    *,
    resolutions: tuple[int, ...] = (24, 32),
    classes: int = 10,
    input_channels: int = 3,
    dropout: float = 0.0,
) -> Space:
    """A small preset for 32x32 images, with the same choices for each block.

    Args:
        resolutions: input sizes on offer, pixels.
        classes: number of logits.
        input_channels: of the images.
        dropout: rate before the classifier.
    """
    return ofa(
        "ofa_small",
        resolutions=resolutions,
        stem=16,
        stem_stride=1,
        first=16,
        stages=(
            Stage(24, 2, RELU, squeeze=True),
            Stage(40, 2, HARD_SWISH),
            Stage(64, 2, HARD_SWISH, squeeze=True),
        ),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        depths=(1, 2),
        middle=192,
        last=256,
        classes=classes,
        input_channels=input_channels,
        dropout=dropout,
    )


@dataclasses.dataclass(frozen=True)
class OfaMobileNetV3:
    """Once-for-All's MobileNetV3 space (ImageNet-sized images, 2e19 subnets per resolution)."""

    name: ClassVar[str] = "ofa_mobilenetv3"  # on the command line
    width: float = 1.0
    """factor of all channels; published: 1.0 and 1.2"""
    resolutions: tuple[int, ...] = tuple(range(128, 225, 4))
    """input sizes on offer, pixels; each that training draws takes a program of its own"""
    dropout: float = 0.1
    """dropout rate before the classifier, of the subnets that are regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        require(0.1 <= self.width <= 10, f"space.width is {self.width}, must be from 0.1 to 10")
        checks.require_resolutions(self.resolutions, 32)
        checks.require_rates(self.dropout)
        return ofa_mobilenetv3(
            width=self.width,
            resolutions=tuple(sorted(set(self.resolutions))),
            classes=classes,
            input_channels=input_channels,
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True)
class OfaSmall:
    """A small space of the same family as Once-for-All's, for 32x32 images."""

    name: ClassVar[str] = "ofa_small"  # on the command line
    resolutions: tuple[int, ...] = (24, 32)
    """input sizes on offer, pixels; images are resized inside the network"""
    dropout: float = 0.0
    """dropout rate before the classifier, of the subnets that are regularised"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_resolutions(self.resolutions, 8)
        checks.require_rates(self.dropout)
        return ofa_small(
            classes=classes,
            input_channels=input_channels,
            resolutions=tuple(sorted(set(self.resolutions))),
            dropout=self.dropout,
        )
