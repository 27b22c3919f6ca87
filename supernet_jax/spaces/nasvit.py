"""NASViT's space (Gong et al., ICLR 2022): convolutions at first, then attention.

Its published code is AttentiveNAS's with other numbers, and with attention in the later stages: the
first block of such a stage is an inverted bottleneck, all others are attention blocks, which have
neither a kernel size nor an expansion to decide.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Array, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, Transform, Tree, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.nn.blocks.nasvit import (
    REMAINDERS,
    AttentionBlock,
    AttentionSpec,
    scale_of_row,
)
from supernet_jax.spaces import checks, mobilenet
from supernet_jax.spaces.mobilenet import Stage

DEPTHS = 10  # rows of scales by depth, of which the published code has as many in each stage
PLAIN = 3  # stages without attention


def nasvit(
    name: str,
    *,
    resolutions: tuple[int, ...],
    stem: tuple[int, ...],
    stem_stride: int,
    stages: Sequence[Stage],
    last: tuple[int, ...],
    plain: int,
    classes: int,
    input_channels: int = 3,
    head_dim: int = 8,
    value_ratio: int = 4,
    window: int = 18,
    head_ratio: int = 6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Space:
    """A space of convolutions and attention; its menu is that of `mobilenet.mobilenet`.

    Args:
        name: of the space.
        resolutions: input sizes on offer, pixels.
        stem: output channels on offer of the first convolution.
        stem_stride: its stride.
        stages: the stages in order.
        last: features before the classifier on offer.
        plain: how many of the stages have no attention.
        classes: number of logits.
        input_channels: of the images.
        head_dim: channels of a head of queries and keys.
        value_ratio: channels of the values, by those of the stage.
        window: largest number of places on a side of an image that attention sees.
        head_ratio: channels of the head before pooling, per channel of the last stage.
        dropout: rate before the classifier.
        drop_path: rate; block `i` of `n` in the last two stages gets `drop_path*i/n`.

    Raises:
        UserError: a head does not divide the channels, or images are too large for attention.
    """
    sides = _sides(resolutions, stem_stride, stages)
    _check(name, resolutions, stages, sides, plain, head_dim, window)
    base = mobilenet.mobilenet(
        name,
        resolutions=resolutions,
        stem=stem,
        stem_stride=stem_stride,
        stages=stages,
        last=last,
        classes=classes,
        input_channels=input_channels,
        head_ratio=head_ratio,
        dropout=dropout,
        drop_path=drop_path,
        zero_pool=True,
    )
    same = {"head_dim": head_dim, "value_ratio": value_ratio}
    blocks = dict(base.blocks)
    for i, stage in enumerate(stages[plain:], plain):
        for j in range(1, stage.depths[-1]):
            block = f"stage{i + 1}_block{j + 1}"
            rate = blocks[block].union.drop_path
            blocks[block] = _attention(
                base.menu, i, j, dict(zip(resolutions, sides[i], strict=True)), window,
                {**same, "drop_path": rate},
            )  # fmt: skip
    return dataclasses.replace(base, blocks=blocks)


def _sides(
    resolutions: Sequence[int], stem_stride: int, stages: Sequence[Stage]
) -> list[list[int]]:
    """Places on a side of an image behind each stage, by resolution."""
    found, strides = [], (stem_stride, *(stage.stride for stage in stages))
    now = list(resolutions)
    for stride in strides:
        now = [-(-side // stride) for side in now]
        found.append(now)
    return found[1:]


def _check(
    name: str,
    resolutions: Sequence[int],
    stages: Sequence[Stage],
    sides: list[list[int]],
    plain: int,
    head_dim: int,
    window: int,
) -> None:
    for stage, side in list(zip(stages, sides, strict=True))[plain:]:
        wrong = [width for width in stage.widths if head_dim < 1 or width % head_dim]
        require(
            not wrong,
            f"the space {name} has stages of {wrong[0] if wrong else 0} channels, which heads of "
            f"{head_dim} do not divide; give another space.head-dim",
        )
        require(
            max(side) <= window,
            f"images of {max(resolutions)} pixels have {max(side)} places on a side where "
            f"attention begins, but space.window is {window}; give smaller space.resolutions or a "
            "larger window",
        )


def _attention(
    menu: Menu,
    i: int,
    j: int,
    sides: dict[int, int],
    window: int,
    same: dict[str, Any],
) -> ElasticBlock:
    """Block `j` of stage `i`; `sides` are by resolution, `same` are the fields of all specs."""

    def spec(resolution: int, c: int, depth: int) -> AttentionSpec:
        side = sides[resolution]
        return AttentionSpec(c, side=side, row=(depth, side * side % REMAINDERS), **same)

    widths, depths = menu["width"][i + 1].values, menu["depth"][i].values
    return elastic(
        _made,
        spec,
        menu=menu,
        decisions=[("resolution",), ("width", i + 1), ("depth", i)],
        depth=(("depth", i), j),
        union=AttentionSpec(
            widths[-1], side=window, rows=(max(DEPTHS, depths[-1] + 1), REMAINDERS), **same
        ),
        relaxed=("attention_norm", "value_conv", "merge", *_RELAXED_MLPS),
        transforms=tuple(
            Transform((f"{branch}_scale", "scale"), _row, _nothing, scale_of_row)
            for branch in ("attention", "mlp")
        ),
    )


_RELAXED_MLPS = tuple(
    f"{mlp}_{layer}"
    for mlp in ("first_mlp", "second_mlp")
    for layer in ("norm", "expand", "project")
)


def _made(spec: AttentionSpec) -> AttentionBlock:
    """Rows differ in their numbers, not in the module, which is so described once."""
    return AttentionBlock(dataclasses.replace(spec, row=(0, 0)))


def _row(spec: AttentionSpec) -> tuple[int, int]:
    return spec.row


def _nothing(key: Array, shape: tuple[int, ...]) -> Tree:
    return {}


@dataclasses.dataclass(frozen=True)
class NASViT:
    """NASViT (ImageNet-sized images, 4.8e10 archs, 190 to 1,882 M MACs)."""

    name: ClassVar[str] = "nasvit"  # on the command line
    resolutions: tuple[int, ...] = (192, 224, 256, 288)
    """input sizes on offer, pixels, multiples of 32; images are resized inside the network"""
    head_dim: int = 8
    """channels of a head of queries and keys, which must divide those of stages with attention"""
    value_ratio: int = 4
    """channels of the values, by those of the stage"""
    window: int = 18
    """largest number of places on a side that attention sees: a sixteenth of the resolution"""
    dropout: float = 0.0
    """dropout rate before the classifier, of the subnets that are regularised"""
    drop_path: float = 0.0
    """drop-connect rate of the last block, of the subnets that are regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_rates(self.dropout, self.drop_path)
        checks.require_resolutions(self.resolutions, 32)
        wrong = [r for r in self.resolutions if r % 32]
        require(
            not wrong,
            f"space.resolutions has {wrong[0] if wrong else 0}, but must be multiples of 32, by "
            "which images are reduced before the last stage",
        )
        for setting, value in (("value-ratio", self.value_ratio), ("window", self.window)):
            require(value >= 1, f"space.{setting} is {value}, but must be at least 1")
        return nasvit(
            self.name,
            resolutions=tuple(sorted({*self.resolutions})),
            stem=(16, 24),
            stem_stride=2,
            stages=(
                Stage((16, 24), (1, 2), (3, 5), (1,), 1),
                Stage((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2),
                Stage((32, 40), (3, 4, 5, 6), (3,), (4, 5, 6), 2, squeeze=True),
                Stage((64, 72), (3, 4, 5, 6), (3,), (4, 5, 6), 2),
                Stage((112, 120, 128), (3, 4, 5, 6, 7, 8, 9), (3,), (4, 5, 6), 2, squeeze=True),
                Stage((160, 168, 176, 184), (3, 4, 5, 6, 7, 8), (3,), (6,), 1, squeeze=True),
                Stage((208, 216, 224), (3, 4, 5, 6), (3,), (6,), 2, squeeze=True),
            ),
            last=(1792, 1984),
            plain=PLAIN,
            classes=classes,
            input_channels=input_channels,
            head_dim=self.head_dim,
            value_ratio=self.value_ratio,
            window=self.window,
            dropout=self.dropout,
            drop_path=self.drop_path,
        )


@dataclasses.dataclass(frozen=True)
class NASViTSmall:
    """A small space of the same family as NASViT's, for images of 8 to 32 pixels."""

    name: ClassVar[str] = "nasvit_small"  # on the command line
    resolutions: tuple[int, ...] = (24, 32)
    """input sizes on offer, pixels; images are resized inside the network"""
    widths: tuple[int, ...] = (16, 24, 32)
    """channels on offer where there is attention, multiples of 8"""
    depths: tuple[int, ...] = (2, 3, 4)
    """blocks on offer there, of which the first is none of attention"""
    dropout: float = 0.0
    """dropout rate before the classifier, of the subnets that are regularised"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_resolutions(self.resolutions, 8)
        checks.require_rates(self.dropout)
        lists = checks.ascending(widths=self.widths, depths=self.depths)
        resolutions = tuple(sorted({*self.resolutions}))
        return nasvit(
            self.name,
            resolutions=resolutions,
            stem=(8,),
            stem_stride=1,
            stages=(
                Stage((8, 16), (1,), (3, 5), (1,), 2),
                Stage(lists["widths"], lists["depths"], (3,), (2, 3), 2, squeeze=True),
            ),
            last=(64,),
            plain=1,
            classes=classes,
            input_channels=input_channels,
            window=-(-resolutions[-1] // 4),
            head_ratio=2,
            dropout=self.dropout,
        )
