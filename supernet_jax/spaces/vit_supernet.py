"""Vision transformers of the form of ViT (arXiv 2010.11929) and DeiT (arXiv 2012.12877), elastic in
what a trained one can lose: heads and hidden channels of each block, and blocks.

So a supernet begins with a trained network, which is its largest subnet, and trains while that
network is fine-tuned: InstaTune (Sridhar et al. 2023, arXiv 2308.15609). The width of a token is
the network's own.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.vision_transformer import (
    PatchEmbedding,
    PatchEmbeddingSpec,
    TokensHead,
    TokensHeadSpec,
    TransformerBlock,
    TransformerSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification


def vit_supernet(
    name: str,
    *,
    width: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    hidden: tuple[int, ...],
    head_dim: int = 64,
    resolution: int = 224,
    patch: int = 16,
    deviation: float = 0.02,
    drop_path: float = 0.0,
    classes: int = 1000,
    input_channels: int = 3,
) -> Space:
    """A vision transformer: patches, class token, learned positions, blocks with LayerNorm before
    each part, LayerNorm, and a linear classifier of the class token.

    Its menu is `{"resolution", "depth", "heads": [blocks...], "hidden": [blocks...]}`. A shallower
    subnet has the first blocks.

    Args:
        name: of the space.
        width: channels of a token.
        depths: numbers of blocks on offer, smallest first.
        heads: on offer in every block.
        hidden: channels between the linear layers of a block, on offer in every block.
        head_dim: channels of a head.
        resolution: of the images, pixels, a multiple of `patch`.
        patch: pixels on a side of a patch.
        deviation: with which class token and positions start, see `PatchEmbeddingSpec`.
        drop_path: rate of the last block's branches; that of block `i` of `n` is
            `drop_path * i / (n - 1)`, counted from 0.
        classes: number of logits.
        input_channels: of the images.

    Raises:
        UserError: a size that is not above 0, or a resolution that is no multiple of the patch.
    """
    checks.require_sizes(width=width, head_dim=head_dim, patch=patch)
    require(
        resolution >= patch and resolution % patch == 0,
        f"the space {name} has images of {resolution} pixels and patches of {patch}; the "
        "resolution must be a multiple of the patch",
    )
    count, depth = depths[-1], ("depth",)
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "depth": Choice(depths),
        "heads": [Choice(heads, depth=(depth, i)) for i in range(count)],
        "hidden": [Choice(hidden, depth=(depth, i)) for i in range(count)],
    }

    def spec(i: int) -> Any:
        rate = drop_path * i / max(count - 1, 1)
        return lambda h, f: TransformerSpec(width, h, head_dim, f, drop_path=rate, norm_digits=6)

    blocks = {
        "embed": elastic(
            PatchEmbedding,
            lambda: PatchEmbeddingSpec(input_channels, width, patch, deviation),
            menu=menu,
        )
    }
    for i in range(count):
        blocks[f"block{i + 1}"] = elastic(
            TransformerBlock,
            spec(i),
            menu=menu,
            decisions=[("heads", i), ("hidden", i)],
            depth=(depth, i),
            relaxed=("attention", "expand"),
        )
    blocks["head"] = elastic(
        TokensHead, lambda: TokensHeadSpec(width, classes, "class_token", 6), menu=menu
    )
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


@dataclasses.dataclass(frozen=True)
class VitSupernet:
    """A ViT or DeiT that becomes a supernet while it is fine-tuned; by default a DeiT-T."""

    name: ClassVar[str] = "vit_supernet"  # on the command line
    width: int = 192
    """channels of a token, those of the network it begins with"""
    depths: tuple[int, ...] = (6, 7, 8, 9, 10, 11, 12)
    """numbers of blocks on offer; the largest is that of the network it begins with"""
    heads: tuple[int, ...] = (2, 3)
    """heads on offer in each block; the largest are that network's, width / head-dim"""
    hidden: tuple[int, ...] = (256, 512, 768)
    """channels between the linear layers on offer in each block; the largest are the network's"""
    head_dim: int = 64
    """channels of a head"""
    resolution: int = 224
    """pixels on a side of the images, a multiple of the patch"""
    patch: int = 16
    """pixels on a side of a patch; smaller ones are more tokens, and take longer"""
    deviation: float = 0.02
    """standard deviation of positions at a random start; short trainings want more"""
    drop_path: float = 0.0
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        lists = checks.ascending(depths=self.depths, heads=self.heads, hidden=self.hidden)
        checks.require_rates(0.0, self.drop_path)
        require(self.deviation >= 0, f"space.deviation is {self.deviation}, must be 0 or more")
        same = ("width", "head_dim", "resolution", "patch", "deviation", "drop_path")
        own = {name: getattr(self, name) for name in same}
        return vit_supernet(
            self.name, **lists, **own, classes=classes, input_channels=input_channels
        )
