"""AutoFormer's spaces T, S and B (arXiv 2107.00651): vision transformers of elastic width, depth,
heads and MLP ratios.

One width for all blocks, a number of heads and an MLP ratio for each block by itself; a shallower
subnet has the first blocks. A head always has 64 channels, whatever the width is.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
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


def autoformer(
    name: str,
    *,
    embed_dims: tuple[int, ...],
    depths: tuple[int, ...],
    num_heads: tuple[int, ...],
    mlp_ratios: tuple[float, ...],
    width: int,
    resolution: int = 224,
    patch: int = 16,
    head_dim: int = 64,
    distance: int = 14,
    classes: int = 1000,
    input_channels: int = 3,
    drop_path: float = 0.0,
) -> Space:
    """A vision transformer with relative positions.

    Its menu is `{"resolution", "embed_dim", "depth", "num_heads": [blocks...], "mlp_ratio":
    [blocks...]}`, the notation of the published configurations. Decisions of blocks that an arch
    skips change nothing, and may be left out at the end of the lists.

    Args:
        name: of the space.
        embed_dims: channels of a token on offer, smallest first.
        depths: numbers of blocks on offer.
        num_heads: on offer in every block.
        mlp_ratios: on offer in every block, hidden channels of the MLP by those of a token; rounded
            down where they are no whole number.
        width: channels of a token that the shared weights have, at least the largest of
            `embed_dims`; the published ones have more.
        resolution: of the images, pixels, a multiple of `patch`.
        patch: pixels on a side of a patch.
        head_dim: channels of a head.
        distance: largest distance between patches, in patches, with an embedding of its own.
        classes: number of logits.
        input_channels: of the images.
        drop_path: rate of the last block's branches; that of block `i` of `n` is
            `drop_path * i / (n - 1)`, counted from 0.

    Raises:
        UserError: the resolution is not a multiple of the patch, or the width too small.
    """
    require(
        patch >= 1 and resolution >= patch and resolution % patch == 0,
        f"the space {name} has images of {resolution} pixels and patches of {patch}; the "
        "resolution must be a multiple of the patch",
    )
    require(
        width >= embed_dims[-1],
        f"the space {name} has shared weights of {width} channels, but offers {embed_dims[-1]}; "
        "width must be at least the largest of embed-dims",
    )
    count = depths[-1]
    depth = ("depth",)
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "embed_dim": Choice(embed_dims),
        "depth": Choice(depths),
        "num_heads": [Choice(num_heads, depth=(depth, i)) for i in range(count)],
        "mlp_ratio": [Choice(mlp_ratios, depth=(depth, i)) for i in range(count)],
    }
    embed = lambda c: PatchEmbeddingSpec(input_channels, c, patch)  # noqa: E731
    head = lambda c: TokensHeadSpec(c, classes)  # noqa: E731
    of_width: dict[str, Any] = {"menu": menu, "decisions": [("embed_dim",)]}
    tokens = ("patches", "class_token", "position")
    blocks = {
        "embed": elastic(PatchEmbedding, embed, union=embed(width), relaxed=tokens, **of_width)
    }
    for i in range(count):
        same: dict[str, Any] = {
            "head_dim": head_dim,
            "grid": resolution // patch,
            "distance": distance,
        }
        same["drop_path"] = drop_path * i / max(count - 1, 1)
        blocks[f"block{i + 1}"] = _block(menu, i, width, same)
    blocks["head"] = elastic(TokensHead, head, union=head(width), relaxed=("norm",), **of_width)
    task = ImageClassification(input_channels, classes)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


def _block(menu: Menu, i: int, width: int, same: dict[str, Any]) -> ElasticBlock:
    """Block `i`; `same` are the fields that its specs share."""

    def spec(c: int, heads: int, ratio: float) -> TransformerSpec:
        return TransformerSpec(c, heads, hidden=int(c * ratio), prefix_bias=True, **same)

    heads, ratios = menu["num_heads"][i].values, menu["mlp_ratio"][i].values
    return elastic(
        TransformerBlock,
        spec,
        menu=menu,
        decisions=[("embed_dim",), ("num_heads", i), ("mlp_ratio", i)],
        depth=(("depth",), i),
        union=spec(width, heads[-1], ratios[-1]),
        relaxed=("attention_norm", "attention", "mlp_norm", "expand", "project"),
    )


def _built(
    offers: "AutoFormerT | AutoFormerS | AutoFormerB", classes: int, input_channels: int
) -> Space:
    checks.require_rates(0.0, offers.drop_path)
    lists = checks.ascending(
        embed_dims=offers.embed_dims,
        depths=offers.depths,
        num_heads=offers.num_heads,
        mlp_ratios=offers.mlp_ratios,
    )
    return autoformer(
        offers.name,
        **lists,
        width=offers.width,
        classes=classes,
        input_channels=input_channels,
        drop_path=offers.drop_path,
    )


@dataclasses.dataclass(frozen=True)
class AutoFormerT:
    """AutoFormer-T (images of 224 pixels, 5.4 to 10.5 M parameters)."""

    name: ClassVar[str] = "autoformer_t"  # on the command line
    embed_dims: tuple[int, ...] = (192, 216, 240)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (12, 13, 14)
    """numbers of blocks on offer"""
    num_heads: tuple[int, ...] = (3, 4)
    """heads on offer in each block"""
    mlp_ratios: tuple[float, ...] = (3.0, 3.5, 4.0)
    """MLP ratios on offer in each block; training was published with 3.5 and 4"""
    width: int = 256
    """channels of the shared weights, at least the largest of embed-dims"""
    drop_path: float = 0.1
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, classes, input_channels)


@dataclasses.dataclass(frozen=True)
class AutoFormerS:
    """AutoFormer-S (images of 224 pixels, published subnet of 22.9 M parameters)."""

    name: ClassVar[str] = "autoformer_s"  # on the command line
    embed_dims: tuple[int, ...] = (320, 384, 448)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (12, 13, 14)
    """numbers of blocks on offer"""
    num_heads: tuple[int, ...] = (5, 6, 7)
    """heads on offer in each block"""
    mlp_ratios: tuple[float, ...] = (3.0, 3.5, 4.0)
    """MLP ratios on offer in each block"""
    width: int = 448
    """channels of the shared weights, at least the largest of embed-dims"""
    drop_path: float = 0.1
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, classes, input_channels)


@dataclasses.dataclass(frozen=True)
class AutoFormerB:
    """AutoFormer-B (images of 224 pixels, published subnet of 53.7 M parameters)."""

    name: ClassVar[str] = "autoformer_b"  # on the command line
    embed_dims: tuple[int, ...] = (528, 576, 624)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (14, 15, 16)
    """numbers of blocks on offer"""
    num_heads: tuple[int, ...] = (8, 9, 10)
    """heads on offer in each block; training was published with 9 and 10"""
    mlp_ratios: tuple[float, ...] = (3.0, 3.5, 4.0)
    """MLP ratios on offer in each block"""
    width: int = 640
    """channels of the shared weights, at least the largest of embed-dims"""
    drop_path: float = 0.1
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, classes, input_channels)
