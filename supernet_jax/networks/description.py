"""What `network.json` says of an extracted network, whatever its task is."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import notation, space_identity
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.networks import manifest, network_folder
from supernet_jax.networks.description_parts import FORMAT
from supernet_jax.networks.network import Network, Variables
from supernet_jax.tasks import TASKS


def describe_any(
    space: Space,
    arch: Arch,
    made: Network,
    variables: Variables,
    *,
    values: Mapping[str, float],
    calibration: tuple[int, int] = (0, 0),
    source: Mapping[str, Any],
    proof: float,
    proof_examples: int,
) -> dict[str, Any]:
    """What `network.json` says of a network for any task but the classification of images; see
    `manifest.GeneralDescription`.

    Args:
        space: the space, whose task is one of the library's.
        arch: concrete, no batch axes.
        made: the extracted module.
        variables: its variables.
        values: of the task's metric, by the name of the split.
        calibration: number of batches and examples in a batch; not said of a network without
            statistics.
        source: JSON values that tell where it comes from, as run, checkpoint and step.
        proof: as `prove` returned it.
        proof_examples: on how many.

    Raises:
        UserError: another task; blocks or a topology that no file of the user's defines at top
            level.
    """
    name = type(space.task).__name__
    if TASKS.get(name) is not type(space.task):
        raise no_folder(space)
    size = (made.size,) if isinstance(made.size, int) else made.size
    has_stats = bool(jax.tree.leaves(variables.get("stats", {})))
    on = dict(zip(("batches", "batch"), calibration, strict=True)) if has_stats else None
    topology = librarys_topology(made)
    value = {
        **common(space, arch, made, variables, source=source, proof=(proof, proof_examples)),
        "version": manifest.GENERAL_VERSION,
        "task": {"type": name, "fields": space_identity.described_task(space.task)},
        "size": list(size),
        "values": {split: float(measured) for split, measured in values.items()},
        "topology": topology,
        "calibration": on,
    }
    return {**value, "sha256": network_folder.digest(manifest.described(value), variables)}


def librarys_topology(made: Network) -> dict[str, Any] | None:
    """How a topology of the library's is described; None for a chain, or the user's."""
    if not network_folder.is_librarys(made.forward):
        return None
    fields: Any = made.forward
    return {"type": type(fields).__name__, "fields": dataclasses.asdict(fields)}


def common(
    space: Space,
    arch: Arch,
    made: Network,
    variables: Variables,
    *,
    source: Mapping[str, Any],
    proof: tuple[float, int],
) -> dict[str, Any]:
    """What all descriptions have, whatever the task is; `version` and `sha256` are left open."""
    leaves = jax.tree.leaves(variables["params"])
    return {
        "format": FORMAT,
        "space": space.name,
        "arch": notation.to_notation(space.menu, arch),
        "blocks": [network_folder.described_block(block) for block in made.blocks],
        "code": network_folder.described_code(made),
        "macs": int(costs.macs(space)(jax.tree.map(np.asarray, arch))),
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
        "source": dict(source),
        "proof": {"difference": proof[0], "images": proof[1]},
        "dtype": str(leaves[0].dtype),
        "sha256": "",
        "formats": {},
    }


def no_folder(space: Space) -> UserError:
    """That networks for a task have no folders."""
    return UserError(
        f"the space {space.name} is for {space.task.name}; folders of networks are for the "
        f"library's tasks, {', '.join(TASKS)}; use networks.extract.extract for the module and its "
        "variables"
    )
