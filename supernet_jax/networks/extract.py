"""One subnet as an ordinary network, in memory: cut out, proven to be the same, described.

For runs and their folders see `experiment.extract`, which is `sj.extract`.

    module, variables = extract(space, params, arch, stats)
    proof = prove(space, params, arch, stats, module, variables, inputs)
    network_folder.save(folder, module, variables, description=describe(...))

Of a checkpoint that is large, only what the subnet needs is read. It takes the place of the shared
parameters wherever the subnet runs by `sliced`: in calibration, extraction and proof. Blocks that
it skips have no parameters then.

    part = read_part(folder, space, arch)
    module, variables = extract(part.space, part.params, arch, stats)

Shape letters: `B` examples, `C` channels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import banks, elastic_block, shared_params, slicing, strategies
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks import network
from supernet_jax.networks.classifier_description import describe as describe
from supernet_jax.networks.description import describe_any as describe_any
from supernet_jax.networks.network import LIMIT, Block, Network, Variables
from supernet_jax.nn import block_shapes
from supernet_jax.runtime import hardware, owned
from supernet_jax.storage import checkpoint
from supernet_jax.storage.chunked_arrays import Box


def module(space: Space, arch: Arch) -> Network:
    """The subnet as a plain Flax module, without variables.

    Args:
        space: the space.
        arch: concrete, no batch axes.

    Raises:
        UserError: a block's module cannot be made from its spec alone.
    """
    size = space.size_of(arch)
    blocks = []
    for name in elastic_space.geometry(space, size):  # in the order in which they run
        block = space.blocks[name]
        spec = block.spec(arch)
        if spec is None:
            continue
        ordinary = block.ordinary(spec)
        kind, own = block_shapes.plain(ordinary.module, ordinary.spec)
        if not isinstance(kind, type):
            kind = type(block.module(spec))
            raise UserError(
                f"block {name!r} makes a module that is not {kind.__name__}(spec), so its spec "
                "does not tell all of it; give the block a class whose only field is the spec"
            )
        blocks.append(Block(name, kind, own))
    forward = None if elastic_space.is_chain(space) else space.forward
    return Network(tuple(blocks), size, space.task, forward)


def extract(
    space: Space, params: Tree, arch: Arch, stats: Tree | None
) -> tuple[Network, Variables]:
    """The subnet as a module and variables `{"params", "stats"}` (NumPy), cut from the shared ones.

    Weight transforms are applied and their results stored, and blocks that have a cheaper form
    (`ElasticBlock.deployed`) take it. Blocks that share parameters in the
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
    geometry = elastic_space.geometry(space, made.size)
    if stats is None and any(jax.tree.leaves(geometry[b.name].shapes.moments) for b in made.blocks):
        raise UserError("the subnet needs calibrated statistics; make them with evaluate.calibrate")

    # One program, not one for each slice.
    @functools.partial(jax.jit, compiler_options=hardware.runs_once())
    def cut(params: Tree, stats: Tree | None) -> Variables:
        row = banks.used_by(space, params, arch)
        variables: Variables = {"params": {}, "stats": {}}
        for name in (b.name for b in made.blocks):
            block, shared = geometry[name].block, row.get(elastic_space.group(space, name))
            spec = block.spec(arch)
            own = elastic_block.shapes(block, spec, geometry[name].inputs)
            inside = block.ordinary(spec).inside
            if own.params:
                weights = slicing.weights(block, shared, spec, own.params)
                if block.deployed is not None:
                    weights = block.deployed.params(spec, weights)
                variables["params"][name] = inside(weights)
            if own.moments and stats is not None:
                variables["stats"][name] = inside(slicing.cut(stats[name], own.moments))
        return variables

    return made, jax.device_get(cut(params, stats))


def prove(
    space: Space,
    params: Tree,
    arch: Arch,
    stats: Tree | None,
    made: Network,
    variables: Variables,
    inputs: Tree,
) -> float:
    """Compares logits of the extracted network with those of the subnet inside the supernet.

    The subnet runs there by `sliced`, in float32 at highest matmul precision, with the calibrated
    statistics. That other strategies give the same is a theorem (`tests/elastic/test_theorem.py`).

    Args:
        space: the space.
        params: shared parameters.
        arch: concrete, no batch axes.
        stats: as given to `extract`.
        made: the extracted module.
        variables: its variables.
        inputs: what the task takes, `[B, ...]`, real ones.

    Returns:
        Largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: it is above `LIMIT`, or not a number: the networks are not the same.
    """

    @functools.partial(jax.jit, compiler_options=hardware.runs_once())
    def logits(params: Tree, stats: Tree | None, inputs: Tree) -> Array:
        output = strategies.sliced(space, params, arch, inputs, size=made.size, stats=stats)
        return output.logits

    with jax.default_matmul_precision("highest"):
        theirs = np.asarray(logits(params, stats, inputs))
    return compare(made, variables, inputs, theirs)


def compare(made: Network, variables: Variables, inputs: Tree, logits: np.ndarray) -> float:
    """The second half of `prove`, for logits that are there already.

    Args:
        made: the extracted module.
        variables: its variables.
        inputs: what the task takes, `[B, ...]`.
        logits: of the subnet inside the supernet, `[B, ..., K]`.

    Returns, and raises: as `prove`.
    """
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(network.compiled_quickly(made)(variables, inputs))
    worst = network.difference(ours, logits)
    if not worst <= LIMIT:
        raise UserError(
            f"the extracted network is not the subnet: logits of {len(logits)} examples differ by "
            f"{worst:.1e} of the largest, allowed is {LIMIT:.0e}; are these the statistics of this "
            "arch, and do the masks of its blocks leave nothing of larger ones?"
        )
    return worst


# ---- what a subnet needs of a checkpoint


class Part(NamedTuple):
    """What a subnet runs on.

    Attributes:
        space: the space; without its parameter bank, of which the subnet has one row.
        params: NumPy, the tree of the shared parameters, cut to what the subnet needs; None where
            it needs nothing.
    """

    space: Space
    params: Tree


def read_part(
    folder: checkpoint.Folder,
    space: Space,
    arch: Arch,
    *,
    step: int | None = None,
    subtree: str = "params",
) -> Part:
    """Reads what a subnet needs of a checkpoint.

    Args:
        folder: of the checkpoints.
        space: the space that they belong to.
        arch: concrete, no batch axes.
        step: which checkpoint; None takes the last.
        subtree: "params", or "ema" for their moving average.

    Raises:
        UserError: no such checkpoint, a damaged one, or one that is not of the space.
    """
    found = checkpoint.read_slices(folder, boxes(space, arch), step=step, subtree=subtree)
    if space.bank is None:
        return Part(space, found)
    found = {
        owner: jax.tree.map(lambda leaf: leaf[0], own) if space.bank.has(owner) else own
        for owner, own in found.items()
    }
    return Part(_without_bank(space), found)


def boxes(space: Space, arch: Arch) -> Tree:
    """Which part of each shared parameter a subnet needs.

    Blocks that share parameters need the union of their parts.

    Args:
        space: the space.
        arch: concrete, no batch axes.

    Returns:
        The tree of the shared parameters, of `Box`, None where nothing is needed.
    """
    size = space.size_of(arch)
    row = None if space.bank is None else space.bank.row.static(arch)
    shared = shared_params.parameter_shapes(_without_bank(space))
    rows = {owner: row if elastic_space.has_rows(space, owner) else None for owner in shared}
    wanted: dict[str, dict[tuple[str, ...], Box]] = {name: {} for name in shared}
    transforms: dict[str, set[str]] = {name: set() for name in wanted}
    for name, shape in elastic_space.geometry(space, size).items():
        block, group = shape.block, elastic_space.group(space, name)
        spec = block.spec(arch)
        if spec is None:
            continue
        own = elastic_block.shapes(block, spec, shape.inputs).params
        for path, edges in slicing.needed(block, own, shared[group]).items():
            box = Box(*map(tuple, zip(*edges, strict=True)))
            wanted[group][path] = wanted[group].get(path, box).union(box)
        transforms[group] |= {transform.key for transform in block.transforms}
    return {
        group: _tree(shapes, wanted[group], transforms[group], rows[group])
        for group, shapes in shared.items()
    }


@owned.by(owned.first)
def _without_bank(space: Space) -> Space:
    return space if space.bank is None else dataclasses.replace(space, bank=None)


def _tree(
    shapes: Tree, wanted: Mapping[tuple[str, ...], Box], transforms: set[str], row: int | None
) -> Tree:
    """The boxes of one group as a tree like its parameters."""

    def banked(box: Box) -> Box:
        return box if row is None else Box((row, *box.start), (row + 1, *box.stop))

    def whole(leaf: Any) -> Box:
        return banked(Box((0,) * leaf.ndim, leaf.shape))

    def walk(node: Tree, path: tuple[str, ...]) -> Tree:
        if isinstance(node, Mapping):
            return {key: walk(value, (*path, key)) for key, value in node.items()}
        return banked(wanted[path]) if path in wanted else None

    own = {
        key: walk(node, (key,)) for key, node in shapes.items() if key != elastic_block.TRANSFORMS
    }
    if elastic_block.TRANSFORMS in shapes:
        own[elastic_block.TRANSFORMS] = {
            name: jax.tree.map(whole if name in transforms else lambda leaf: None, tree)
            for name, tree in shapes[elastic_block.TRANSFORMS].items()
        }
    return own
