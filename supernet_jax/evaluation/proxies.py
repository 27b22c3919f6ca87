"""Scores of subnets before anything is trained, from one batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from supernet_jax.elastic import strategies
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space


def snip(
    space: Space, params: Tree, inputs: Array, targets: Array, *, size: int
) -> Callable[[Arch], Array]:
    """The score of one arch: the sum of `|weight x gradient|` over the weights that it uses.

    SNIP's saliency (arXiv 1810.02340, equation 4) summed over a network, as zero-cost proxies have
    it (arXiv 2101.08134, section 3.2). Gradients of weights that an arch does not use are exactly 0
    under the masked strategy, so one program scores all archs. Scales of normalisations are set to
    1: where they start at 0 no gradient would pass.

    Args:
        space: the space.
        params: as `shared_params.init` makes them.
        inputs: float `[B, H, W, C]`, prepared.
        targets: int32 `[B]`.
        size: pixels, for all archs.

    Returns:
        `arch -> score []`, higher is better; to be jitted.
    """
    params = jax.tree_util.tree_map_with_path(_passing, params)

    def score(arch: Arch) -> Array:
        def loss(params: Tree) -> Array:
            output = strategies.masked(space, params, arch, inputs, size=size)
            logits = output.logits
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
            return jnp.mean(losses)

        products = jax.tree.map(
            lambda w, g: jnp.sum(jnp.abs(w * g)), params, jax.grad(loss)(params)
        )
        return jnp.sum(jnp.stack(jax.tree.leaves(products)))

    return score


def _passing(path: Any, leaf: Array) -> Array:
    return jnp.ones_like(leaf) if path[-1].key == "scale" else leaf
