"""NAS-Bench-201 (Dong & Yang 2020, arXiv 2001.00326): one cell of 6 edges, 5 operations on each.

All cells of a network are the same, so that there are 5^6 = 15,625 archs.
"""

import dataclasses
from typing import ClassVar

from supernet_jax.elastic.choice_block import Options, choice_block
from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.elastic_block import elastic
from supernet_jax.elastic.space import Space
from supernet_jax.nn.blocks import cells as blocks_of_cells
from supernet_jax.nn.blocks.cells import (
    AveragePool3,
    CellHead,
    CellHeadSpec,
    Cells,
    CellStem,
    CellStemSpec,
    PlainSpec,
    Reduction,
    ReductionSpec,
    ReluConv,
    ReluConvSpec,
    Skip,
    Zero,
)
from supernet_jax.spaces import checks
from supernet_jax.tasks import ImageClassification, Task

NODES, STAGES = 4, 3


def nas_bench_201(
    name: str,
    *,
    resolution: int,
    channels: int,
    cells: int,
    task: Task,
    outputs: int,
    input_channels: int,
    stages: int = STAGES,
    nodes: int = NODES,
) -> Space:
    """The space of cells.

    Its menu is `{"resolution", "edge": [6 edges]}`: the place of an edge's operation among
    `OPERATIONS`, edges in the order 1-2, 1-3, 2-3, 1-4, 2-4, 3-4.

    Args:
        name: of the space.
        resolution: of the images, pixels.
        channels: of the first stage; each further one has twice as many.
        cells: of each stage.
        task: what the space is for.
        outputs: numbers that a network puts out, as classes.
        input_channels: of the images.
        stages: of cells.
        nodes: of a cell, its input included; of fewer than four there are fewer edges.
    """
    edges = blocks_of_cells.edges(nodes)
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "edge": [Choice(tuple(range(len(OPERATIONS)))) for _ in edges],
    }
    stem = CellStemSpec(input_channels, channels)
    blocks = {"stem": elastic(CellStem, lambda: stem, menu=menu)}
    for stage in range(1, stages + 1):
        width = channels * 2 ** (stage - 1)
        if stage > 1:
            half = ReductionSpec(width // 2, width)
            blocks[f"reduction{stage - 1}"] = elastic(Reduction, lambda half=half: half, menu=menu)
        for cell in range(1, cells + 1):
            for i, edge in enumerate(edges):
                block = blocks_of_cells.edge_name(f"stage{stage}_cell{cell}", *edge)
                blocks[block] = choice_block(
                    operations(width), menu=menu, decision=("edge", i), channels=(width,)
                )
    head = CellHeadSpec(channels * 2 ** (stages - 1), outputs)
    blocks["head"] = elastic(CellHead, lambda: head, menu=menu)
    forward = Cells(stages, cells, nodes)
    return Space(name, menu, blocks, forward, task, static=(("resolution",),))


def operations(channels: int) -> Options:
    """What stands on an edge, in the order of the paper's table."""
    plain = PlainSpec(channels)
    return {
        "none": (Zero, plain),
        "skip": (Skip, plain),
        "conv1x1": (ReluConv, ReluConvSpec(channels, channels, 1)),
        "conv3x3": (ReluConv, ReluConvSpec(channels, channels, 3)),
        "pool3x3": (AveragePool3, plain),
    }


OPERATIONS = tuple(operations(1))


@dataclasses.dataclass(frozen=True)
class NasBench201:
    """One cell of 6 edges with 5 operations each, repeated: 15,625 archs (NAS-Bench-201)."""

    name: ClassVar[str] = "nas_bench_201"  # on the command line
    resolution: int = 32
    """size of images, pixels"""
    channels: int = 16
    """channels of the first stage"""
    cells: int = 5
    """cells in each stage; more make larger networks"""
    stages: int = STAGES
    """stages, between which images are halved; each has twice the channels of the one before"""

    def build(self, *, classes: int = 10, input_channels: int = 3) -> Space:
        """The space for data with so many classes and channels."""
        checks.require_sizes(channels=self.channels, cells=self.cells, stages=self.stages)
        checks.require_resolution(self.resolution, 2 ** (self.stages - 1))
        return nas_bench_201(
            self.name,
            resolution=self.resolution,
            channels=self.channels,
            cells=self.cells,
            stages=self.stages,
            task=ImageClassification(input_channels, classes),
            outputs=classes,
            input_channels=input_channels,
        )
