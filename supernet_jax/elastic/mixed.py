"""The strategy of codes that mix outputs: each block is the code-weighted sum of its specs.

`strategies.masked` mixes weights instead, at the cost of one block. Where the specs of a block are
different operations, only their outputs can be mixed: DARTS (arXiv 1806.09055, equation 2), FBNet
(arXiv 1812.03443, equation 4), ProxylessNAS (arXiv 1812.00332, section 3.1).

Shape letters: `B` examples, `O` what a block may be: each of its specs, and nothing where it can be
skipped; `P` paths.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from supernet_jax.elastic import choices, elastic_block, slicing, strategies
from supernet_jax.elastic.block_call import Call
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import How, Output
from supernet_jax.errors import UserError
from supernet_jax.nn import resize

_Moments = tuple[Tree, Tree]  # statistics at the union's shapes, and ones where a spec has them


def mixed(
    space: Space,
    params: Tree,
    arch: Arch | Code,
    inputs: Tree,
    *,
    paths: Arch | None = None,
    **how: Any,
) -> Output:
    """Runs a code, mixing what the specs of each block put out; see `strategies.Strategy`.

    Decisions of a code are independent: a spec's weight is the product of those of the options that
    make it. A statistic is the weighted mean over the specs that have it: that of its option in a
    choice block. An arch runs as its one-hot code.

    Args:
        space: the space.
        params: shared parameters, as `init` makes them.
        arch: a code, or an arch; no batch axes.
        inputs: what the space's task takes, `[B, ...]`.
        paths: archs `[P]`, traced or not: in each block only what one of these picks is run and
            summed, with its weight in the code. A gradient keeps the residuals of P paths rather
            than those of all (ProxylessNAS trains two). None runs every spec.
        **how: as in `Strategy`, without taps.

    Raises:
        UserError: taps are wanted, which specs of a block may have in different shapes.
    """
    inside = [feature for feature in how.get("features", ()) if "/" in feature]
    if inside:
        raise UserError(
            f"{inside[0]} is a value inside a block, of which a mixture has one for each spec; "
            "name the block alone, or use the strategy masked"
        )
    code = arch if choices.is_code(arch) else choices.one_hot(space.menu, arch)

    def run(call: Call, *inputs: Array) -> tuple[Array, Tree]:
        branches = [_branch(call, spec) for spec in call.block.specs]
        weights = call.block.index.probabilities(code, len(branches))
        if call.keep is not None:
            branches = [_skip, *branches]
            weights = jnp.concatenate([1 - call.keep[None], call.keep * weights])
        if paths is None or len(branches) == 1:
            outputs = [branch(call, *inputs) for branch in branches]
        else:
            kept = [jax.checkpoint(branch) for branch in branches]
            places, weights = _of_paths(call.block, paths, weights)
            outputs = [lax.switch(place, kept, call, *inputs) for place in places]
        y = _sum(weights, [made[0] for made in outputs])
        return y, _mean(weights, [made[1] for made in outputs])

    return strategies.walked(space, run, params, code, inputs, How(**how))


def _branch(call: Call, spec: Spec) -> Callable[..., tuple[Array, _Moments]]:
    shapes = elastic_block.shapes(call.block, spec, call.inputs).moments
    there = slicing.fill(jax.tree.map(lambda s: jnp.ones(s.shape), shapes), call.no_moments())

    def compute(call: Call, *inputs: Array) -> tuple[Array, _Moments]:
        y, moments = call.at(spec, *inputs)
        return resize.pad_channels(y, call.out_channels), (moments, there)

    return compute


def _skip(call: Call, *inputs: Array) -> tuple[Array, _Moments]:
    y, moments = call.skip(*inputs)
    return y, (moments, moments)  # zeros


def _of_paths(block: ElasticBlock, paths: Arch, weights: Array) -> tuple[Array, Array]:
    """What each path picks of a block, int32 `[P]`, and its weight `[P]`, of `weights [O]`; what
    several paths pick has its weight once.
    """
    places = jnp.asarray(block.index(paths))
    if block.alive is not None:
        places = jnp.where(block.alive(paths) > 0, places + 1, 0)
    again = jnp.tril(places[:, None] == places[None, :], -1).any(1)
    return places, jnp.where(again, 0.0, weights[places])


def _mean(weights: Array, parts: list[_Moments]) -> Tree:
    """Of each statistic the weighted mean over the specs that have it, 0 where none has."""
    total, there = (_sum(weights, [part[i] for part in parts]) for i in range(2))
    return jax.tree.map(lambda m, n: jnp.where(n > 0, m / jnp.where(n > 0, n, 1), 0), total, there)


def _sum(weights: Array, trees: list[Any]) -> Any:
    """`sum_i weights[i] * trees[i]`, in the dtype of each leaf."""

    def one(*leaves: Array) -> Array:
        parts = [w.astype(x.dtype) * x for w, x in zip(weights, leaves, strict=True)]
        return sum(parts[1:], start=parts[0])

    return jax.tree.map(one, *trees)
