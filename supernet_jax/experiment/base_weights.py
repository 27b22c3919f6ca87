"""The frozen weights that adapters are trained on: of a run, or of an extracted network."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax
import jax

from supernet_jax.elastic import shared_params, space_identity
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.experiment.build import Experiment
from supernet_jax.networks import network_folder
from supernet_jax.networks.importers import plain_network
from supernet_jax.runtime import path_rules, sharding
from supernet_jax.spaces import Adapted
from supernet_jax.storage import checkpoint, files, local_copy
from supernet_jax.storage.paths import expanded


def load(part: Adapted, built: Experiment) -> Tree:
    """The parameters that adapters are added to, as a part of those of the adapted space.

    Args:
        part: which names them.
        built: the experiment whose space it is.

    Returns:
        All parameters of the space without adapters, but those that are trained and have another
        shape there, as a classifier of other classes.

    Raises:
        UserError: there is no such run or network, or it is of another space.
    """
    if not part.base:
        raise UserError(
            "space.base is empty; give the folder of a run of the space that is adapted, or of a "
            "network that was extracted from one"
        )
    folder = expanded(part.base)
    is_network = files.exists(folder / "network.json")
    try:
        found = (
            _of_network(part, built)
            if is_network
            else of_run(folder, lambda meta: _check(part, meta, built.space), built)
        )
    except UserError as error:
        raise UserError(f"space.base: {error}") from error
    return _fitting(part, found, built)


def of_run(folder: Any, check: Callable[[dict[str, Any]], None], built: Experiment) -> Tree:
    """The parameters of a run (their average, where it kept one), on an experiment's mesh.

    Args:
        folder: of the run.
        check: looks at what its checkpoint says of itself, and raises a `UserError`.
        built: the experiment.
    """
    kept = folder / "checkpoints"
    meta = checkpoint.read_meta(kept)
    check(meta)
    averaged = meta.get("config", {}).get("train", {}).get("ema")
    return checkpoint.restore_params(
        kept,
        subtree="ema" if averaged else "params",
        sharding=functools.partial(sharding.place, built.mesh, rules=built.rules),
    )


def _check(part: Adapted, meta: dict[str, Any], space: Space) -> None:
    """The run is of the space that is adapted, whatever its task has of classes and the like."""
    task, described = space.task, meta.get("space")
    if isinstance(described, dict):
        own = space_identity.described_task(task)
        kept = {name: described[name] for name in own if name in described}
        task = dataclasses.replace(task, **kept)  # type: ignore[type-var]
    space_identity.check_space(meta, part.whole(task))


def _of_network(part: Adapted, built: Experiment) -> Tree:
    """Shared parameters in which the largest subnet is the network."""
    folder = local_copy.local(expanded(part.base))
    file = None if part.base_file is None else expanded(part.base_file)
    made, variables = network_folder.load(folder, space_file=file)
    space = part.inner(made.task)
    key = jax.random.key(built.config.train.seed)
    try:
        return plain_network.load(made, variables, space, key=key)[0]
    except UserError as error:
        if part.arch is not None:
            raise
        raise UserError(
            f"{error}, or give the `arch` that {folder / 'network.json'} says as space.arch"
        ) from error


def _fitting(part: Adapted, found: Tree, built: Experiment) -> Tree:
    """Without parameters that are trained and have another shape."""
    flat = flax.traverse_util.flatten_dict(found)
    wanted = flax.traverse_util.flatten_dict(shared_params.parameter_shapes(built.space))
    free = flax.traverse_util.flatten_dict(path_rules.chosen(found, part.trained))
    kept = {}
    for path, leaf in flat.items():
        if leaf.shape == wanted[path].shape:
            kept[path] = leaf
        elif path not in free:
            name = "/".join(path)
            raise UserError(
                f"{name} is {list(leaf.shape)} in space.base {part.base}, but "
                f"{list(wanted[path].shape)} for this data; where it is to start anew, name it in "
                f"space.trained, as {path[0]}/{path[1]}/.*"
            )
    return flax.traverse_util.unflatten_dict(kept)
