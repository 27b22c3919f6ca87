"""The topology of a space as a list of operations that a concrete arch takes, one after another.

A topology is any function of `run` and the network's inputs. What lies between its calls of `run`,
as a sum of two blocks' outputs, is operations of its own; for a chain there are none.

Shape letters: `B` examples.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np
from jax.extend.core import ClosedJaxpr

from supernet_jax.elastic import elastic_block, taps
from supernet_jax.elastic.block_call import Kind
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.space import Space, geometry
from supernet_jax.tasks.task import Size

Aval = jax.ShapeDtypeStruct


class Operation(NamedTuple):
    """One operation of a subnet. Values are numbered in the order in which they are made.

    Attributes:
        block: name of the block that runs; None for what lies between blocks.
        spec: which of its specs.
        between: what lies between blocks, None for a block.
        inputs: numbers of the values that it takes.
        outputs: numbers of the values that it makes; a block makes its output, and then its taps.
    """

    block: str | None
    spec: int
    between: "Between | None"
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Between:
    """What a topology does between blocks, as a function of values; equal if it reads alike."""

    text: str
    jaxpr: ClosedJaxpr = dataclasses.field(compare=False)

    def __call__(self, *values: Array) -> list[Array]:
        """What it makes of values."""
        return list(jax.extend.core.jaxpr_as_fun(self.jaxpr)(*values))


class Wiring(NamedTuple):
    """A subnet as a list of operations.

    Attributes:
        operations: in an order in which they can run.
        values: shape and dtype of each value; the leaves of the inputs come first.
        logits: number of the value that is the result.
        features: by block, the number of its output, of a skipped block that of what is there
            instead; by tap (BLOCK/NAME), of those blocks that are there.
        learned: by value, whether parameters had a part in it, so that it has a gradient.
    """

    operations: tuple[Operation, ...]
    values: tuple[Aval, ...]
    logits: int
    features: dict[str, int]
    learned: tuple[bool, ...]


_block = jax.extend.core.Primitive("block")
_block.multiple_results = True
_mark = jax.extend.core.Primitive("mark")  # of a block that is skipped


@_block.def_abstract_eval
def _outputs(*_: Any, name: str, spec: int, made: Any, inside: Any) -> Any:
    return list(made)


@_mark.def_abstract_eval
def _same(x: Any, *, name: str) -> Any:
    return x


def wired(
    space: Space,
    arch: Arch,
    *,
    size: Size,
    examples: int,
    dtype: Any,
    features: tuple[str, ...] = (),
) -> Wiring:
    """The operations of a concrete arch.

    Args:
        space: the space.
        arch: concrete, without batch axes.
        size: of the arch.
        examples: B.
        dtype: of floats.
        features: that are wanted; of these the taps are values of their own.
    """
    about = geometry(space, size)

    def batched(one: Any) -> Aval:
        floats = np.issubdtype(one.dtype, np.floating)
        return Aval((examples, *one.shape[1:]), dtype if floats else one.dtype)

    def run(name: str, *inputs: Array, otherwise: Array | None = None) -> Array:
        block = about[name].block
        if (spec := block.spec(arch)) is None:
            return _mark.bind(inputs[0] if otherwise is None else otherwise, name=name)
        which, shapes = block.specs.index(spec), about[name].shapes
        own, inside = elastic_block.shapes(block, spec, about[name].inputs).output, {}
        if names := taps.wanted(features, name):
            kind = Kind.of(block, about[name].inputs, shapes, dtype, rates=False, taps=names)
            inside = kind.tap_shapes(which, [Aval(x.shape, x.dtype) for x in inputs])
        made = batched(own), *inside.values()
        avals = tuple(jax.core.ShapedArray(x.shape, x.dtype) for x in made)
        return _block.bind(*inputs, name=name, spec=which, made=avals, inside=tuple(inside))[0]

    given = jax.tree.map(batched, space.task.inputs(size))
    traced = jax.make_jaxpr(lambda x: space.forward(run, x))(given)
    return _listed(traced)


def _listed(traced: ClosedJaxpr) -> Wiring:
    jaxpr = traced.jaxpr
    own = dict(zip(jaxpr.constvars, traced.consts, strict=True))  # arrays of the topology's own
    number: dict[Any, int] = {variable: i for i, variable in enumerate(jaxpr.invars)}
    values = [_aval(variable) for variable in jaxpr.invars]
    learned = [False] * len(values)
    operations: list[Operation] = []
    features: dict[str, int] = {}
    waiting: list[Any] = []  # equations between two blocks

    def make(variables: Sequence[Any], has_gradient: bool) -> tuple[int, ...]:
        for variable in variables:
            number[variable] = len(values)
            values.append(_aval(variable))
            learned.append(has_gradient)
        return tuple(number[variable] for variable in variables)

    def settle() -> None:
        """What waits becomes one operation."""
        if not waiting:
            return
        made = [v for equation in waiting for v in equation.outvars]
        taken = [v for e in waiting for v in e.invars if isinstance(v, jax.extend.core.Var)]
        taken = [v for v in dict.fromkeys(taken) if v not in made]
        inputs = [v for v in taken if v not in own]
        arrays = [v for v in taken if v in own]
        inner = jaxpr.replace(constvars=arrays, invars=inputs, outvars=made, eqns=list(waiting))
        closed = ClosedJaxpr(inner, [own[v] for v in arrays])
        text = f"{closed} {[np.asarray(own[v]).tobytes() for v in arrays]}"
        sources = tuple(number[v] for v in inputs)
        outputs = make(made, any(learned[i] for i in sources))
        operations.append(Operation(None, 0, Between(text, closed), sources, outputs))
        waiting.clear()

    for equation in jaxpr.eqns:
        if equation.primitive is _mark:
            settle()
            number[equation.outvars[0]] = number[equation.invars[0]]
            features[equation.params["name"]] = number[equation.invars[0]]
        elif equation.primitive is _block:
            settle()
            inputs = tuple(number[v] for v in equation.invars)
            outputs = make(equation.outvars, True)
            name = equation.params["name"]
            inside = [f"{name}/{tap}" for tap in equation.params["inside"]]
            features |= dict(zip([name, *inside], outputs, strict=True))
            operations.append(Operation(name, equation.params["spec"], None, inputs, outputs))
        else:
            waiting.append(equation)
    settle()
    logits = number[jaxpr.outvars[0]]
    return Wiring(tuple(operations), tuple(values), logits, features, tuple(learned))


def _aval(variable: Any) -> Aval:
    return Aval(variable.aval.shape, variable.aval.dtype)
