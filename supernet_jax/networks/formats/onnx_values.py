"""The values of a traced program in a graph of ONNX, for `onnx_traced`: computed now, or named.

Shape letters: `B` examples.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.networks.formats.onnx_operations import Graph

Shape = tuple[Any, ...]  # whole numbers; the size of the batch is a symbol


@dataclasses.dataclass(frozen=True)
class Held:
    """A value of the traced program.

    Attributes:
        shape: that it has there.
        kept: that it has in the graph, with 1 where it is the same along an axis.
        name: in the graph; None of what is known now.
        known: of `kept`; None of what depends on the inputs.
    """

    shape: Shape
    kept: Shape
    name: str | None = None
    known: np.ndarray | None = None


class Values:
    """Names, constants and shapes in one graph."""

    def __init__(self, graph: Graph, given: str, batch: Any):
        """Of the graph, the input whose first axis is the batch, and the symbol of its size."""
        self.graph, self.given, self.batch = graph, given, batch
        self.count, self.scope, self.batch_name = 0, "", ""

    def name(self, kind: str) -> str:
        """A new name."""
        self.count += 1
        return f"{self.scope}{kind}_{self.count}"

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node, and tells the name of its value."""
        return self.graph.node(kind, self.name(kind), *inputs, **attributes)

    def constant(self, value: Any) -> str:
        """Adds a constant as it is."""
        name = self.name("constant")
        self.graph.weights[name] = np.ascontiguousarray(value)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Adds a constant list of whole numbers."""
        return self.constant(np.asarray(values, np.int64))

    def sizes(self, shape: Shape) -> str:
        """The name of a shape, as ONNX takes it, with the batch's size read off the input."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(shape)
        if not self.batch_name:
            whole = self.node("Shape", self.given)
            self.batch_name = self.node("Slice", whole, self.integers([0]), self.integers([1]))
        parts = [self.batch_name if s is self.batch else self._size(s) for s in shape]
        return self.node("Concat", *parts, axis=0)

    def _size(self, size: Any) -> str:
        """Of one axis, as a list of one number; the batch's size times a number too."""
        if isinstance(size, int):
            return self.integers([size])
        if size == self.batch:
            return self.batch_name
        factor, rest = divmod(size, self.batch)
        if isinstance(factor, int) and rest == 0:
            return self.node("Mul", self.batch_name, self.integers([factor]))
        raise cannot(f"an axis of {size} numbers")

    def held(self, x: Held) -> str:
        """The name of a value as it is kept."""
        return x.name if x.name is not None else self.constant(x.known)

    def full(self, x: Held) -> str:
        """The name of a value at its whole shape."""
        if x.kept == x.shape:
            return self.held(x)
        return self.node("Expand", self.held(x), self.sizes(x.shape))

    def reshaped(self, x: Held, shape: Shape) -> Held:
        """A value in another shape; axes of size 1 may come and go without it being expanded."""
        if [s for s in x.shape if s != 1] == [s for s in shape if s != 1]:
            sizes = iter([k for k, s in zip(x.kept, x.shape, strict=True) if s != 1])
            kept = tuple(1 if s == 1 else next(sizes) for s in shape)
        else:
            name = self.full(x) if x.known is None or x.kept != x.shape else None
            x, kept = dataclasses.replace(x, kept=x.shape, name=name), shape
            x = x if name is None else dataclasses.replace(x, known=None)
        if x.known is not None:
            return Held(shape, kept, known=x.known.reshape(kept))
        if kept == x.kept:
            return Held(shape, kept, x.name)
        open_sizes = sum(not isinstance(size, int) for size in kept)
        if open_sizes <= 1:
            wanted = self.integers([s if isinstance(s, int) else -1 for s in kept])
        else:
            wanted = self.sizes(kept)
        return Held(shape, kept, self.node("Reshape", self.held(x), wanted))


def known(value: Any) -> Held:
    """A value that is known now."""
    array = np.asarray(value)
    return Held(array.shape, array.shape, known=array)


def cannot(what: str) -> UserError:
    """That something of a program cannot be written."""
    return UserError(
        f"the network cannot be written as onnx, because {what} has no counterpart there that this "
        "library knows; the format stablehlo can"
    )
