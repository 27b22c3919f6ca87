"""Encoders of the form of BERT (arXiv 1810.04805) that tell sequences apart, elastic in what a
trained one can lose: heads and hidden channels of each block, and blocks.

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
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks.text_transformer import (
    EncoderBlock,
    EncoderSpec,
    PooledLogits,
    PooledLogitsSpec,
    Pooler,
    TokenEmbedding,
    TokenEmbeddingSpec,
    WidthSpec,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import SequenceClassification, Task

WORDS = 30522  # of the published vocabulary without capitals
LONGEST = 512  # positions of the published networks


def bert_supernet(
    name: str,
    *,
    width: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    hidden: tuple[int, ...],
    head_dim: int,
    task: SequenceClassification,
    vocabulary: int = WORDS,
    longest: int = LONGEST,
    types: int = 2,
    drop_path: float = 0.0,
) -> Space:
    """An encoder with a pooler and a linear classifier.

    Its menu is `{"depth", "heads": [blocks...], "hidden": [blocks...]}`. A shallower subnet has the
    first blocks. Published numbers of parameters are those without the classifier, which the space
    leaves uncounted.

    Args:
        name: of the space.
        width: channels of a token.
        depths: numbers of blocks on offer, smallest first.
        heads: on offer in every block.
        hidden: channels between the linear layers of a block, on offer in every block.
        head_dim: channels of a head.
        task: sequences and their classes.
        vocabulary: rows of the table of tokens, at least as many as the task has ids.
        longest: sequence, in tokens, each with a learned position.
        types: of segments, of which all tokens here are of the first.
        drop_path: as of `vit_supernet.vit_supernet`.

    Raises:
        UserError: a size that is not above 0; a task with more ids or longer sequences.
    """
    checks.require_sizes(width=width, head_dim=head_dim, types=types)
    checks.require_tokens(name, task, longest)
    require(
        task.vocabulary <= vocabulary,
        f"the data has {task.vocabulary} ids of tokens, but the space {name} has rows for "
        f"{vocabulary}; raise --space.vocabulary",
    )
    count, depth = depths[-1], ("depth",)
    menu: Menu = {
        "depth": Choice(depths),
        "heads": [Choice(heads, depth=(depth, i)) for i in range(count)],
        "hidden": [Choice(hidden, depth=(depth, i)) for i in range(count)],
    }

    def spec(i: int) -> Any:
        rate = drop_path * i / max(count - 1, 1)
        return lambda h, f: EncoderSpec(width, h, head_dim, f, rate)

    blocks = {
        "embed": elastic(
            TokenEmbedding,
            lambda: TokenEmbeddingSpec(vocabulary, width, longest, types, norm=True),
            menu=menu,
            channels=lambda spec: (None,),
        )
    }
    for i in range(count):
        blocks[f"block{i + 1}"] = elastic(
            EncoderBlock,
            spec(i),
            menu=menu,
            decisions=[("heads", i), ("hidden", i)],
            depth=(depth, i),
            relaxed=("attention", "expand"),
        )
    blocks["pooler"] = elastic(Pooler, lambda: WidthSpec(width), menu=menu)
    blocks["head"] = elastic(PooledLogits, lambda: PooledLogitsSpec(width, task.classes), menu=menu)
    return Space(name, menu, blocks, chain(tuple(blocks)), task, uncounted=("head",))


@dataclasses.dataclass(frozen=True)
class BertSupernet:
    """A BERT that becomes a supernet while it is fine-tuned; by default a BERT-base."""

    name: ClassVar[str] = "bert_supernet"  # on the command line
    width: int = 768
    """channels of a token, those of the network it begins with"""
    depths: tuple[int, ...] = (6, 7, 8, 9, 10, 11, 12)
    """numbers of blocks on offer; the largest is that of the network it begins with"""
    heads: tuple[int, ...] = (6, 8, 10, 12)
    """heads on offer in each block; the largest are that network's, width / head-dim"""
    hidden: tuple[int, ...] = (1024, 2048, 3072)
    """channels between the linear layers on offer in each block; the largest are the network's"""
    head_dim: int = 64
    """channels of a head"""
    vocabulary: int = WORDS
    """rows of the table of tokens, at least as many as the data has ids"""
    longest: int = LONGEST
    """longest sequence, tokens; each has a learned position"""
    types: int = 2
    """types of segments, of which all tokens here are of the first"""
    drop_path: float = 0.0
    """rate of dropping branches of the last block, in the roles of sampler.regularised"""

    def build(self, *, task: Task | None = None) -> Space:
        """The space for sequences in classes; None for two classes of the longest ones."""
        lists = checks.ascending(depths=self.depths, heads=self.heads, hidden=self.hidden)
        checks.require_rates(0.0, self.drop_path)
        if task is None:
            task = SequenceClassification(self.vocabulary, self.longest, 2)
        if not isinstance(task, SequenceClassification):
            raise UserError(
                f"the space {self.name} tells sequences of tokens apart, but the task of the data "
                f"is {task.name}; give ids with labels, as --data.name ids:FILE.npz, or choose "
                "another space"
            )
        same = ("width", "head_dim", "vocabulary", "longest", "types", "drop_path")
        own = {name: getattr(self, name) for name in same}
        return bert_supernet(self.name, **lists, **own, task=task)
