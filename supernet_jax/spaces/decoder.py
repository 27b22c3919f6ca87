"""Decoders on bytes of elastic width, depth, heads and hidden layers, for text that is generated.

Pre-norm blocks of the form of LLaMA (arXiv 2302.13971): RMSNorm, a gated layer, no biases, rotary
or learned positions, logits of their own or tied to the embedding. One width for all blocks; heads
and hidden channels for each block by itself, as in HAT (arXiv 2005.14187) and AutoFormer (arXiv
2107.00651); a shallower subnet has the first blocks. Each head has the same channels in all.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from supernet_jax.elastic.choices import Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.text_transformer import (
    DecoderBlock,
    DecoderSpec,
    FinalNorm,
    LogitsSpec,
    TiedLogits,
    TokenEmbedding,
    TokenEmbeddingSpec,
    TokenLogits,
    WidthSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import NextToken, OfTokens, Task


def decoder(
    name: str,
    *,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    hidden: tuple[int, ...],
    head_dim: int,
    task: OfTokens,
    kv_heads: int = 0,
    rotary: bool = True,
    longest: int = 1024,
    tied: bool = True,
    activation: Literal["silu", "gelu"] = "silu",
    drop_path: float = 0.0,
) -> Space:
    """A decoder.

    Its menu is `{"width", "depth", "heads": [blocks...], "hidden": [blocks...]}`. Decisions of
    blocks that an arch skips change nothing.

    Args:
        name: of the space.
        widths: channels of a token on offer, smallest first.
        depths: numbers of blocks on offer.
        heads: of queries, on offer in every block.
        hidden: channels of the gated layer on offer in every block.
        head_dim: channels of a head; even where positions are rotary.
        task: whose inputs are tokens.
        kv_heads: heads of keys and values, of which each number of heads is a multiple; 0 for as
            many as there are heads of queries.
        rotary: whether positions are rotary; else they are learned, `longest` of them.
        longest: sequence, in tokens.
        tied: whether the logits use the table of the embedding.
        activation: of the gate.
        drop_path: rate of the last block's branches; that of block `i` of `n` is
            `drop_path * i / (n - 1)`, counted from 0.

    Raises:
        UserError: sizes that do not fit each other, or a task with longer sequences.
    """
    checks.require_tokens(name, task, longest)
    require(head_dim > 0, f"space.head-dim is {head_dim}, but must be at least 1")
    require(
        not rotary or head_dim % 2 == 0,
        f"space.head-dim is {head_dim}, but rotary positions turn pairs of channels: make it even",
    )
    require(
        kv_heads >= 0,
        f"space.kv-heads is {kv_heads}; give a number above 0, or 0 for heads of their own",
    )
    require(
        not kv_heads or all(h % kv_heads == 0 for h in heads),
        f"space.kv-heads is {kv_heads}, of which each of the heads {heads} must be a multiple",
    )
    menu = checks.transformer_menu(widths, depths, heads, hidden)
    vocabulary = task.vocabulary
    positions = 0 if rotary else longest
    of_width: dict[str, Any] = {"menu": menu, "decisions": [("width",)]}
    blocks = {
        "embed": elastic(
            TokenEmbedding,
            lambda c: TokenEmbeddingSpec(vocabulary, c, positions),
            channels=lambda spec: (None,),
            relaxed=("tokens", "positions"),
            **of_width,
        )
    }
    for i in range(depths[-1]):
        same = {"head_dim": head_dim, "rotary": rotary, "activation": activation}
        rate = drop_path * i / max(depths[-1] - 1, 1)
        blocks[f"block{i + 1}"] = _block(menu, i, kv_heads, {**same, "drop_path": rate})
    blocks["norm"] = elastic(FinalNorm, WidthSpec, relaxed=("norm",), **of_width)
    blocks["head"] = elastic(
        TiedLogits if tied else TokenLogits,
        lambda c: LogitsSpec(c, vocabulary),
        group="embed" if tied else None,
        **of_width,
    )
    return Space(name, menu, blocks, chain(tuple(blocks)), task)


def _block(menu: Menu, i: int, kv_heads: int, same: dict[str, Any]) -> ElasticBlock:
    """Block `i`; `same` are the fields that its specs share."""
    return elastic(
        DecoderBlock,
        lambda c, h, f: DecoderSpec(c, h, kv_heads or h, hidden=f, **same),
        menu=menu,
        decisions=[("width",), ("heads", i), ("hidden", i)],
        depth=(("depth",), i),
        relaxed=("attention_norm", "attention", "mlp_norm", "up", "down"),
    )


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A byte-level decoder that two CPU cores train."""

    name: ClassVar[str] = "decoder"  # on the command line
    widths: tuple[int, ...] = (96, 128)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (2, 3, 4)
    """numbers of blocks on offer"""
    heads: tuple[int, ...] = (2, 4)
    """heads on offer in each block"""
    hidden: tuple[int, ...] = (192, 256, 384)
    """channels of the gated layer on offer in each block"""
    head_dim: int = 32
    """channels of a head, even with rotary positions"""
    kv_heads: int = 0
    """heads of keys and values that heads of queries share; 0 gives each its own"""
    positions: Literal["rotary", "learned"] = "rotary"
    """how a token knows its place; rotary has no parameters"""
    longest: int = 1024
    """longest sequence, bytes; learned positions have a row for each"""
    tied: bool = True
    """logits use the table of the embedding, which saves parameters"""
    drop_path: float = 0.0
    """rate of dropping branches of the last block, of the subnets that are regularised"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for a task on tokens; None for the next of 256 bytes, 256 at a time."""
        lists = checks.ascending(
            widths=self.widths, depths=self.depths, heads=self.heads, hidden=self.hidden
        )
        checks.require_rates(0.0, self.drop_path)
        return decoder(
            self.name,
            **lists,
            head_dim=self.head_dim,
            task=checks.of_tokens(self.name, NextToken(256, 256) if task is None else task),
            kv_heads=self.kv_heads,
            rotary=self.positions == "rotary",
            longest=self.longest,
            tied=self.tied,
            drop_path=self.drop_path,
        )
