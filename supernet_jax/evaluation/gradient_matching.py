"""Which options of a decision should not share weights: those whose gradients disagree.

Shape letters: `O` options of a decision, `P` parameters.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic import strategies
from supernet_jax.elastic.choices import Arch, Array, Path
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.tasks.task import Size

MOST_COMPARED = 12  # options of a decision of which all halves are compared


class Cut(NamedTuple):
    """Options in two parts.

    Attributes:
        parts: places among those that were compared.
        distance: mean over pairs of options of different parts, 0 to 2: the larger, the more is won
            where they no longer share weights.
    """

    parts: tuple[tuple[int, ...], tuple[int, ...]]
    distance: float


def distances(space: Space, *, size: Size) -> Callable[..., Array]:
    """How much the options of a decision disagree about the weights that they share.

    One minus the cosine of the gradients of the loss by all shared weights but those of blocks that
    the decision determines, where subnets differ in it alone (Hu et al. 2022, arXiv 2203.15207,
    section 3.2; its matching score is the mean of this over batches, with a random subnet for
    each). A gradient that is 0 everywhere is orthogonal to all.

    Args:
        space: the space.
        size: of the inputs.

    Returns:
        `(params, inputs [B, ...], targets [B, ...], archs, shared) -> float32 [O, O]`, to be
        jitted: one program for all decisions of as many options. `archs [O]` are the same but for
        the decision; `shared` says of each group of parameters whether its gradients count.
    """

    def matrix(
        params: Tree, inputs: Tree, targets: Tree, archs: Arch, shared: dict[str, Array]
    ) -> Array:
        def gradient(arch: Arch) -> Array:
            def loss(params: Tree) -> Array:
                output = strategies.masked(space, params, arch, inputs, size=size)
                return jnp.mean(space.task.score(output.logits, targets)["loss"])

            found = jax.grad(loss)(params)
            leaves = [
                jnp.where(shared[owner], leaf.ravel(), 0.0)
                for owner, tree in found.items()
                for leaf in jax.tree.leaves(tree)
            ]
            return jnp.concatenate(leaves)

        rows = jax.lax.map(gradient, archs)
        norms = jnp.linalg.norm(rows, axis=-1, keepdims=True)
        rows = rows / jnp.where(norms > 0, norms, 1.0)
        return 1.0 - jnp.dot(rows, rows.T, precision=jax.lax.Precision.HIGHEST)

    return matrix


def decided(space: Space, decision: Path) -> set[str]:
    """The groups of parameters of blocks that a decision determines."""
    return {
        elastic_space.group(space, name)
        for name, block in space.blocks.items()
        for lookup in (block.index, block.alive)
        if lookup is not None and decision in lookup.paths
    }


def cut(distances: np.ndarray) -> Cut:
    """The two halves of some options of which each agrees with itself best.

    The balanced minimum cut of similarities (arXiv 2203.15207, section 3.2), found by comparing
    all; of more than `MOST_COMPARED` options, which are sizes in order, only two intervals.

    Args:
        distances: `[O, O]`, symmetric, 0 where options agree; at least two options.
    """
    count = len(distances)
    first = [tuple(range(count // 2)), tuple(range(-(-count // 2)))]
    if count <= MOST_COMPARED:
        first = list(itertools.combinations(range(count), count // 2))
    found = []
    for one in first:
        other = tuple(i for i in range(count) if i not in one)
        within = sum(
            distances[i, j] for part in (one, other) for i, j in itertools.combinations(part, 2)
        )
        found.append((within, Cut((one, other), float(distances[np.ix_(one, other)].mean()))))
    return min(found, key=lambda each: each[0])[1]
