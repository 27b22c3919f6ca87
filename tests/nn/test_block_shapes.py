"""Descriptions are what the modules themselves give, whatever was met before."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from tiny_space import tiny

from supernet_jax.elastic import space as elastic_space
from supernet_jax.nn import layers
from supernet_jax.nn.block_shapes import SHAPES_ONLY, BlockShapes, describe


def image(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def plainly(make: Callable, spec: Any, inputs: tuple[Any, ...]) -> BlockShapes:
    """The same by evaluating the whole module, which replays nothing. MACs are counted layer by
    layer, positions those of the last call.
    """
    positions, total = {}, 0

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal total
        output = call(*args, **kwargs)
        layer = context.module
        if context.method_name == "__call__" and layer.has_variable("params", "kernel"):
            positions[layer.path] = math.prod(output.shape[1:-1])
            total += positions[layer.path] * layer.get_variable("params", "kernel").size
        return output

    init, key = make(spec).init_with_output, jax.random.key(0)
    output, variables = jax.eval_shape(init, key, *inputs)
    with nn.intercept_methods(note):  # layer by layer, where there is one operation for several
        jax.eval_shape(init, {"params": key, SHAPES_ONLY: key}, *inputs)
    params, moments = (variables.get(name, {}) for name in ("params", "moments"))
    return BlockShapes(params, moments, {}, output, total, positions)


def test_library_blocks() -> None:
    space = tiny()
    for name, place in elastic_space.geometry(space, 8).items():
        block = space.blocks[name]
        for spec in (*block.specs, block.union):
            own = tuple(
                image(*x.shape[:-1], c)
                for x, c in zip(place.inputs, block.channels(spec), strict=True)
            )
            found = describe(block.module, spec, own)
            assert found == plainly(block.module, spec, own) and found.macs > 0


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the modules below."""

    c: int
    kind: str


class Wide(nn.Module):
    """A layer whose own layers are set up first."""

    features: int

    def setup(self) -> None:
        self.first = nn.Dense(self.features)
        self.second = nn.Dense(2 * self.features, use_bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(nn.relu(self.first(x)))


class Twice(nn.Module):
    """Runs a layer that is given to it, and lives elsewhere, after one of its own."""

    layer: nn.Module

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(nn.Dense(x.shape[-1], name="own")(x))


class Table(nn.Module):
    """A parameter of a name of its own, and a second method that uses it."""

    features: int

    def setup(self) -> None:
        self.table = self.param("table", nn.initializers.normal(), (7, self.features))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.table.T

    def back(self, x: jax.Array) -> jax.Array:
        return x @ self.table


class Stranger(nn.Module):
    """Uses layers in every way that Flax allows."""

    spec: Sizes

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.spec.c
        match self.spec.kind:
            case "alike":
                x = nn.Dense(c, name="a")(x)
                return nn.Dense(c, name="c")(nn.Dense(c, name="b")(x))
            case "again":
                dense = nn.Dense(x.shape[-1], name="dense")
                return dense(jnp.mean(dense(x), (1, 2)))
            case "set up":
                return Wide(c, name="second")(Wide(c, name="first")(x))
            case "given":
                dense = nn.Dense(x.shape[-1], name="dense")
                return Twice(dense, name="twice")(Twice(dense, name="other")(x))
            case "methods":
                table = Table(x.shape[-1], name="table")
                return table.back(table(x))
            case "counted":
                x = layers.BatchNorm(name="norm")(layers.Conv(c, 3, 2, name="conv")(x))
                scale = self.variable("gates", "scale", jnp.ones, (c,)).value
                return nn.relu(x * scale.reshape(1, 1, 1, -1))
            case _:  # options by name, and an output of two
                x = nn.LayerNorm(name="norm")(x, mask=jnp.ones(x.shape, bool))
                carry = jnp.zeros((*x.shape[:-1], c))
                _, y = nn.GRUCell(c, name="cell")(carry, x)
                return y


@pytest.mark.parametrize(
    "kind", ["alike", "again", "set up", "given", "methods", "counted", "options"]
)
def test_modules_of_a_stranger(kind: str) -> None:
    for c in (3, 5):
        for size in (4, 6):
            spec, inputs = Sizes(c, kind), (image(1, size, size, 3),)
            found, plain = describe(Stranger, spec, inputs), plainly(Stranger, spec, inputs)
            assert found._replace(macs=0, positions={}) == plain._replace(macs=0, positions={})
            assert jax.tree.leaves(found.params)
            by_matrix = 2 * 7 * 3 * size**2 if kind == "methods" else plain.macs  # no kernel there
            assert found.macs == by_matrix


def test_the_description_is_that_of_weights() -> None:
    spec, inputs = Sizes(4, "counted"), (image(1, 6, 6, 3),)
    variables = Stranger(spec).init(jax.random.key(0), jnp.zeros(inputs[0].shape))
    found = describe(Stranger, spec, inputs)
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(
        lambda s: s.shape, found.params
    )
    assert found.positions == {("conv",): 9}
