"""Cells whose convolutions also come as sparse ones, after DASS (Mousavi et al. 2022, arXiv
2207.06968).

A sparse convolution keeps the share of its weights whose scores are the largest, and the others are
zero. Its scores are learned, and the mask passes their gradients straight through, as the paper's
published code does (HERO-MDH/DASS, `Scripts/layers.py`). There it is a layer of its own; here it is
a weight transform of an ordinary convolution, so that a network that is taken out has ordinary
ones, with zeros in their kernels.

Shape letters: `k` size of a kernel, `C` channels in and `D` out, `n` weights of it.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from supernet_jax.elastic.choice_block import Options, choice_block
from supernet_jax.elastic.choices import Array, Choice
from supernet_jax.elastic.elastic_block import Spec, Transform, Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import require
from supernet_jax.nn.blocks.cells import ReluConv
from supernet_jax.spaces import nas_bench_201
from supernet_jax.spaces.nas_bench_201 import NasBench201

SPARSE = "sparse"  # before the name of an operation; and of the transforms


@dataclasses.dataclass(frozen=True)
class Sparse:
    """The computation of a `Transform`: zeros in place of all weights but a share.

    A weight's score is the absolute value of what is learned, 0 at first, plus the weight scaled as
    published for the beginning of pruning, `sqrt(6 / (k k C)) w / max |w|`; so at first the weights
    of the largest magnitude are kept. With m the mask, of 1 and 0, `w' = m w`, and gradients are
    `m dL/dw'` of the weights, and of the scores `w dL/dw'`, as if m were the score.

    Attributes:
        share: of the weights that are kept, above 0, at most 1; n times that, rounded up.
    """

    share: float

    def kept(self, weights: int) -> int:
        """How many of so many weights are kept."""
        return math.ceil(round(self.share * weights, 6))  # 0.07 * 100 is 7.000000000000001

    def init(self, key: Array, shape: tuple[int, ...]) -> Tree:
        """What is learned of the scores: nothing."""
        del key
        return {"scores": jnp.zeros(shape)}

    def __call__(self, params: Tree, weights: Array, size: None) -> Array:
        """`[k, k, C, D]`, of a layer whose sizes are fixed -> the same with zeros."""
        del size
        fixed = jax.lax.stop_gradient(weights)
        scale = math.sqrt(6 / math.prod(weights.shape[:-1]))
        # Of a layer that an arch lacks, all weights are 0.
        largest = jnp.maximum(jnp.max(jnp.abs(fixed)), jnp.finfo(weights.dtype).tiny)
        scores = jnp.abs(params["scores"] + scale * fixed / largest)
        places = jax.lax.top_k(scores.reshape(-1), self.kept(weights.size))[1]
        mask = jnp.zeros(weights.size, weights.dtype).at[places].set(1).reshape(weights.shape)
        return (mask + (scores - jax.lax.stop_gradient(scores))) * weights


def _fixed(spec: Spec) -> None:
    """The size of a layer that has one."""


@functools.cache
def sparse(leaf: tuple[str, ...], share: float) -> Transform:
    """The transform of a kernel of which a share is kept; alike for blocks that are."""
    made = Sparse(share)
    return Transform(leaf, _fixed, made.init, made, name=SPARSE)


def sparse_cells(space: Space, *, share: float) -> Space:
    """NAS-Bench-201's space, of which each convolution is on offer as a sparse one, too.

    The operation of an edge is its place among `OPERATIONS`; the first five are the space's own.

    Args:
        space: as `nas_bench_201.nas_bench_201` makes it.
        share: of a sparse convolution's weights that are kept, above 0, at most 1.
    """
    edges = space.menu["edge"]
    menu = {**space.menu, "edge": [Choice(tuple(range(len(OPERATIONS)))) for _ in edges]}
    leaves = [(name, "conv", "kernel") for name in OPERATIONS if name.startswith(SPARSE)]
    blocks = dict(space.blocks)
    for name, block in space.blocks.items():
        if block.index.paths and block.index.paths[0][0] == "edge":
            width: int = block.union.options[0].spec.c_in
            blocks[name] = choice_block(
                operations(width),
                menu=menu,
                decision=block.index.paths[0],
                channels=(width,),
                transforms=tuple(sparse(leaf, share) for leaf in leaves),
            )
    return dataclasses.replace(space, menu=menu, blocks=blocks)


def operations(channels: int) -> Options:
    """What stands on an edge: NAS-Bench-201's operations, then the sparse ones."""
    dense = nas_bench_201.operations(channels)
    twins = {f"{SPARSE}_{name}": own for name, own in dense.items() if own[0] is ReluConv}
    return {**dense, **twins}


OPERATIONS = tuple(operations(1))


@dataclasses.dataclass(frozen=True)
class SparseCells(NasBench201):
    """Cells of 6 edges with 5 operations and 2 sparse ones each: 117,649 archs (after DASS)."""

    name: ClassVar[str] = "sparse_cells"  # on the command line
    share: float = 0.1
    """of a sparse convolution's weights that are kept; less makes it sparser"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        require(
            0 < self.share <= 1, f"space.share is {self.share}, but must be above 0 and at most 1"
        )
        dense = super().build(classes=classes, input_channels=input_channels)
        return sparse_cells(dense, share=self.share)
