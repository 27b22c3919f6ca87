"""Operations of cells, and the network of cells that NAS-Bench-201 defines (arXiv 2001.00326).

Its published code says what the paper leaves open: every convolution is ReLU, convolution and
BatchNorm, and an average at the edge of an image counts only what lies inside.
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from supernet_jax.nn import layers, resize

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class ReluConvSpec:
    """Sizes of a `ReluConv`: channels in and out, kernel and stride."""

    c_in: int
    c_out: int
    kernel: int
    stride: int = 1


class ReluConv(nn.Module):
    """ReLU, convolution, BatchNorm."""

    spec: ReluConvSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_out]`."""
        s = self.spec
        x = nn.relu(x)
        if s.kernel == 1 and s.stride == 1:
            x = layers.Pointwise(s.c_out, name="conv")(x)
        else:
            x = layers.Conv(s.c_out, s.kernel, s.stride, name="conv")(x)
        return layers.BatchNorm(name="norm")(x)


@dataclasses.dataclass(frozen=True)
class PlainSpec:
    """Channels of an operation without weights."""

    c_in: int


class AveragePool3(nn.Module):
    """The mean of 3x3 pixels around each; those outside the image do not count."""

    spec: PlainSpec

    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> the same shape."""
        ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
        return _sum_of_9(x) / _sum_of_9(ones)


class Skip(nn.Module):
    """Passes its input on."""

    spec: PlainSpec

    def __call__(self, x: Array) -> Array:
        """`[...]` -> the same."""
        return x


class Zero(nn.Module):
    """Nothing: an edge that is not there."""

    spec: PlainSpec

    def __call__(self, x: Array) -> Array:
        """`[...]` -> zeros of the same shape."""
        return jnp.zeros_like(x)


@dataclasses.dataclass(frozen=True)
class ReductionSpec:
    """Channels of a `Reduction`, in and out."""

    c_in: int
    c_out: int


class Reduction(nn.Module):
    """The residual block of two 3x3 convolutions that halves an image between stages of cells."""

    spec: ReductionSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/2, W/2, c_out]`."""
        s = self.spec
        y = ReluConv(ReluConvSpec(s.c_in, s.c_out, 3, 2), name="first")(x)
        y = ReluConv(ReluConvSpec(s.c_out, s.c_out, 3), name="second")(y)
        return y + layers.Pointwise(s.c_out, name="shortcut")(resize.average_pool(x, 2))


@dataclasses.dataclass(frozen=True)
class CellStemSpec:
    """Channels of a `CellStem`, in and out."""

    c_in: int
    c_out: int


class CellStem(nn.Module):
    """3x3 convolution and BatchNorm."""

    spec: CellStemSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H, W, c_out]`."""
        x = layers.Conv(self.spec.c_out, 3, name="conv")(x)
        return layers.BatchNorm(name="norm")(x)


@dataclasses.dataclass(frozen=True)
class CellHeadSpec:
    """Channels and classes of a `CellHead`."""

    c_in: int
    classes: int


class CellHead(nn.Module):
    """BatchNorm, ReLU, mean over the image, linear classifier."""

    spec: CellHeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        x = nn.relu(layers.BatchNorm(name="norm")(x))
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(x, (1, 2)))


@dataclasses.dataclass(frozen=True)
class Cells:
    """Stages of cells, with a reduction between two of them.

    In a cell each node is the sum of what the edges from all nodes before it make of these; the
    first is the cell's input, the last its output.

    Attributes:
        stages: number.
        cells: of each stage.
        nodes: of each cell, its input included.
    """

    stages: int
    cells: int
    nodes: int

    def __call__(self, run: Callable[..., Array], x: Array) -> Array:
        """Runs blocks "stem", "stage1_cell1_edge1_2", "reduction1", ..., "head"."""
        x = run("stem", x)
        for stage in range(1, self.stages + 1):
            if stage > 1:
                x = run(f"reduction{stage - 1}", x)
            for cell in range(1, self.cells + 1):
                x = self._cell(run, f"stage{stage}_cell{cell}", x)
        return run("head", x)

    def _cell(self, run: Callable[..., Array], name: str, x: Array) -> Array:
        values = [x]
        for node in range(2, self.nodes + 1):
            edges = [
                run(edge_name(name, start, node), value) for start, value in enumerate(values, 1)
            ]
            values.append(sum(edges[1:], start=edges[0]))
        return values[-1]


def edges(nodes: int) -> list[tuple[int, int]]:
    """The edges of a cell as (from, to), in the order in which NAS-Bench-201 writes them."""
    pairs = itertools.combinations(range(1, nodes + 1), 2)
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def edge_name(cell: str, start: int, end: int) -> str:
    """The name of an edge's block."""
    return f"{cell}_edge{start}_{end}"


def _sum_of_9(x: Array) -> Array:
    """Sums of 3x3 pixels around each, zeros outside."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    rows = padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2 : height + 2]
    return rows[:, :, :width] + rows[:, :, 1 : width + 1] + rows[:, :, 2 : width + 2]
