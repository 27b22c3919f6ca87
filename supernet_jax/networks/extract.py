"""Taking one subnet away: an ordinary network, proven to be the same, in a folder of its own.

    module, variables = extract(space, params, arch, stats)
    proof = prove(space, params, arch, stats, module, variables, images)
    save(folder, module, variables, description=describe(...))

Shape letters: `B` images, `C` channels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block, shared_params, slicing, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.errors import UserError
from supernet_jax.networks import proof
from supernet_jax.networks.network import Block, Network, Variables
from supernet_jax.runtime import hardware


def module(space: Space, arch: Arch) -> Network:
    """The subnet as a plain Flax module, without variables.

    Args:
        space: the space.
        arch: concrete, no batch axes.

    Raises:
        UserError: a block's module cannot be made from its spec alone.
    """
    resolution = space.resolutions[int(choices.get(arch, space.resolution))]
    blocks = []
    for name in elastic_space.geometry(space, resolution):  # in the order in which they run
        block = space.blocks[name]
        spec = block.spec(arch)
        if spec is None:
            continue
        made = block.module(spec)
        kind = type(made)
        if not _is_rebuilt(made, kind, spec):
            raise UserError(
                f"block {name!r} makes a module that is not {kind.__name__}(spec), so its spec "
                "does not tell all of it; give the block a class whose only field is the spec"
            )
        blocks.append(Block(name, kind, spec))
    return Network(tuple(blocks), resolution, None if _is_chain(space) else space.forward)


def extract(
    space: Space, params: Tree, arch: Arch, stats: Tree | None
) -> tuple[Network, Variables]:
    """The subnet as a module and variables `{"params", "stats"}` (NumPy), cut from the shared ones.

    Weight transforms are applied and their results stored. Blocks that share parameters in the
    space each get their own.

    Args:
        space: the space.
        params: shared parameters.
        arch: concrete, no batch axes.
        stats: its calibrated statistics, at the union's shapes; None for spaces without norms.

    Raises:
        UserError: the space has norms, but there are no statistics.
    """
    made = module(space, arch)
    geometry = elastic_space.geometry(space, made.resolution)
    if stats is None and any(jax.tree.leaves(geometry[b.name].shapes.moments) for b in made.blocks):
        raise UserError("the subnet needs calibrated statistics; make them with evaluate.calibrate")

    # One program, not one for each slice.
    @functools.partial(jax.jit, compiler_options=hardware.runs_once())
    def cut(params: Tree, stats: Tree | None) -> Variables:
        row = shared_params.bank_row(space, params, arch)
        variables: Variables = {"params": {}, "stats": {}}
        for name, spec in ((b.name, b.spec) for b in made.blocks):
            block, shared = space.blocks[name], row.get(elastic_space.group(space, name))
            own = elastic_block.shapes(block, spec, geometry[name].inputs)
            if own.params:
                variables["params"][name] = slicing.weights(block, shared, spec, own.params)
            if own.moments and stats is not None:
                variables["stats"][name] = slicing.cut(stats[name], own.moments)
        return variables

    return made, jax.device_get(cut(params, stats))


def prove(
    space: Space,
    params: Tree,
    arch: Arch,
    stats: Tree | None,
    made: Network,
    variables: Variables,
    images: Array | np.ndarray,
    *,
    strategies: Sequence[Strategy] = (strategies.sliced,),
) -> float:
    """Compares logits of the extracted network with those of the subnet inside the supernet.

    In float32 at highest matmul precision, with the calibrated statistics.

    Args:
        space: the space.
        params: shared parameters.
        arch: concrete, no batch axes.
        stats: as given to `extract`.
        made: the extracted module.
        variables: its variables.
        images: float, normalised `[B, H, W, C]`, real ones.
        strategies: in which ways the supernet runs; `switched` and `masked` compile longer.

    Returns:
        Largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: it is above `LIMIT`, or not a number: the networks are not the same.
    """
    with jax.default_matmul_precision("highest"):
        others = [_logits(s, space, params, arch, stats, images) for s in strategies]
    return proof.compare(made, variables, images, np.stack(others))


def _is_rebuilt(made: Any, kind: Callable[..., Any], spec: Any) -> bool:
    try:
        return kind(spec) == made
    except TypeError:
        return False


class _Straight:
    """What flows through a topology that is looked at: nothing can be done with it but passing."""


def _is_chain(space: Space) -> bool:
    """Whether each block's only input is the output of the one before, and no block runs twice."""
    last, seen, straight = _Straight(), set[str](), True

    def run(name: str, *inputs: Any) -> _Straight:
        nonlocal last, straight
        straight &= len(inputs) == 1 and inputs[0] is last and name not in seen
        seen.add(name)
        last = _Straight()
        return last

    try:
        output: Any = space.forward(run, last)  # type: ignore[arg-type]
    except (TypeError, AttributeError):  # it computes something itself
        return False
    return straight and output is last


def _logits(
    strategy: Strategy, space: Space, params: Tree, arch: Arch, stats: Any, images: Any
) -> np.ndarray:
    how = functools.partial(
        strategy, resolution=space.resolutions[int(choices.get(arch, space.resolution))]
    )
    once = functools.partial(jax.jit, compiler_options=hardware.runs_once())
    if strategy is strategies.sliced:
        run = once(lambda p, s, x: how(space, p, arch, x, stats=s).logits)
        return np.asarray(run(params, stats, images))
    run = once(lambda p, s, x, a: how(space, p, a, x, stats=s).logits)
    return np.asarray(run(params, stats, images, jax.tree.map(jnp.asarray, arch)))
