"""MobileNetV3-like spaces: the AttentiveNAS/AlphaNet space and small presets of the same blocks.

The published space is that of AttentiveNAS (arXiv 2011.09011) and AlphaNet (arXiv 2102.07954):
elastic input resolution, and per stage elastic width, depth, kernel size and expansion.
All blocks of a stage share their choices.
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp

from supernet_jax import layers
from supernet_jax.choices import Array, Choice, Menu, Path
from supernet_jax.elastic import ElasticBlock, elastic, pad_channels, union_spec
from supernet_jax.network import Space, chain

IDENTITY, CONV, EITHER = "identity", "conv", "either"


@dataclasses.dataclass(frozen=True)
class StemSpec:
    """Sizes of a `Stem`: channels in and out, and the stride of its 3x3 convolution."""

    c_in: int
    c_out: int
    stride: int


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, swish."""

    spec: StemSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        x = layers.Conv(self.spec.c_out, 3, self.spec.stride, name="conv")(x)
        return nn.swish(layers.BatchNorm(name="norm")(x))


@dataclasses.dataclass(frozen=True)
class MBConvSpec:
    """Sizes of an `MBConv`.

    Attributes:
        c_in: channels of the input.
        c_out: channels of the output.
        middle: channels of the depthwise convolution; `expand` says whether a 1x1 convolution
            makes them.
        kernel: of the depthwise convolution, odd.
        stride: of the depthwise convolution and the shortcut.
        expand: whether there is an expansion; without it `middle` is `c_in`.
        reduced: hidden channels of squeeze-and-excitation, 0 for none.
        shortcut: "identity", "conv" (1x1, no normalisation), or "either" in a union of both.
        drop_path: drop-connect rate of the residual branch.
    """

    c_in: int
    c_out: int
    middle: int
    kernel: int
    stride: int
    expand: bool
    reduced: int
    shortcut: str
    drop_path: float = 0.0


class MBConv(nn.Module):
    """Inverted bottleneck with a shortcut on every block.

    [1x1 expand, norm, swish,] depthwise, norm, swish, [squeeze-excite,] 1x1 project, norm; plus the
    input: averaged over the stride, and through a 1x1 convolution if the channels differ.
    """

    spec: MBConvSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        y = x
        if s.expand:
            y = layers.Pointwise(s.middle, name="expand")(y)
            y = nn.swish(layers.BatchNorm(name="expand_norm")(y))
        y = layers.Depthwise(s.kernel, s.stride, name="depthwise")(y)
        y = nn.swish(layers.BatchNorm(name="depthwise_norm")(y))
        if s.reduced:
            y = layers.SqueezeExcite(s.reduced, name="squeeze")(y)
        y = layers.Pointwise(s.c_out, name="project")(y)
        y = layers.BatchNorm(zero_scale=True, name="project_norm")(y)
        dropped = layers.DropPath(s.drop_path, name="drop_path")(y)
        if s.stride > 1:
            x = layers.average_pool(x, s.stride)
        if s.shortcut == IDENTITY:
            return dropped + x
        mapped = layers.Pointwise(s.c_out, name="shortcut")(x)
        if s.shortcut == CONV:  # its specs have no drop-connect
            return y + mapped
        # In a union the gate tells which kind a spec has; for identity the kernel is masked to 0.
        gate = self.variable("gates", "identity", jnp.ones, ()).value.astype(x.dtype)
        identity = gate * pad_channels(x, s.c_out)[..., : s.c_out]
        return y + gate * (dropped - y) + mapped + identity


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """Sizes of a `Head`.

    Attributes:
        c_in: channels of the last stage.
        middle: channels before pooling.
        c_out: features after pooling.
        classes: number of logits.
        dropout: rate before the classifier.
        dropout_width: channels for which dropout bits are drawn, in every subnet.
    """

    c_in: int
    middle: int
    c_out: int
    classes: int
    dropout: float
    dropout_width: int


class Head(nn.Module):
    """MobileNetV3's head: 1x1, norm, swish, mean over the image, 1x1, swish, dropout, linear."""

    spec: HeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        s = self.spec
        x = layers.Pointwise(s.middle, name="expand")(x)
        x = nn.swish(layers.BatchNorm(name="expand_norm")(x))
        x = jnp.mean(x, (1, 2))
        x = nn.swish(layers.Pointwise(s.c_out, name="mix")(x))
        x = layers.Dropout(s.dropout, s.dropout_width, name="dropout")(x)
        return layers.Dense(s.classes, name="classifier")(x)


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
            blocks[f"stage{i + 1}_block{j + 1}"] = _block(menu, stage, i, j, rate)
    blocks["head"] = _head(menu, len(stages), last, classes, head_ratio, dropout)
    return Space(name, menu, blocks, chain(tuple(blocks)), input_channels, classes)


def _block(menu: Menu, stage: Stage, i: int, j: int, rate: float) -> ElasticBlock:
    """Block `j` of stage `i`; only the first changes width and size."""
    spec = _spec(stage, stage.stride if j == 0 else 1, rate)
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


def _spec(stage: Stage, stride: int, rate: float) -> Callable[[int, int, int, int], MBConvSpec]:
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


def attentivenas(
    *,
    classes: int = 1000,
    input_channels: int = 3,
    dropout: float = 0.2,
    drop_path: float = 0.2,
) -> Space:
    """The AttentiveNAS/AlphaNet space, exactly: 440,301,256,704 archs, 203 to 1,939 M MACs."""
    return mobilenet(
        "attentivenas",
        resolutions=(192, 224, 256, 288),
        stem=(16, 24),
        stem_stride=2,
        stages=(
            Stage((16, 24), (1, 2), (3, 5), (1,), 1),
            Stage((24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2),
            Stage((32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, squeeze=True),
            Stage((64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2),
            Stage((112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, squeeze=True),
            Stage((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, squeeze=True),
            Stage((216, 224), (1, 2), (3, 5), (6,), 1, squeeze=True),
        ),
        last=(1792, 1984),
        classes=classes,
        input_channels=input_channels,
        dropout=dropout,
        drop_path=drop_path,
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
