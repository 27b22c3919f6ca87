"""MCUFormer (Liang et al. 2023, arXiv 2310.16898): vision transformers for the memory of a
microcontroller, of elastic rank and patch size.

The space is that of AutoFormer-T, enlarged by two decisions that save memory: the rank of every
linear layer, which is a product of two factors, as a share of its smaller side, and the size of the
patches, and so the number of tokens. That size is a shape, hence a static decision.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.mcuformer import (
    LowRankTransformerBlock,
    LowRankTransformerSpec,
    SizedPatchEmbedding,
    SizedPatchEmbeddingSpec,
    border,
)
from supernet_jax.nn.blocks.vision_transformer import TokensHead, TokensHeadSpec
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification


def mcuformer(
    name: str,
    *,
    resolutions: tuple[int, ...],
    patches: tuple[int, ...],
    embed_dims: tuple[int, ...],
    depths: tuple[int, ...],
    num_heads: tuple[int, ...],
    mlp_ratios: tuple[float, ...],
    rank_ratios: tuple[float, ...],
    head_dim: int = 64,
    distance: int = 14,
    classes: int = 1000,
    input_channels: int = 3,
    drop_path: float = 0.0,
    deviation: float = 0.02,
) -> Space:
    """A vision transformer of two-factor layers.

    Its menu is `{"resolution", "patch", "embed_dim", "depth", "rank_ratio", "num_heads":
    [blocks...], "mlp_ratio": [blocks...]}`, all lists smallest first. Resolution and patch are
    static. Decisions of blocks that an arch skips change nothing.

    Args:
        name: of the space.
        resolutions: of the images on offer, pixels.
        patches: pixels on a side of a patch on offer. Where one does not divide a resolution, the
            image gets a border of zeros, equal on both sides.
        embed_dims: channels of a token on offer.
        depths: numbers of blocks on offer.
        num_heads: on offer in every block.
        mlp_ratios: on offer in every block, hidden channels of the MLP by those of a token.
        rank_ratios: on offer for all blocks, rank of a linear layer by the smaller of its numbers
            of inputs and outputs, in (0, 1]; rounded down, and at least 1.
        head_dim: channels of a head.
        distance: largest distance between patches, in patches, with an embedding of its own; 0 for
            no relative positions.
        classes: number of logits.
        input_channels: of the images.
        drop_path: rate of the last block's branches, as of `autoformer.autoformer`.
        deviation: standard deviation with which second factors, the class token and positions
            start.

    Raises:
        UserError: a patch that does not fit a resolution, or a ratio that is none.
    """
    for ratio in rank_ratios:
        require(
            0 < ratio <= 1,
            f"space.rank-ratios has {ratio}; a rank is a share of a layer's smaller side, above 0 "
            "and at most 1",
        )
    grids = {(r + 2 * border(r, p)) // p for r in resolutions for p in patches}
    every: dict[str, Any] = {"patches": patches, "grids": tuple(sorted(grids))}
    menu: Menu = {
        "resolution": Choice(resolutions),
        "patch": Choice(patches),
        "embed_dim": Choice(embed_dims),
        "depth": Choice(depths),
        "rank_ratio": Choice(rank_ratios),
        "num_heads": [Choice(num_heads, depth=(("depth",), i)) for i in range(depths[-1])],
        "mlp_ratio": [Choice(mlp_ratios, depth=(("depth",), i)) for i in range(depths[-1])],
    }
    embed = lambda p, c: SizedPatchEmbeddingSpec(  # noqa: E731
        input_channels, c, p, deviation=deviation
    )
    blocks = {
        "embed": elastic(
            SizedPatchEmbedding,
            embed,
            menu=menu,
            decisions=[("patch",), ("embed_dim",)],
            union=dataclasses.replace(embed(patches[-1], embed_dims[-1]), **every),
            relaxed=(
                "class_token",
                *(f"patch{p}" for p in every["patches"]),
                *(f"position{g}" for g in every["grids"]),
            ),
        )
    }
    for i in range(depths[-1]):
        same = {"head_dim": head_dim, "distance": distance, "deviation": deviation}
        rate = drop_path * i / max(depths[-1] - 1, 1)
        blocks[f"block{i + 1}"] = _block(menu, i, {**same, "drop_path": rate})
    blocks["head"] = elastic(
        TokensHead,
        lambda c: TokensHeadSpec(c, classes),
        menu=menu,
        decisions=[("embed_dim",)],
        relaxed=("norm",),
    )
    task = ImageClassification(input_channels, classes)
    return Space(
        name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",), ("patch",))
    )


def _block(menu: Menu, i: int, same: dict[str, Any]) -> ElasticBlock:
    """Block `i`; `same` are the fields that its specs share."""

    def spec(c: int, heads: int, mlp_ratio: float, rank_ratio: float) -> LowRankTransformerSpec:
        hidden, merged = int(c * mlp_ratio), heads * same["head_dim"]

        def rank(inputs: int, outputs: int) -> int:
            return max(int(min(inputs, outputs) * rank_ratio), 1)

        return LowRankTransformerSpec(
            c,
            heads,
            hidden=hidden,
            heads_rank=rank(c, 3 * merged),
            merge_rank=rank(merged, c),
            expand_rank=rank(c, hidden),
            project_rank=rank(hidden, c),
            **same,
        )

    return elastic(
        LowRankTransformerBlock,
        spec,
        menu=menu,
        decisions=[("embed_dim",), ("num_heads", i), ("mlp_ratio", i), ("rank_ratio",)],
        depth=(("depth",), i),
        relaxed=(
            *("attention_norm", "attention", "mlp_norm"),
            *("expand_down", "expand", "project_down", "project"),
        ),
    )


@dataclasses.dataclass(frozen=True)
class MCUFormer:
    """MCUFormer's space (vision transformers of elastic rank and patch size)."""

    name: ClassVar[str] = "mcuformer"  # on the command line
    resolutions: tuple[int, ...] = (240,)
    """sizes of images on offer, pixels"""
    patches: tuple[int, ...] = (16, 20, 24, 28, 32)
    """pixels on a side of a patch on offer; larger ones make fewer tokens"""
    embed_dims: tuple[int, ...] = (168, 192, 216)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (12, 13, 14)
    """numbers of blocks on offer"""
    num_heads: tuple[int, ...] = (3, 4)
    """heads on offer in each block"""
    mlp_ratios: tuple[float, ...] = (3.5, 4.0)
    """MLP ratios on offer in each block"""
    rank_ratios: tuple[float, ...] = tuple(round(0.4 + 0.05 * i, 2) for i in range(12))
    """ranks on offer for all linear layers of blocks, as shares of their smaller sides"""
    head_dim: int = 64
    """channels of a head"""
    distance: int = 14
    """largest distance between patches with a relative position; 0 for no relative positions"""
    drop_path: float = 0.0
    """rate of dropping branches of the last block, in the roles of sampler.regularised; published
    code: 0.1, with which blocks are no longer alike and costs take minutes to tabulate"""
    deviation: float = 0.02
    """standard deviation with which weights start; narrow tokens want more"""

    def build(self, *, classes: int = 1000, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_rates(0.0, self.drop_path)
        require(self.head_dim >= 1, f"space.head-dim is {self.head_dim}, but must be at least 1")
        require(self.distance >= 0, f"space.distance is {self.distance}, but must be at least 0")
        require(self.deviation > 0, f"space.deviation is {self.deviation}, but must be above 0")
        lists = checks.ascending(
            resolutions=self.resolutions,
            patches=self.patches,
            embed_dims=self.embed_dims,
            depths=self.depths,
            num_heads=self.num_heads,
            mlp_ratios=self.mlp_ratios,
            rank_ratios=self.rank_ratios,
        )
        return mcuformer(
            self.name,
            **lists,
            head_dim=self.head_dim,
            distance=self.distance,
            classes=classes,
            input_channels=input_channels,
            drop_path=self.drop_path,
            deviation=self.deviation,
        )
