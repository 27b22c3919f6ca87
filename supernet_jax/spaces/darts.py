"""DARTS' space (Liu et al. 2019, arXiv 1806.09055, section 3.1): a normal and a reduction cell.

Two menus over the same parameters: of the search, where each of 14 edges has an operation or none,
and of what it derives, where each of 4 nodes has two inputs. Weights go from one to the other as
they are; `genotype` says which arch of the second a code of the first stands for.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from supernet_jax.elastic.choice_block import Options, picked_block
from supernet_jax.elastic.choices import Arch, Choice, Code, Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.nn.blocks import darts as blocks
from supernet_jax.nn.blocks.cells import CellStem, CellStemSpec, PlainSpec, Skip
from supernet_jax.nn.blocks.darts import (
    DartsCells,
    DilatedConv,
    FactorisedReduction,
    KernelSpec,
    MaxPool3,
    MeanHead,
    MeanHeadSpec,
    MeanPool3,
    PoolSpec,
    PreparationSpec,
    ReluPointwise,
    SeparableConv,
    StridedSpec,
    StridedZero,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification, Task

NODES, STEM = 4, 3  # nodes of a cell; the stem has so many times the channels of the first cell
OPERATIONS = (  # in the order of the published code
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
NONE = OPERATIONS.index("none")
NORMAL, REDUCTION = "normal", "reduction"


def darts(
    name: str,
    *,
    genotypes: bool,
    resolution: int,
    channels: int,
    cells: int,
    task: Task,
    outputs: int,
    input_channels: int,
    nodes: int = NODES,
    derived: bool = False,
) -> Space:
    """The space of cells, by one of its two menus.

    Of edges it is `{"resolution", "normal": [14 edges], "reduction": [14 edges]}`: the place of an
    edge's operation among `OPERATIONS`, edges in the order 0-2, 1-2, 0-3, 1-3, 2-3, ..., 4-5, where
    0 and 1 are the inputs of a cell. Of genotypes it has for either kind of cells `{"inputs":
    [4 nodes], "operation": [8]}`: the place of a node's two inputs among `nn.blocks.darts.pairs`,
    and the place of their two operations among `OPERATIONS`, which are never none. A kind of cells
    that the network lacks, as of two cells both halve the image, is not in the menu.

    Args:
        name: of the space.
        genotypes: which menu.
        resolution: of the images, pixels; a multiple of 4.
        channels: of the first cell, even; cells have twice as many from each reduction cell on.
        cells: number; reduction cells lie at one third and two thirds.
        task: what the space is for.
        outputs: numbers that a network puts out, as classes.
        input_channels: of the images.
        nodes: of a cell, its inputs left aside.
        derived: norms have a scale and a bias, and none follow pooling, as in networks that the
            paper trains after its search.
    """
    kinds = [REDUCTION if blocks.halves(cells, cell) else NORMAL for cell in range(cells)]
    menu: Menu = {"resolution": Choice((resolution,))}
    for kind in sorted(set(kinds)):
        menu[kind] = _genotypes(nodes) if genotypes else _edges(nodes)

    stem = CellStemSpec(input_channels, STEM * channels)
    made = {"stem": elastic(CellStem, lambda: stem, menu=menu)}
    before, last, width = stem.c_out, stem.c_out, channels
    halved = False  # by the cell before, so that the one before that has larger images
    for cell, kind in enumerate(kinds):
        width *= 2 if kind == REDUCTION else 1
        for i, (c_in, larger) in enumerate(((before, halved), (last, False))):
            prepare = FactorisedReduction if larger else ReluPointwise
            spec = PreparationSpec(c_in, width, derived)
            made[blocks.input_name(cell, i)] = elastic(prepare, lambda spec=spec: spec, menu=menu)
        for place, (start, node) in enumerate(blocks.edges(nodes)):
            stride = 2 if kind == REDUCTION and start < blocks.INPUTS else 1
            edge = _options(width, stride, derived)
            made[blocks.edge_name(cell, start, node)] = (
                _of_genotype(edge, menu, kind, start, node, width)
                if genotypes
                else picked_block(
                    edge,
                    OPERATIONS.__getitem__,
                    menu=menu,
                    decisions=((kind, place),),
                    channels=(width,),
                )
            )
        before, last, halved = last, nodes * width, kind == REDUCTION
    head = MeanHeadSpec(last, outputs)
    made["head"] = elastic(MeanHead, lambda: head, menu=menu)
    return Space(name, menu, made, DartsCells(cells, nodes), task, static=(("resolution",),))


def genotype(code: Code) -> Arch:
    """The genotype that a code of edges stands for (section 2.4).

    Of each node the two edges are kept whose strongest operation other than none has the largest
    weight, and of each of them that operation. Where weights are equal, the first is taken, as the
    published code does.

    Args:
        code: of the menu of edges, no batch axes; weights are probabilities, or anything that grows
            with them. The one-hot code of an arch does, where its nodes have two edges each.

    Returns:
        An arch of the menu of genotypes.

    Raises:
        UserError: it is no code of that menu.
    """
    found: dict[str, Any] = {"resolution": np.int32(np.argmax(code["resolution"]))}
    for kind in (NORMAL, REDUCTION):
        if kind in code:
            found[kind] = _strongest(kind, code[kind])
    return found


def node_edges(space: Space) -> list[tuple[Path, ...]]:
    """The edges that lead to each node, as decisions of the menu of edges."""
    return [
        tuple((kind, place) for place, (_, end) in enumerate(blocks.edges(nodes)) if end == node)
        for kind in (NORMAL, REDUCTION)
        if kind in space.menu
        for nodes in [_nodes(len(space.menu[kind]))]
        for node in range(blocks.INPUTS, blocks.INPUTS + nodes)
    ]


def _edges(nodes: int) -> Menu:
    return [Choice(tuple(range(len(OPERATIONS)))) for _ in blocks.edges(nodes)]


def _genotypes(nodes: int) -> Menu:
    pairs = [blocks.pairs(node) for node in range(blocks.INPUTS, blocks.INPUTS + nodes)]
    operations = tuple(i for i in range(len(OPERATIONS)) if i != NONE)
    return {
        "inputs": [Choice(tuple(range(len(of_node)))) for of_node in pairs],
        "operation": [Choice(operations) for _ in range(2 * nodes)],
    }


def _options(c: int, stride: int, derived: bool) -> Options:
    """The operations of an edge, by name."""
    skip: Any = (Skip, PlainSpec(c))
    if stride == 2:
        skip = (FactorisedReduction, PreparationSpec(c, c, derived))
    pool = PoolSpec(c, stride, normed=not derived)
    kernels = [KernelSpec(c, kernel, stride, derived) for kernel in (3, 5)]
    made = (
        (StridedZero, StridedSpec(c, stride)),
        (MaxPool3, pool),
        (MeanPool3, pool),
        skip,
        *((SeparableConv, spec) for spec in kernels),
        *((DilatedConv, spec) for spec in kernels),
    )
    return dict(zip(OPERATIONS, made, strict=True))


def _of_genotype(
    options: Options, menu: Menu, kind: str, start: int, node: int, width: int
) -> ElasticBlock:
    """An edge that is there where its node has taken it."""
    which = node - blocks.INPUTS
    pairs = blocks.pairs(node)

    def pick(pair: int, first: int, second: int) -> str:
        one, other = pairs[pair]
        return OPERATIONS[{one: first, other: second}.get(start, NONE)]

    operations = [(kind, "operation", 2 * which + i) for i in range(2)]
    decisions = ((kind, "inputs", which), *operations)
    return picked_block(options, pick, menu=menu, decisions=decisions, channels=(width,))


def _strongest(kind: str, weights: Sequence[Any]) -> Any:
    rows = [np.array(row, np.float64) for row in weights]  # copies
    shapes = {row.shape for row in rows}
    nodes = _nodes(len(rows))
    if shapes != {(len(OPERATIONS),)} or len(blocks.edges(nodes)) != len(rows):
        raise UserError(
            f"a genotype is made of a code of edges, which has {len(OPERATIONS)} weights for each "
            f"of 2, 5, 9, 14, ... edges of a {kind} cell; this one has {len(rows)} of shapes "
            f"{sorted(map(list, shapes))}; give a code of the menu of darts_edges"
        )
    best, inputs, operations = [], [], []
    for row in rows:
        row[NONE] = -np.inf
        best.append((float(row.max()), int(row.argmax())))
    known = dict(zip(blocks.edges(nodes), best, strict=True))
    for node in range(blocks.INPUTS, blocks.INPUTS + nodes):
        ranked = sorted(range(node), key=lambda start: -known[start, node][0])
        one, other = pair = sorted(ranked[:2])
        inputs.append(np.int32(blocks.pairs(node).index((one, other))))
        places = [i for i in range(len(OPERATIONS)) if i != NONE]
        operations += [np.int32(places.index(known[start, node][1])) for start in pair]
    return {"inputs": inputs, "operation": operations}


def _nodes(edges: int) -> int:
    """How many nodes a cell of so many edges has at most."""
    nodes = 1
    while len(blocks.edges(nodes + 1)) <= edges:
        nodes += 1
    return nodes


def _built(settings: Any, genotypes: bool, classes: int, input_channels: int) -> Space:
    checks.require_sizes(
        channels=settings.channels,
        cells=settings.cells,
        nodes=settings.nodes,
        resolution=settings.resolution,
    )
    require(
        settings.channels % 2 == 0,
        f"space.channels is {settings.channels}, but must be even: a factorised reduction makes "
        "half of them at a time",
    )
    require(
        settings.resolution % 4 == 0,
        f"space.resolution is {settings.resolution}, but must be a multiple of 4: two cells halve "
        "the image",
    )
    return darts(
        settings.name,
        genotypes=genotypes,
        resolution=settings.resolution,
        channels=settings.channels,
        cells=settings.cells,
        nodes=settings.nodes,
        derived=settings.derived,
        task=ImageClassification(input_channels, classes),
        outputs=classes,
        input_channels=input_channels,
    )


@dataclasses.dataclass(frozen=True)
class DartsEdges:
    """Cells of 14 edges with one of 8 operations each, or none: what DARTS searches in."""

    name: ClassVar[str] = "darts_edges"  # on the command line
    resolution: int = 32
    """size of images, pixels; a multiple of 4"""
    channels: int = 16
    """channels of the first cell, even; more make wider networks"""
    cells: int = 8
    """cells; more make deeper networks; of 1 or 2 all are reduction cells"""
    nodes: int = NODES
    """nodes of a cell; more make more edges, and larger networks"""
    derived: bool = False
    """norms with scale and bias, and none after pooling, as networks have after the search"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, False, classes, input_channels)


@dataclasses.dataclass(frozen=True)
class DartsGenotypes(DartsEdges):
    """Cells whose 4 nodes have two inputs and their operations: 1,037,664,180 normal cells, and as
    many reduction cells (DARTS).
    """

    name: ClassVar[str] = "darts"  # on the command line

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        return _built(self, True, classes, input_channels)
