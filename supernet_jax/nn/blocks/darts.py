"""Operations of DARTS' cells, and its network of them (arXiv 1806.09055, section 3.1 and appendix).

Its published code says what the paper leaves open: every operation is ReLU, convolutions and
BatchNorm, an average at the edge of an image counts only what lies inside, and in the search norms
have no scale and bias and pooling has a norm, too.
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.nn import depthwise, layers

Array = jax.Array
INPUTS = 2  # of a cell: what the two cells before it put out
REDUCTIONS = 2  # at one third and two thirds of a network
POOL = 3


@dataclasses.dataclass(frozen=True)
class KernelSpec:
    """Sizes of a `SeparableConv` or `DilatedConv`: channels, kernel and stride; whether its norms
    learn a scale and a bias.
    """

    c_in: int
    kernel: int
    stride: int = 1
    affine: bool = True


class SeparableConv(nn.Module):
    """Twice ReLU, depthwise convolution, 1x1 convolution, BatchNorm; the first has the stride."""

    spec: KernelSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_in]`."""
        s = self.spec
        for name, stride in (("first", s.stride), ("second", 1)):
            x = layers.Depthwise(s.kernel, stride, name=f"{name}_depthwise")(nn.relu(x))
            x = layers.Pointwise(s.c_in, name=f"{name}_pointwise")(x)
            x = layers.BatchNorm(affine=s.affine, name=f"{name}_norm")(x)
        return x


class DilatedConv(nn.Module):
    """ReLU, depthwise convolution whose taps lie two pixels apart, 1x1 convolution, BatchNorm."""

    spec: KernelSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_in]`; stride 1 or 2."""
        s = self.spec
        x = layers.Depthwise(s.kernel, s.stride, dilation=2, name="depthwise")(nn.relu(x))
        x = layers.Pointwise(s.c_in, name="pointwise")(x)
        return layers.BatchNorm(affine=s.affine, name="norm")(x)


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """Channels and stride of a `MaxPool3` or `MeanPool3`; whether a norm without scale and bias
    follows.
    """

    c_in: int
    stride: int = 1
    normed: bool = False


class MaxPool3(nn.Module):
    """The largest of 3x3 pixels."""

    spec: PoolSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_in]`."""
        s = self.spec
        x = nn.max_pool(x, (POOL, POOL), (s.stride, s.stride), ((1, 1), (1, 1)))
        return layers.BatchNorm(affine=False, name="norm")(x) if s.normed else x


class MeanPool3(nn.Module):
    """The mean of 3x3 pixels; those outside the image do not count."""

    spec: PoolSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H/stride, W/stride, c_in]`."""
        s = self.spec
        total = sum(depthwise.shifted_views(x, POOL, s.stride), start=jnp.zeros((), x.dtype))
        inside = [  # rows, or columns, of each window
            np.minimum(n, at + 2) - np.maximum(0, at - 1)
            for n, at in ((n, np.arange(0, n, s.stride)) for n in x.shape[1:3])
        ]
        counts = np.multiply.outer(*inside)[None, :, :, None]
        x = total / jnp.asarray(counts, x.dtype)
        return layers.BatchNorm(affine=False, name="norm")(x) if s.normed else x


@dataclasses.dataclass(frozen=True)
class StridedSpec:
    """Channels and stride of an operation without weights."""

    c_in: int
    stride: int = 1


class StridedZero(nn.Module):
    """Nothing: an edge that is not there."""

    spec: StridedSpec

    def __call__(self, x: Array) -> Array:
        """`[B, H, W, C]` -> zeros `[B, H/stride, W/stride, C]`."""
        return jnp.zeros_like(depthwise.every(x, self.spec.stride))


@dataclasses.dataclass(frozen=True)
class PreparationSpec:
    """Channels of a `ReluPointwise` or `FactorisedReduction`, in and out; whether its norm learns a
    scale and a bias.
    """

    c_in: int
    c_out: int
    affine: bool = True


class ReluPointwise(nn.Module):
    """ReLU, 1x1 convolution, BatchNorm: what brings an input of a cell to its channels."""

    spec: PreparationSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> `[B, H, W, c_out]`."""
        x = layers.Pointwise(self.spec.c_out, name="conv")(nn.relu(x))
        return layers.BatchNorm(affine=self.spec.affine, name="norm")(x)


class FactorisedReduction(nn.Module):
    """ReLU, two 1x1 convolutions at stride 2, the second of which sees the pixels that lie one
    down and one to the right, side by side; BatchNorm.
    """

    spec: PreparationSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]`, H and W even -> `[B, H/2, W/2, c_out]`, c_out even."""
        s, x = self.spec, nn.relu(x)
        first = layers.Pointwise(s.c_out // 2, name="first")(depthwise.every(x, 2))
        second = layers.Pointwise(s.c_out // 2, name="second")(depthwise.every(x, 2, 1))
        both = jnp.concatenate([first, second], -1)
        return layers.BatchNorm(affine=s.affine, name="norm")(both)


@dataclasses.dataclass(frozen=True)
class MeanHeadSpec:
    """Channels and classes of a `MeanHead`."""

    c_in: int
    classes: int


class MeanHead(nn.Module):
    """Mean over the image, linear classifier."""

    spec: MeanHeadSpec

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, H, W, c_in]` -> logits `[B, classes]`."""
        return layers.Dense(self.spec.classes, name="classifier")(jnp.mean(x, (1, 2)))


@dataclasses.dataclass(frozen=True)
class DartsCells:
    """Cells that each read the outputs of the two before them.

    A cell brings both to its channels, those are its nodes 0 and 1, and each further node is the
    sum of what the edges from all nodes before it make of these; it puts out the further nodes side
    by side. Cells `cells // 3` and `2 * cells // 3`, counted from 0, halve the image.

    Attributes:
        cells: number.
        nodes: of each cell, its inputs left aside.
    """

    cells: int
    nodes: int

    def __call__(self, run: Callable[..., Array], x: Array) -> Array:
        """Runs blocks "stem", "cell0_input0", "cell0_input1", "cell0_edge0_2", ..., "head"."""
        before = last = run("stem", x)
        for cell in range(self.cells):
            before, last = last, self._cell(run, cell, before, last)
        return run("head", last)

    def _cell(self, run: Callable[..., Array], cell: int, *inputs: Array) -> Array:
        values = [run(input_name(cell, i), value) for i, value in enumerate(inputs)]
        for node in range(INPUTS, INPUTS + self.nodes):
            made = [run(edge_name(cell, start, node), value) for start, value in enumerate(values)]
            values.append(sum(made[1:], start=made[0]))
        return jnp.concatenate(values[INPUTS:], -1)


def halves(cells: int, cell: int) -> bool:
    """Whether a cell, counted from 0, of so many is a reduction cell."""
    return cell in {third * cells // 3 for third in range(1, REDUCTIONS + 1)}


def edges(nodes: int) -> list[tuple[int, int]]:
    """The edges of a cell as (from, to), node by node: the order of the published code."""
    return [(start, node) for node in range(INPUTS, INPUTS + nodes) for start in range(node)]


def pairs(node: int) -> list[tuple[int, int]]:
    """The pairs of nodes that a node may take as its two inputs, in order."""
    return list(itertools.combinations(range(node), 2))


def input_name(cell: int, which: int) -> str:
    """The name of the block that prepares an input of a cell."""
    return f"cell{cell}_input{which}"


def edge_name(cell: int, start: int, end: int) -> str:
    """The name of an edge's block."""
    return f"cell{cell}_edge{start}_{end}"
