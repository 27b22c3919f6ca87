"""An ordinary trained network as the start of a supernet: it becomes the largest subnet.

What the largest subnet has of the shared parameters are the network's weights. The rest, where the
union is larger, keeps its usual random start, as the kernel of a shortcut that only narrower
subnets have: the largest subnet does not read it, and zeros would give it nothing to learn from.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import channel_order, choices, shared_params, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks import extract
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.network import Network, Variables
from supernet_jax.runtime import hardware


def load(
    made: Network, variables: Variables, space: Space, *, key: Array, sort: bool = False
) -> tuple[Tree, Tree, Report]:
    """Shared parameters of a space whose largest subnet is the network.

    Args:
        made: a network with the blocks of the space's largest subnet.
        variables: its own, as `network_folder.load` gives them.
        space: the space.
        key: of the random start of what the network does not have.
        sort: whether channels inside blocks are put in the order of their importance (see
            `ordering`), so that smaller subnets keep those that matter. The network stays the same.

    Returns:
        Parameters as `shared_params.init` makes them, statistics of the largest subnet at the
        union's shapes, and what became of the network's weights.

    Raises:
        UserError: the network is not the largest subnet; a space with a parameter bank, or with
            weight transforms that change the weights of its largest subnet; different weights of
            blocks that share theirs in the space.
    """
    _check_largest(made, space)
    once = functools.partial(jax.jit, compiler_options=hardware.runs_once())
    begin = once(functools.partial(_shared, space, made))
    params, stats = jax.device_get(begin(key, variables))
    _check_kept(space, params, stats, variables)
    if sort:
        params, stats = jax.device_get(once(functools.partial(_sorted, space))(params, stats))
    return params, stats, Report(tuple(_flat(variables["params"])), ())


def _shared(space: Space, made: Network, key: Array, variables: Variables) -> tuple[Tree, Tree]:
    """Shared parameters, and the network's statistics at the union's shapes."""
    params, stats = dict(shared_params.init(space, key)), dict(shared_params.zero_stats(space))
    geometry = elastic_space.geometry(space, made.size)
    for name in (block.name for block in made.blocks):
        owner, union = elastic_space.group(space, name), geometry[name].shapes
        if name in variables["params"]:
            params[owner] = _overlaid(params[owner], variables["params"][name], union.params)
        if name in variables["stats"]:
            stats[name] = slicing.fill(variables["stats"][name], union.moments)
    return params, stats


def _check_largest(made: Network, space: Space) -> None:
    if space.bank is not None:
        raise UserError(
            f"the space {space.name} has a parameter bank of {space.bank.rows} rows; only spaces "
            "with one set of parameters can begin with a network"
        )
    wanted = extract.module(space, choices.largest(space.menu))
    there, here = _described(made), _described(wanted)
    for name in {**here, **there}:
        if there.get(name) != here.get(name):
            raise UserError(
                f"the network is not the largest subnet of the space {space.name}: its {name} is "
                f"{there.get(name, 'missing')}, that subnet's {here.get(name, 'missing')}; extract "
                "the network with --arch largest, or give the config of the space whose largest "
                "subnet it is"
            )


def _described(made: Network) -> dict[str, str]:
    """What a network is made of, in words: a user's types may have been loaded twice. Without
    rates as of dropout, which are of training.
    """
    found = {"resolution": str(made.size)}
    for block in made.blocks:
        fields = dataclasses.asdict(block.spec).items()
        sizes = ", ".join(f"{k}={v}" for k, v in fields if not isinstance(v, float))
        found[f"block {block.name}"] = f"{block.module.__name__}({sizes})"
    return found


def _overlaid(start: Tree, given: Tree, union: Tree) -> Tree:
    """Shared parameters of a block: given ones where they are, those of the start elsewhere.

    Args:
        start: all that the block shares.
        given: of one spec.
        union: tree of the shapes of the union's own parameters.
    """
    inside = slicing.fill(jax.tree.map(jnp.ones_like, given), union)
    own = {layer: start[layer] for layer in union}
    merged = jax.tree.map(
        lambda mask, new, old: jnp.where(mask > 0, new, old),
        inside,
        slicing.fill(given, union),
        own,
    )
    return {**start, **merged}


def _check_kept(space: Space, params: Tree, stats: Tree, variables: Variables) -> None:
    """The largest subnet of these parameters must be the network to the bit."""
    _, back = extract.extract(space, params, choices.largest(space.menu), stats)
    there, here = _flat(variables), _flat(back)
    for name in there:
        if name not in here or there[name].tobytes() != here[name].tobytes():
            raise UserError(
                f"the shared parameters of the space {space.name} cannot hold the network: {name} "
                "would change; weight transforms of the space may do that, or blocks that share "
                "one set of parameters but have different ones in the network"
            )


def _sorted(space: Space, params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """Parameters in the order of importance, and statistics like the scales beside them."""
    orders = channel_order.by_importance(space, params)
    flat = dict(flax.traverse_util.flatten_dict(stats, keep_empty_nodes=True))
    for path, leaf in flat.items():
        scale = (elastic_space.group(space, path[0]), *path[1:-1], "scale")
        for axis, order in orders.get(scale, ()):
            flat[path] = jnp.take(leaf, order, axis=axis)
    return channel_order.reordered(params, orders), flax.traverse_util.unflatten_dict(flat)


def _flat(tree: Any) -> dict[str, np.ndarray]:
    return flax.traverse_util.flatten_dict(tree, sep="/")
