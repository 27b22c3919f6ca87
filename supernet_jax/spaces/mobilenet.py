"""MobileNetV3-like spaces: how the AttentiveNAS/AlphaNet family is built, and its small presets.

The published one (`spaces.attentivenas`) is that of AttentiveNAS (arXiv 2011.09011) and
AlphaNet (arXiv 2102.07954): elastic input resolution, and per stage elastic width, depth, kernel
size and expansion. All blocks of a stage share their choices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from supernet_jax.elastic.choices import Choice, Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic, union_spec
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.nn.blocks.mobilenet import (
    CONV,
    EITHER,
    IDENTITY,
    Head,
    HeadSpec,
    MBConv,
    MBConvSpec,
    Stem,
    StemSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification


@dataclasses.dataclass(frozen=True)
class Stage:
    """The options of one stage of blocks; each tuple smallest first."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    stride: int
    squeeze: bool = False


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds to a multiple of `divisor`, never below 90 % of `value` (MobileNet's rule)."""
    rounded = max(1, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def mobilenet(
    name: str,
    *,
    resolutions: tuple[int, ...],
    stem: tuple[int, ...],
    stem_stride: int,
    stages: Sequence[Stage],
    last: tuple[int, ...],
    classes: int,
    input_channels: int = 3,
    head_ratio: int = 6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_pool: bool = False,
) -> Space:
    """A MobileNetV3-like space.

    Its menu is `{"resolution", "width": [stem, stages..., last], "depth", "kernel_size",
    "expand_ratio": [stages...]}`, the notation of the published configurations.

    Args:
        name: of the space.
        resolutions: input sizes on offer, pixels.
        stem: output channels on offer of the first convolution.
        stem_stride: its stride.
        stages: the stages in order.
        last: features before the classifier on offer.
        classes: number of logits.
        input_channels: of the images.
        head_ratio: channels of the head before pooling, per channel of the last stage.
        dropout: rate before the classifier.
        drop_path: drop-connect rate; block `i` of `n` in the last two stages gets `drop_path*i/n`.
        zero_pool: how shortcuts average odd images, see `MBConvSpec`.
    """
    menu: Menu = {
        "resolution": Choice(resolutions),
        "width": [Choice(stem), *(Choice(s.widths) for s in stages), Choice(last)],
        "depth": [Choice(s.depths) for s in stages],
        "kernel_size": [Choice(s.kernels) for s in stages],
        "expand_ratio": [Choice(s.expands) for s in stages],
    }
    blocks: dict[str, ElasticBlock] = {
        "stem": elastic(
            Stem,
            lambda c: StemSpec(input_channels, c, stem_stride),
            menu=menu,
            decisions=[("width", 0)],
            relaxed=("norm",),
        )
    }
    total = sum(stage.depths[-1] for stage in stages)
    for i, stage in enumerate(stages):
        for j in range(stage.depths[-1]):
            late = i >= len(stages) - 2
            rate = drop_path * (len(blocks) - 1) / total if late else 0.0
            blocks[f"stage{i + 1}_block{j + 1}"] = _block(menu, stage, i, j, rate, zero_pool)
    blocks["head"] = _head(menu, len(stages), last, classes, head_ratio, dropout)
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


def _block(menu: Menu, stage: Stage, i: int, j: int, rate: float, zero_pool: bool) -> ElasticBlock:
    """Block `j` of stage `i`; only the first changes width and size."""
    spec = _spec(stage, stage.stride if j == 0 else 1, rate, zero_pool)
    decisions: list[Path] = [("width", i + 1), ("kernel_size", i), ("expand_ratio", i)]
    block = elastic(
        MBConv,
        spec if j == 0 else lambda c, kernel, ratio: spec(c, c, kernel, ratio),
        menu=menu,
        decisions=[("width", i), *decisions] if j == 0 else decisions,
        depth=(("depth", i), j),
        union=None,
    )
    kinds = {s.shortcut for s in block.specs}
    union = union_spec(block.specs, shortcut=EITHER if len(kinds) > 1 else kinds.pop())
    return dataclasses.replace(
        block,
        union=union,
        gates=lambda s: {"identity": float(s.shortcut == IDENTITY)},
        relaxed=("depthwise_norm", "squeeze", "project_norm", "shortcut"),
    )


def _spec(
    stage: Stage, stride: int, rate: float, zero_pool: bool
) -> Callable[[int, int, int, int], MBConvSpec]:
    expand = max(stage.expands) > 1

    def spec(c_in: int, c_out: int, kernel: int, ratio: int) -> MBConvSpec:
        middle = make_divisible(round(c_in * ratio))
        return MBConvSpec(
            c_in=c_in,
            c_out=c_out,
            middle=middle,
            kernel=kernel,
            stride=stride,
            expand=expand,
            reduced=make_divisible(middle // 4) if stage.squeeze else 0,
            shortcut=IDENTITY if c_in == c_out else CONV,
            drop_path=rate if c_in == c_out and stride == 1 else 0.0,
            zero_pool=zero_pool,
        )

    return spec


def _head(
    menu: Menu, n: int, last: tuple[int, ...], classes: int, ratio: int, dropout: float
) -> ElasticBlock:
    return elastic(
        Head,
        lambda c, features: HeadSpec(c, c * ratio, features, classes, dropout, last[-1]),
        menu=menu,
        decisions=[("width", n), ("width", n + 1)],
        relaxed=("expand_norm", "mix", "classifier"),
    )


def cifar(
    *,
    classes: int = 10,
    input_channels: int = 3,
    resolutions: tuple[int, ...] = (24, 32),
    dropout: float = 0.1,
    drop_path: float = 0.0,
) -> Space:
    """A small preset for 32x32 colour images."""
    return mobilenet(
        "cifar",
        resolutions=resolutions,
        stem=(16, 24),
        stem_stride=1,
        stages=(
            Stage((16, 24), (1, 2), (3, 5), (1,), 1),
            Stage((24, 32), (1, 2, 3), (3, 5), (3, 4, 6), 2),
            Stage((40, 48), (1, 2, 3), (3, 5), (3, 4, 6), 2, squeeze=True),
            Stage((80, 96), (1, 2, 3), (3, 5), (3, 4, 6), 2, squeeze=True),
        ),
        last=(256, 320),
        classes=classes,
        input_channels=input_channels,
        head_ratio=4,
        dropout=dropout,
        drop_path=drop_path,
    )


def digits(*, classes: int = 10, input_channels: int = 1) -> Space:
    """A tiny preset for 8x8 images, trained in a minute on two CPU cores."""
    return mobilenet(
        "digits",
        resolutions=(8,),
        stem=(8, 16),
        stem_stride=1,
        stages=(
            Stage((8, 16), (1, 2), (3, 5), (1, 2), 1),
            Stage((16, 24), (1, 2, 3), (3,), (2, 3, 4), 2, squeeze=True),
            Stage((24, 32), (1, 2), (3,), (2, 3, 4), 2, squeeze=True),
        ),
        last=(48, 64),
        classes=classes,
        input_channels=input_channels,
        head_ratio=2,
    )


@dataclasses.dataclass(frozen=True)
class Cifar:
    """A small MobileNetV3-like space for 32x32 images."""

    name: ClassVar[str] = "cifar"  # on the command line
    resolutions: tuple[int, ...] = (24, 32)
    """input sizes on offer, pixels; images are resized inside the network"""
    dropout: float = 0.1
    """dropout rate before the classifier, of the subnets that are regularised"""
    drop_path: float = 0.0
    """drop-connect rate of the last block, of the subnets that are regularised"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_resolutions(self.resolutions, 8)
        checks.require_rates(self.dropout, self.drop_path)
        return cifar(
            classes=classes,
            input_channels=input_channels,
            resolutions=tuple(sorted(set(self.resolutions))),
            dropout=self.dropout,
            drop_path=self.drop_path,
        )


@dataclasses.dataclass(frozen=True)
class Digits:
    """A tiny MobileNetV3-like space for 8x8 images."""

    name: ClassVar[str] = "digits"  # on the command line

    def build(self, *, classes: int = 10, input_channels: int = 1) -> Space:
        """The space for data with so many classes and channels."""
        return digits(classes=classes, input_channels=input_channels)
