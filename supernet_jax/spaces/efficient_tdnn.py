"""EfficientTDNN's space (Wang et al. 2021, arXiv 2103.13581): time-delay networks of elastic depth,
widths and kernels, for embeddings of speakers.

The first width is that of the trunk, each other one that of the inside of a block; a shallower
subnet has the first blocks. Inside a block channels are eight groups, and a narrower one has the
first channels of each. Kernels are cut at their centre; the published transforms between kernel
sizes start as that.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks.time_delay import (
    AttentiveEmbedding,
    EmbeddingSpec,
    FrameLayer,
    FrameLayerSpec,
    SERes2Block,
    SERes2Spec,
    SpeakerCosines,
    SpeakerCosinesSpec,
    SummedBlocks,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import SpeakerVerification, Task

REDUCTION = 4  # of channels in squeeze-and-excitation
VOXCELEB2 = 5994  # speakers of its development part, on which the published networks are trained


def efficient_tdnn(
    name: str,
    *,
    frames: tuple[int, ...],
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    kernels: tuple[int, ...],
    last_widths: tuple[int, ...],
    task: SpeakerVerification,
    groups: int = 8,
    bottleneck: int = 128,
    features: int = 192,
) -> Space:
    """A time-delay network. Its menu is `{"frames", "depth", "width": [trunk, blocks...], "kernel":
    [first layer, blocks...], "last_width"}`.

    Args:
        name: of the space.
        frames: of an utterance on offer, smallest first, the static decision.
        depths: numbers of blocks on offer.
        widths: channels on offer, of the trunk and inside of each block.
        kernels: over time on offer, of the first layer and of each block, odd.
        last_widths: channels on offer that are pooled.
        task: what it is for.
        groups: of the channels inside a block.
        bottleneck: hidden channels of the attention that pools.
        features: numbers of an embedding.

    Raises:
        UserError: widths that the groups or squeeze-and-excitation cannot divide, even kernels, or
            more frames than the data has.
    """
    for width in widths:
        require(
            width % groups == 0 and width % REDUCTION == 0,
            f"space.widths has {width}, but channels come in {groups} groups and are reduced to a "
            f"quarter; give multiples of {groups} and {REDUCTION}",
        )
    require(
        all(kernel % 2 for kernel in kernels), f"space.kernels is {kernels}; give odd numbers only"
    )
    require(
        task.length >= frames[-1],
        f"examples have {task.length} frames, but the space {name} offers {frames[-1]}; raise "
        "--data.length, or lower --space.frames",
    )
    count, depth = depths[-1], ("depth",)
    menu: Menu = {
        "frames": Choice(frames),
        "depth": Choice(depths),
        "width": [Choice(widths), *(Choice(widths, depth=(depth, i)) for i in range(count))],
        "kernel": [Choice(kernels), *(Choice(kernels, depth=(depth, i)) for i in range(count))],
        "last_width": Choice(last_widths),
    }
    blocks = {
        "frames": elastic(
            FrameLayer,
            lambda c, k: FrameLayerSpec(task.bands, c, k),
            menu=menu,
            decisions=[("width", 0), ("kernel", 0)],
            channels=lambda spec: (spec.c_in,),
            relaxed=("norm",),
        )
    }
    for i in range(count):
        blocks[f"block{i + 1}"] = _block(menu, i, groups)
    blocks["embedding"] = elastic(
        AttentiveEmbedding,
        lambda c, d, last: EmbeddingSpec(c, d, last, bottleneck, features),
        menu=menu,
        decisions=[("width", 0), depth, ("last_width",)],
        channels=lambda spec: (spec.c_in,) * count,
        gates=lambda spec: {f"input{i}": float(i < spec.depth) for i in range(count)},
        relaxed=("merge", "pooled_norm"),
    )
    blocks["speakers"] = elastic(
        SpeakerCosines, lambda: SpeakerCosinesSpec(features, task.speakers), menu=menu
    )
    static, uncounted = (("frames",),), ("speakers",)
    forward = SummedBlocks(count)
    return Space(name, menu, blocks, forward, task, static=static, uncounted=uncounted)


def _block(menu: Menu, i: int, groups: int) -> ElasticBlock:
    """Block `i`, counted from 0; it sees frames that are `i + 2` apart."""
    norms = (f"group{g + 1}_norm" for g in range(groups - 1))
    return elastic(
        SERes2Block,
        lambda c, w, k: SERes2Spec(c, groups, w // groups, k, i + 2, c // REDUCTION),
        menu=menu,
        decisions=[("width", 0), ("width", i + 1), ("kernel", i + 1)],
        depth=(("depth",), i),
        channels=lambda spec: (spec.c_in, spec.c_in),
        relaxed=("first_norm", *norms, "last_norm", "reduce"),
    )


@dataclasses.dataclass(frozen=True)
class EfficientTdnn:
    """EfficientTDNN's coarse space (83 M to 1.93 G MACs, 0.44 to 7.55 M parameters)."""

    name: ClassVar[str] = "efficient_tdnn"  # on the command line
    frames: tuple[int, ...] = (300,)
    """frames of an utterance on offer; of several, random subnets of a step share one"""
    depths: tuple[int, ...] = (2, 3, 4)
    """numbers of blocks on offer"""
    widths: tuple[int, ...] = (128, 176, 256, 384, 512)
    """channels on offer, of the trunk and inside of each block; multiples of 8"""
    kernels: tuple[int, ...] = (1, 3, 5)
    """kernels over time on offer, of the first layer and of each block"""
    last_widths: tuple[int, ...] = (384, 536, 768, 1152, 1536)
    """channels on offer that are pooled over time"""
    groups: int = 8
    """groups of the channels inside a block, of which all but one have a convolution"""
    bottleneck: int = 128
    """hidden channels of the attention that pools over time"""
    features: int = 192
    """numbers of an embedding; more can tell more speakers apart"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for a task on speech; None for speakers of VoxCeleb2."""
        lists: dict[str, Any] = checks.ascending(
            frames=self.frames,
            depths=self.depths,
            widths=self.widths,
            kernels=self.kernels,
            last_widths=self.last_widths,
        )
        for option in ("groups", "bottleneck", "features"):
            value = vars(self)[option]
            least = 2 if option == "groups" else 1
            require(value >= least, f"space.{option} is {value}, but must be at least {least}")
        if task is None:
            task = SpeakerVerification(80, max(self.frames), VOXCELEB2)
        if not isinstance(task, SpeakerVerification):
            raise UserError(
                f"the space {self.name} is for speech, but the task of the data is {task.name}; "
                "give recordings of speakers, see docs/data.md, or choose another space"
            )
        lists |= {"groups": self.groups, "bottleneck": self.bottleneck, "features": self.features}
        return efficient_tdnn(self.name, **lists, task=task)
