"""Encoders on bytes of elastic width, depth, heads and hidden layers, for hidden bytes.

Post-norm blocks of the form of BERT (arXiv 1810.04805): LayerNorm, two linear layers with GELU,
biases, learned positions, logits tied to the embedding. What is elastic is that of `decoder`.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.elastic.choices import Menu
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks.text_transformer import (
    EncoderBlock,
    EncoderSpec,
    LogitsSpec,
    OutputBias,
    OutputBiasSpec,
    TiedLogits,
    TokenEmbedding,
    TokenEmbeddingSpec,
    TokenTransform,
    WidthSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import HiddenTokens, NextToken, OfTokens, Task


def text_encoder(
    name: str,
    *,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    hidden: tuple[int, ...],
    head_dim: int,
    task: OfTokens,
    longest: int = 512,
    types: int = 0,
    drop_path: float = 0.0,
) -> Space:
    """An encoder. Its menu is that of `decoder.decoder`, as are most arguments.

    BERT has what `embed` and the blocks have, and a pooler of the size of the linear layer of
    `transform`, which BERT's own masked language model puts before the tied logits.

    Args:
        name: of the space.
        widths: channels of a token on offer, smallest first.
        depths: numbers of blocks on offer.
        heads: on offer in every block.
        hidden: channels between the linear layers on offer in every block.
        head_dim: channels of a head.
        task: whose inputs are tokens.
        longest: sequence, in tokens, each with a learned position.
        types: of segments, as BERT's two, of which all text here is the first.
        drop_path: as of `decoder.decoder`.

    Raises:
        UserError: a task with longer sequences, or in which an encoder sees what it is to say.
    """
    checks.require_tokens(name, task, longest)
    require(head_dim > 0, f"space.head-dim is {head_dim}, but must be at least 1")
    if isinstance(task, NextToken):
        raise UserError(
            f"the space {name} sees what follows a byte, so it cannot be trained to say it; set "
            "task=sj.tasks.HideTokens() in the configuration, or choose the space decoder"
        )
    menu = checks.transformer_menu(widths, depths, heads, hidden)
    vocabulary = task.vocabulary
    of_width: dict[str, Any] = {"menu": menu, "decisions": [("width",)]}
    blocks = {
        "embed": elastic(
            TokenEmbedding,
            lambda c: TokenEmbeddingSpec(vocabulary, c, longest, types, norm=True),
            channels=lambda spec: (None,),
            relaxed=("norm",),
            **of_width,
        )
    }
    for i in range(depths[-1]):
        rate = drop_path * i / max(depths[-1] - 1, 1)
        blocks[f"block{i + 1}"] = _block(menu, i, head_dim, rate)
    blocks["transform"] = elastic(TokenTransform, WidthSpec, relaxed=("norm",), **of_width)
    blocks["head"] = elastic(
        TiedLogits, lambda c: LogitsSpec(c, vocabulary), group="embed", **of_width
    )
    blocks["bias"] = elastic(
        OutputBias,
        lambda: OutputBiasSpec(vocabulary),
        menu=menu,
        channels=lambda spec: (None,),
    )
    return Space(name, menu, blocks, chain(tuple(blocks)), task)


def _block(menu: Menu, i: int, head_dim: int, drop_path: float) -> ElasticBlock:
    """Block `i`."""
    return elastic(
        EncoderBlock,
        lambda c, h, f: EncoderSpec(c, h, head_dim, f, drop_path),
        menu=menu,
        decisions=[("width",), ("heads", i), ("hidden", i)],
        depth=(("depth",), i),
        relaxed=("attention", "attention_norm", "expand", "project", "mlp_norm"),
    )


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A byte-level encoder that two CPU cores train; for task=sj.tasks.HideTokens()."""

    name: ClassVar[str] = "text_encoder"  # on the command line
    widths: tuple[int, ...] = (96, 128)
    """channels of a token on offer"""
    depths: tuple[int, ...] = (2, 3, 4)
    """numbers of blocks on offer"""
    heads: tuple[int, ...] = (2, 4)
    """heads on offer in each block"""
    hidden: tuple[int, ...] = (256, 384, 512)
    """channels between the linear layers on offer in each block"""
    head_dim: int = 32
    """channels of a head"""
    longest: int = 512
    """longest sequence, bytes; each has a learned position"""
    drop_path: float = 0.0
    """rate of dropping branches of the last block, of the subnets that are regularised"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for a task on tokens; None for hidden ones of 256 bytes."""
        lists = checks.ascending(
            widths=self.widths, depths=self.depths, heads=self.heads, hidden=self.hidden
        )
        checks.require_rates(0.0, self.drop_path)
        return text_encoder(
            self.name,
            **lists,
            head_dim=self.head_dim,
            task=checks.of_tokens(self.name, HiddenTokens(257, 256) if task is None else task),
            longest=self.longest,
            drop_path=self.drop_path,
        )
