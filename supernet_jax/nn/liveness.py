"""How many values live at once while a block computes one example.

The block's traced program is walked in its order. An array lives from the operation that makes it
until the last one that reads it, and takes a place of its own, with these exceptions:

- What depends on no input, as weights, positions and masks, takes none.
- Reshapes, transpositions, slices and broadcasts are ways to read an array, and make none.
- Elementwise operations write where an operand lies that has as many values and dies there. A
  function of elementwise operations that JAX traces by itself, as `nn.swish`, is one of them.
- A layer whose class says `in_place = True`, as a normalisation, is one elementwise operation. One
  with a method `makes`, as a convolution that is computed by shifted products, is one operation
  that makes its output.

That is how runtimes for small memories work: TensorFlow Lite Micro plans its memory by lifetimes
(arXiv 2010.08678), the engine of MCUNet computes in place, too (arXiv 2007.10319). Not so here as
there: no depthwise convolution is in place.
"""

import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.extend.core
from jax.extend.core import ClosedJaxpr, Jaxpr

from supernet_jax.nn import block_shapes, macs
from supernet_jax.runtime import disk_cache

Inputs = tuple[jax.ShapeDtypeStruct, ...]
VIEWS = {
    *("broadcast_in_dim", "copy", "copy_p", "expand_dims", "reshape", "slice", "split", "squeeze"),
    *("stop_gradient", "transpose"),
}
ELEMENTWISE = {
    *("abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh"),
    *("cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh", "div", "eq", "erf"),
    *("erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite"),
    *("le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg"),
    *("nextafter", "not", "or", "pow", "reduce_precision", "rem", "round", "rsqrt", "select_n"),
    *("sign", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor"),
}
ALIGNED = VIEWS - {"slice", "split", "transpose"}
LOOPS = {"scan", "while", "cond"}  # whose bodies do not simply run once


@runtime_checkable
class HasInPlace(Protocol):
    """A layer that is one elementwise operation, or may be, by an attribute of its class."""

    in_place: bool


@runtime_checkable
class HasMakes(Protocol):
    """A layer that is one operation which makes its output."""

    def makes(self, *inputs: Any) -> tuple[int, ...]:
        """The shape of its output, for the inputs of its call."""


class Read(NamedTuple):
    """How an operation reads an array.

    Attributes:
        array: its number.
        size: how many values are read.
        order: by what it is transposed.
    """

    array: int
    size: int
    order: tuple[Any, ...] = ()


class Operation(NamedTuple):
    """What reads arrays and makes others.

    Attributes:
        reads: the arrays that it reads.
        makes: numbers of those that it makes.
        in_place: whether they may lie where one lay that is read for the last time.
        beside: values that live meanwhile, as in a body of a loop.
    """

    reads: tuple[Read, ...]
    makes: tuple[int, ...]
    in_place: bool
    beside: int = 0


class Operations(NamedTuple):
    """A program as operations on arrays, which are numbered, those of the inputs first.

    Attributes:
        each: in their order.
        sizes: values of each array.
        inputs: how many arrays there are at the start.
        outputs: numbers of the arrays that are left at the end.
    """

    each: tuple[Operation, ...]
    sizes: tuple[int, ...]
    inputs: int
    outputs: tuple[int, ...]


# By what makes a module, and gone with it, as in `block_shapes`.
_known: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


def peak(make: Callable[[Any], nn.Module], spec: Any, inputs: Inputs) -> int:
    """Largest number of values that live at once in `make(spec)`, its inputs and output included.

    Args:
        make: what makes the module.
        spec: what it is made of.
        inputs: their shapes, batch 1; they live until they are read for the last time.
    """
    known = _known.setdefault(make, {})
    if (spec, inputs) not in known:
        kind, own = block_shapes.plain(make, spec)
        counted = _recalled if kind is make else peak
        known[spec, inputs] = counted(kind, own, inputs)
    return int(known[spec, inputs])


def _recalled(make: Callable, spec: Any, inputs: Inputs) -> int:
    """The number on disk, if there is one; else it is put there, if it is of our own code."""
    ours = all(block_shapes.is_ours(part) for part in (make, type(spec)))
    key = f"peak of {make.__module__}.{make.__qualname__} {spec} {inputs}" if ours else ""
    found = disk_cache.recall(key) if ours else None
    if found is None:
        found = largest(operations(program(make(spec), inputs), len(inputs)))
        if ours:
            disk_cache.keep(key, found)
    return int(found)


def program(module: nn.Module, inputs: Sequence[jax.ShapeDtypeStruct]) -> ClosedJaxpr:
    """The program of a module at statistics that are given; its layers are equations. Its last
    arguments are the inputs.
    """
    with nn.intercept_methods(_as_equation):
        return _traced(module, tuple(inputs))[0]


def _traced(module: nn.Module, inputs: Inputs) -> tuple[ClosedJaxpr, Any]:
    """The program, and the shapes of what the module returns. Only within `_as_equation`."""
    key = block_shapes.key_shape()
    keys = {"params": key, block_shapes.SHAPES_ONLY: key}
    run = lambda keys, *args: module.init_with_output(keys, *args)[0]  # noqa: E731
    traced: tuple[ClosedJaxpr, Any] = jax.make_jaxpr(run, return_shape=True)(keys, *inputs)
    return traced


_layer = jax.extend.core.Primitive("layer")
_layer.multiple_results = True


@_layer.def_abstract_eval
def _made(*_: Any, made: Any, inside: Any) -> Any:
    return list(made)


@dataclasses.dataclass(frozen=True, eq=False)
class _Layer:
    """What a layer does with its inputs: whether in place, its program if it is not known as one
    operation, and the shapes of what it returns.
    """

    in_place: bool
    program: ClosedJaxpr | None
    made: Any


def _as_equation(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """Called by Flax in place of each method; a layer that was met before is not traced again."""
    layer = context.module
    if context.method_name != "__call__" or not block_shapes.replayable(layer, args, kwargs):
        return call(*args, **kwargs)
    shapes = tuple(map(block_shapes.shape_of, args))
    known = _known_layer(layer.clone(parent=None, name=None), shapes)
    leaves, tree = jax.tree.flatten(known.made)
    avals = tuple(jax.core.ShapedArray(leaf.shape, leaf.dtype) for leaf in leaves)
    return jax.tree.unflatten(tree, _layer.bind(*args, made=avals, inside=known))


@functools.cache
def _known_layer(layer: nn.Module, inputs: Inputs) -> _Layer:
    if isinstance(layer, HasInPlace) and layer.in_place:
        return _Layer(True, None, inputs[0])
    if isinstance(layer, HasMakes):
        made = jax.ShapeDtypeStruct(layer.makes(*inputs), inputs[0].dtype)
        return _Layer(False, None, made)
    return _Layer(False, *_traced(layer, inputs))


def operations(traced: ClosedJaxpr, inputs: int) -> Operations:
    """What a program does with the last so many of its arguments; the others take no place."""
    sizes: list[int] = []
    listed: list[Operation] = []
    arguments = traced.jaxpr.invars
    first = len(arguments) - inputs
    reads: list[Read | None] = [None] * first
    reads += [_new(sizes, variable) for variable in arguments[first:]]
    made = [read for read in _walk(traced.jaxpr, reads, sizes, listed) if read is not None]
    for i, read in enumerate(made):  # what is left lies by itself
        if read.size != sizes[read.array]:
            made[i] = Read(len(sizes), read.size)
            sizes.append(read.size)
            listed.append(Operation((read,), (made[i].array,), False))
    outputs = tuple(read.array for read in made)
    return Operations(_wanted(listed, outputs), tuple(sizes), inputs, outputs)


def _new(sizes: list[int], variable: Any) -> Read:
    sizes.append(math.prod(variable.aval.shape))
    return Read(len(sizes) - 1, sizes[-1])


def _walk(
    jaxpr: Jaxpr, arguments: Sequence[Read | None], sizes: list[int], listed: list[Operation]
) -> list[Read | None]:
    """Lists the operations of a program, and returns where its results lie."""
    known: dict[Any, Read | None] = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Read | None:
        return known.get(atom) if isinstance(atom, jax.extend.core.Var) else None

    equation: Any
    made: list[Read | None]
    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if not any(operands):
            continue
        name, results = equation.primitive.name, equation.outvars
        inner, is_layer = _inside(equation), equation.primitive is _layer
        live = [operand for operand in operands if operand is not None]
        if name in VIEWS:
            (source,) = live
            order = source.order
            if name == "transpose":
                order = (*order, equation.params["permutation"])
            made = [source._replace(size=_size(v), order=order) for v in results]
        elif inner is not None and (is_layer or not _is_elementwise(inner)):
            given = [None] * (len(inner.invars) - len(operands)) + operands
            made = _walk(inner, given, sizes, listed)
        else:
            new = [_new(sizes, variable) for variable in results]
            in_place, beside = inner is not None or name in ELEMENTWISE, 0
            if is_layer:
                in_place = equation.params["inside"].in_place
            elif not in_place:
                bodies = macs.programs(list(equation.params.values()))
                beside = max(map(_inner_peak, bodies), default=0)
            listed.append(Operation(tuple(live), tuple(r.array for r in new), in_place, beside))
            made = [*new]
        known.update(zip(results, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _size(variable: Any) -> int:
    return math.prod(variable.aval.shape)


def _inside(equation: Any) -> Jaxpr | None:
    """The program that runs once in the place of an equation, if there is one."""
    if equation.primitive is _layer:
        inside: _Layer = equation.params["inside"]
        return None if inside.program is None else inside.program.jaxpr
    if equation.primitive.name in LOOPS:
        return None
    found = list(macs.programs(list(equation.params.values())))
    jaxpr = _open(found[0]) if len(found) == 1 else None
    fits = jaxpr is not None and len(jaxpr.invars) == len(equation.invars)
    return jaxpr if fits else None


def _open(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _is_elementwise(jaxpr: Jaxpr) -> bool:
    """Whether each value of what a function returns needs one value of each argument."""
    computes = False
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, _inside(equation)
        if name in ELEMENTWISE or (inner is not None and _is_elementwise(inner)):
            computes = True
        elif name not in ALIGNED:
            return False
    return computes


def _inner_peak(program: ClosedJaxpr | Jaxpr) -> int:
    """Of a body of a loop, beside what goes into it."""
    jaxpr = _open(program)
    sizes, listed = [0] * len(jaxpr.invars), list[Operation]()
    made = _walk(jaxpr, [Read(i, 0) for i in range(len(sizes))], sizes, listed)
    outputs = tuple(read.array for read in made if read is not None)
    return largest(Operations(_wanted(listed, outputs), tuple(sizes), len(jaxpr.invars), outputs))


def _wanted(listed: Sequence[Operation], outputs: Sequence[int]) -> tuple[Operation, ...]:
    """Those operations of which something is read, or left at the end."""
    needed, kept = set(outputs), []
    for operation in reversed(listed):
        if needed.intersection(operation.makes):
            needed.update(read.array for read in operation.reads)
            kept.append(operation)
    return tuple(reversed(kept))


def largest(given: Operations) -> int:
    """Largest number of values that live at once."""
    sizes, end = given.sizes, len(given.each)
    last = {read.array: i for i, operation in enumerate(given.each) for read in operation.reads}
    last |= dict.fromkeys(given.outputs, end)
    living = sum(sizes[: given.inputs])
    most = living
    for i, operation in enumerate(given.each):
        dying = {read.array for read in operation.reads if last[read.array] == i}
        made = sum(sizes[array] for array in operation.makes)
        reused = _reused(operation, dying, sizes) if operation.in_place else 0
        most = max(most, living + made - reused + operation.beside)
        unread = sum(sizes[array] for array in operation.makes if array not in last)
        living += made - unread - sum(sizes[array] for array in dying)
    return most


def _reused(operation: Operation, dying: set[int], sizes: Sequence[int]) -> int:
    """Values of those arrays that an operation in place makes where others lay."""
    free: list[int] = []
    for array in dying:
        reads = {read[1:] for read in operation.reads if read.array == array}
        if len(reads) == 1 and reads.pop()[0] == sizes[array]:
            free.append(sizes[array])
    reused = 0
    for array in operation.makes:
        if sizes[array] in free:
            free.remove(sizes[array])
            reused += sizes[array]
    return reused
