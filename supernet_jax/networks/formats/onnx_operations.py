"""What the graph of an ONNX file is made of: operations, constants, a block about to be written.

Shape letters: `B` examples.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Value(NamedTuple):
    """What a node computes: maps `[B, channels, size, size]`, or tokens `[B, size, channels]`; of
    text, whose length may be free, `size` is 0.
    """

    name: str
    channels: int
    size: int


class Taken(NamedTuple):
    """What a program takes.

    Attributes:
        name: of the input.
        kind: ONNX's number of its type.
        shape: its sizes; one that is free has a name instead.
        words: for people.
    """

    name: str
    kind: int
    shape: tuple[int | str, ...]
    words: str = ""


class Node(NamedTuple):
    """One operation of ONNX.

    Attributes:
        kind: as ONNX calls it.
        name: of the node, and unless `output` says another, of the value it computes.
        inputs: names of values and constants.
        attributes: as ONNX calls them.
        output: name of the value.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    output: str


class Graph(NamedTuple):
    """Nodes in the order in which they run, and constants by name."""

    nodes: list[Node]
    weights: dict[str, np.ndarray]

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node, and tells the name of its value."""
        self.nodes.append(Node(kind, name, inputs, attributes, name))
        return name

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant, as float32."""
        self.weights[name] = np.ascontiguousarray(value, np.float32)
        return name

    def sizes(self, name: str, *values: int) -> str:
        """Adds a constant that says how a value is to be reshaped, cut or padded."""
        self.weights[name] = np.asarray(values, np.int64)
        return name


class Part(NamedTuple):
    """One block about to be written.

    Attributes:
        graph: what it is added to.
        name: of the block.
        params: its parameters by path, as `squeeze/reduce/kernel`, float64.
        stats: statistics of its norms, likewise.
    """

    graph: Graph
    name: str
    params: Mapping[str, np.ndarray]
    stats: Mapping[str, np.ndarray]

    def node(self, kind: str, name: str, *inputs: Value, **attributes: Any) -> Value:
        """Adds a node whose value is as large as its first input."""
        path = f"{self.name}/{name}"
        self.graph.node(kind, path, *(value.name for value in inputs), **attributes)
        return inputs[0]._replace(name=path)

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant."""
        return self.graph.weight(f"{self.name}/{name}", value)

    def made(self, kind: str, name: str, x: str, *constants: str, **attributes: Any) -> str:
        """Adds a node of a value and constants, and tells the name of its value."""
        return self.graph.node(kind, f"{self.name}/{name}", x, *constants, **attributes)

    def sizes(self, name: str, *values: int) -> str:
        """Adds a constant of sizes."""
        return self.graph.sizes(f"{self.name}/{name}", *values)


Writer = Callable[[Part, Any, Value], Value]  # block, its spec, its input -> its output
