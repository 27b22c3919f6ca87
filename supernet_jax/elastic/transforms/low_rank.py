"""Adapters: a product of low rank, which is learned, is added to weights that are frozen.

LoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1) adds `alpha / r * A B` to a matrix `[C, D]`,
with A `[C, r]` random and B `[r, D]` zero at first. Here the rank is a decision of the space, one
for each block, as those who search for ranks have several (LoNAS, Munoz et al. 2024, LREC-COLING;
Shears, arXiv:2404.10934): a smaller rank uses the leading columns of A and rows of B. Since B is
zero, at first every rank is the network without adapters.

Leaves of other ranks are seen as matrices. The last axis is the output and all others together are
the input: a kernel `[k, k, C, D]` is `[k * k * C, D]`. Of a fused leaf, as `[C, heads, D]`, the
first axis is the input and the others are the output.

Shape letters: `C` inputs of a leaf, `D` outputs, `R` the largest rank, `r` a rank.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, elastic_block, shared_params, slicing
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Choice, Lookup
from supernet_jax.elastic.elastic_block import Deployed, ElasticBlock, Spec, Transform, Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, near, require

NAME = "low_rank"  # of the transforms, and so a part of the paths of their parameters
RANK = "rank"  # of the decisions
Leaf = tuple[str, ...]  # path of a parameter in its block


@dataclasses.dataclass(frozen=True)
class RankedSpec:
    """The spec of a block, and the rank of its adapters, of which its module knows nothing."""

    spec: Spec
    rank: int


@dataclasses.dataclass(frozen=True)
class _OfSpec:
    """A function of a spec, for ranked ones. Equal if the functions are: blocks stay alike."""

    function: Callable[[Spec], Any]

    def __call__(self, ranked: RankedSpec) -> Any:
        return self.function(ranked.spec)


def _rank(ranked: RankedSpec) -> int:
    return ranked.rank


def adapter(
    leaf: Leaf,
    rank: Callable[[Spec], int],
    *,
    most: int,
    alpha: float,
    fused: bool = False,
    name: str = NAME,
) -> Transform:
    """The transform that adds `alpha / r * A[..., :r] B[:r]` to a leaf.

    Its parameters are `{"down": A, "up": B}`, of the axes of the leaf: `[*inputs, R]`, normal with
    variance 1 / C, and `[R, *outputs]`, zero. A product is made in float32 at highest precision.

    Args:
        leaf: which parameter, of any rank.
        rank: `spec -> r`, from 0 (nothing is added) to `most`.
        most: R.
        alpha: what is added is scaled by `alpha / r`.
        fused: whether the leaf has one axis of inputs, the first, instead of one of outputs.
        name: of the transform.
    """
    split = functools.partial(_split, fused=fused)

    def init(key: Array, shape: tuple[int, ...]) -> Tree:
        inputs, outputs = split(shape)
        down = jax.random.normal(key, (*inputs, most)) / math.sqrt(math.prod(inputs))
        return {"down": down, "up": jnp.zeros((most, *outputs))}

    def apply(params: Tree, weights: Array, rank: int) -> Array:
        if rank == 0:
            return weights
        inputs, outputs = split(weights.shape)
        spatial = slicing.spatial_axes(leaf, params["down"])
        down = slicing.cut_leaf(params["down"], (*inputs, rank), spatial)
        up = slicing.cut_leaf(params["up"], (rank, *outputs))
        # Weights are made once for all examples: exactness costs nothing.
        product = jnp.tensordot(down, up, 1, precision=jax.lax.Precision.HIGHEST)
        return weights + alpha / rank * product

    return Transform(leaf, rank, init, apply, name=name)


def _split(shape: tuple[int, ...], *, fused: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a leaf that are inputs, and those that are outputs."""
    axes = 1 if fused else len(shape) - 1
    return shape[:axes], shape[axes:]


def adapted(
    space: Space,
    *,
    leaves: tuple[str, ...] = (r".*/kernel",),
    ranks: tuple[int, ...] = (2, 4, 8),
    alpha: float = 8.0,
    fused: tuple[str, ...] = (),
    trained: tuple[str, ...] = (),
) -> Space:
    """A space with adapters of elastic rank, which alone are trained.

    Its menu has, beside the decisions of the space, `{"rank": {block: Choice(ranks)}}`: a rank for
    each block that has adapters; blocks that share their parameters share it, under the name of
    their group. Its blocks and networks have the sizes, and the costs, of the space: adapters are
    merged into their weights. They come before the other transforms of a leaf.

    Args:
        space: the space, whose weights are to be frozen.
        leaves: which parameters get adapters: regular expressions for whole paths, as
            "block/layer/leaf".
        ranks: on offer, from 0 (no adapter) to the smaller side of the smallest leaf.
        alpha: what is added is scaled by `alpha / r`.
        fused: which of the leaves have one axis of inputs, the first, and several of outputs.
        trained: which further parameters are trained, as norms or the classifier.

    Raises:
        UserError: an expression that matches nothing, a rank that is too large, ranks that are
            none, or a space that has a decision "rank" already.
    """
    ranks = tuple(sorted(set(ranks)))
    right = bool(ranks) and ranks[0] >= 0 and ranks[-1] > 0
    require(right, f"ranks is {ranks}; give numbers of at least 0, and one above it")
    require(alpha > 0, f"alpha is {alpha}, but must be above 0")
    if not isinstance(space.menu, Mapping) or RANK in space.menu:
        raise UserError(f"the space {space.name} has a decision {RANK!r} already, or none by name")
    shapes = _leaves(space)
    _check_match(space, "leaves", leaves, shapes)
    _check_match(space, "fused", fused, shapes)
    every = flax.traverse_util.flatten_dict(shared_params.parameter_shapes(space))
    _check_match(space, "trained", trained, every)
    wanted = {path: shape for path, shape in shapes.items() if _matches(leaves, path)}
    require(bool(wanted), "leaves is empty; give expressions for the parameters to adapt")
    added: dict[str, tuple[Transform, ...]] = {}
    known: dict[Any, Transform] = {}  # blocks that are alike have the same, and so share programs
    for (owner, *leaf), shape in wanted.items():
        is_fused = _matches(fused, (owner, *leaf))
        _check_rank((owner, *leaf), shape, ranks[-1], is_fused)
        made = adapter(tuple(leaf), _rank, most=ranks[-1], alpha=alpha, fused=is_fused)
        added[owner] = (*added.get(owner, ()), known.setdefault((*leaf, is_fused), made))
    blocks = {}
    for name, block in space.blocks.items():
        owner = elastic_space.group(space, name)
        blocks[name] = _adapted(block, owner, ranks, added[owner]) if owner in added else block
    return dataclasses.replace(
        space,
        name=f"adapted_{space.name}",
        menu={**space.menu, RANK: {owner: Choice(ranks) for owner in added}},
        blocks=blocks,
        trained=(rf"[^/]*/{elastic_block.TRANSFORMS}/.*:{NAME}/(down|up)", *trained),
    )


def adapter_parameters(space: Space) -> Callable[[Arch], Any]:
    """What the adapters of a subnet add to its parameters, if they are kept apart from the weights:
    `arch[...] -> [...]`, whole numbers. A rank r of a leaf of C inputs and D outputs adds
    `r * (C + D)`; blocks that share parameters count once, as the largest.
    """
    lookups = {
        name: Lookup(block.index.paths, _added(block, about.inputs)[block.index.table])
        for name, about in elastic_space.geometry(space, space.sizes[0]).items()
        if (block := space.blocks[name]).transforms
    }

    def cost(arch: Arch) -> Any:
        choices.require_arch(arch)
        counts: dict[str, Any] = {}
        for name, lookup in lookups.items():
            owner, alive = elastic_space.group(space, name), space.blocks[name].alive
            own = lookup(arch) * (1 if alive is None else alive(arch))
            larger = jnp.maximum if isinstance(own, jax.Array) else np.maximum
            counts[owner] = larger(counts[owner], own) if owner in counts else own
        return sum(counts.values())

    return cost


def _added(block: ElasticBlock, inputs: tuple[jax.ShapeDtypeStruct, ...]) -> np.ndarray:
    """Parameters of the adapters of each spec, `[S]`."""

    def count(spec: Spec, transform: Transform) -> int:
        part = slicing.find_leaf(elastic_block.shapes(block, spec, inputs).params, transform.leaf)
        if part is None:
            return 0
        made = jax.eval_shape(lambda: transform.init(jax.random.key(0), part.shape))
        rows: int = made["down"].shape[-1]
        return sum(math.prod(x.shape) for x in made.values()) // rows * transform.size(spec)

    adapters = [transform for transform in block.transforms if transform.name == NAME]
    return np.asarray([sum(count(spec, t) for t in adapters) for spec in block.specs], np.int32)


def _leaves(space: Space) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The shape of each parameter of a layer, by its path; without blocks that no arch has."""
    shapes = {}
    for name, about in elastic_space.geometry(space, space.sizes[0]).items():
        alive = space.blocks[name].alive
        if alive is not None and not alive.table.any():
            continue
        for path, leaf in flax.traverse_util.flatten_dict(about.shapes.params).items():
            shapes[elastic_space.group(space, name), *path] = leaf.shape
    return shapes


def _matches(patterns: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return any(re.fullmatch(pattern, "/".join(path)) for pattern in patterns)


def _check_match(space: Space, name: str, patterns: tuple[str, ...], paths: Iterable[Leaf]) -> None:
    """Raises a `UserError` unless each expression matches some path."""
    known = ["/".join(path) for path in paths]
    for pattern in patterns:
        try:
            found = any(re.fullmatch(pattern, path) for path in known)
        except re.error as error:
            said = f"{name} has {pattern!r}, which is no regular expression: {error}"
            raise UserError(said) from None
        require(
            found,
            f"{name} has {pattern!r}, which matches no parameter of the space {space.name}; its "
            f"parameters are called as {', '.join(known[:3])}{near(pattern, known)}",
        )


def _check_rank(path: tuple[str, ...], shape: tuple[int, ...], rank: int, fused: bool) -> None:
    side = min(map(math.prod, _split(shape, fused=fused)))
    require(
        rank <= side,
        f"ranks has {rank}, but {'/'.join(path)} {list(shape)} is a matrix whose smaller side is "
        f"{side}; give smaller ranks, or leave it out of leaves",
    )


def _adapted(
    block: ElasticBlock, owner: str, ranks: tuple[int, ...], added: tuple[Transform, ...]
) -> ElasticBlock:
    """The block with a rank for all of its adapters."""
    old = [t._replace(size=_OfSpec(t.size)) for t in block.transforms]
    return dataclasses.replace(
        block,
        module=_OfSpec(block.module),
        specs=tuple(RankedSpec(spec, rank) for spec in block.specs for rank in ranks),
        union=RankedSpec(block.union, ranks[-1]),
        index=Lookup(
            (*block.index.paths, (RANK, owner)),
            block.index.table[..., None] * len(ranks) + np.arange(len(ranks), dtype=np.int32),
        ),
        channels=_OfSpec(block.channels),
        gates=_OfSpec(block.gates),
        transforms=(*added, *old),
        deployed=block.deployed and _deployed(block.deployed),
    )


def _deployed(of: Deployed) -> Deployed:
    """That of the block, for ranked specs."""
    return Deployed(
        lambda ranked: RankedSpec(of.spec(ranked.spec), ranked.rank),
        lambda ranked, params: of.params(ranked.spec, params),
    )
