"""Many random draws as one, which a compiler sees once.

Every call of `jax.random` is some 400 instructions to XLA on CPU, and a supernet has hundreds of
parameters to start: compiling their draws took longer than all else before the first step.
`at_once` computes the same function from the bits of a single draw. It goes through the function's
jaxpr, in which drawing bits is one primitive, as JAX documents for custom interpreters.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives
from jax.extend.random import threefry2x32_p
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array


def at_once(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """`key -> tree`, with the distribution of `function`, but other numbers.

    Its 32-bit draws are parts of one draw with the key itself, in the order in which the results
    need them. Draws of other widths, and those within loops and branches, stay what they are. What
    no result depends on is not computed.

    Args:
        function: of a random key; returns a tree of arrays.
    """

    def run(key: Array) -> Any:
        return _filled(function, key, lambda count: jax.random.bits(key, (count,), jnp.uint32))[0]

    return run


def part(function: Callable[[Array], Any], *, mesh: Mesh) -> Callable[[Array, Array, Array], Any]:
    """`(key, whole, first) -> tree`: what `at_once` gives of a part of a larger function.

    A program for each part needs the memory of one at a time. `whole` is the key of the larger
    function, whose generator `has_parts`; `first` of its numbers (see `numbers`) come before.

    Args:
        function: of `key`, the part's own.
        mesh: whose devices draw together.
    """

    def run(key: Array, whole: Array, first: Array) -> Any:
        def bits(count: int) -> Array:
            # The i-th number of a draw is a function of the key and i; each device has some of i.
            padded = -(-count // mesh.size) * mesh.size
            split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            low = first + jnp.arange(padded, dtype=jnp.uint32)
            low = jax.lax.with_sharding_constraint(low, split)
            words = [jnp.broadcast_to(word, low.shape) for word in jax.random.key_data(whole)]
            one, other = threefry2x32_p.bind(*words, jnp.zeros_like(low), low)
            own = jax.lax.with_sharding_constraint(one ^ other, split)
            return jax.lax.with_sharding_constraint(own, NamedSharding(mesh, PartitionSpec()))

        return _filled(function, key, bits)[0]

    return run


def has_parts() -> bool:
    """Whether parts of a draw can be drawn alone, with JAX's generator as it is set."""
    known = str(jax.random.key_impl(jax.random.key(0))) == "threefry2x32"
    config: Any = jax.config
    return known and bool(config.jax_threefry_partitionable)


def numbers(function: Callable[[Array], Any]) -> int:
    """How many numbers of its draw `at_once(function)` uses; nothing is computed."""
    used = 0

    def run(key: Array) -> Any:
        nonlocal used
        tree, used = _filled(function, key, lambda count: jnp.zeros(count, jnp.uint32))
        return tree

    jax.eval_shape(run, jax.eval_shape(jax.random.key, 0))
    return used


def _filled(
    function: Callable[[Array], Any], key: Array, bits: Callable[[int], Array]
) -> tuple[Any, int]:
    """The results of a function whose draws are parts of `bits(their number)`, and how many of
    those were used.
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(key)
    pool = _Pool(bits(_size(program.jaxpr)))
    leaves = _results(program, [lambda: key], pool)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves), pool.used


class _Pool:
    """Bits that are handed out from the first on."""

    def __init__(self, bits: Array) -> None:
        self.bits, self.used = bits, 0

    def take(self, shape: tuple[int, ...]) -> Array:
        start, self.used = self.used, self.used + math.prod(shape)
        return jax.lax.slice(self.bits, (start,), (self.used,)).reshape(shape)


def _drawn(equation: core.JaxprEqn) -> tuple[int, ...] | None:
    """The shape of the 32-bit numbers that an equation draws; None if it does something else."""
    wide = equation.params.get("bit_width") == 32
    if not (wide and equation.primitive is primitives.random_bits_p):
        return None
    shape: tuple[int, ...] = equation.outvars[0].aval.shape  # type: ignore[attr-defined]
    return shape


def _size(program: core.Jaxpr) -> int:
    """How many numbers a program draws, those that no result needs included."""
    own = sum(math.prod(shape) for e in program.eqns if (shape := _drawn(e)) is not None)
    inner = (e.params["jaxpr"].jaxpr for e in program.eqns if e.primitive is primitives.jit_p)
    return own + sum(map(_size, inner))


def _results(
    program: core.ClosedJaxpr, arguments: Sequence[Callable[[], Any]], pool: _Pool
) -> list[Any]:
    """Values of a program's results; equations and arguments that they do not need are left out."""
    jaxpr = program.jaxpr
    given = dict(zip(jaxpr.invars, arguments, strict=True))
    made_by = {variable: equation for equation in jaxpr.eqns for variable in equation.outvars}
    known = dict(zip(jaxpr.constvars, program.consts, strict=True))

    def value(atom: Any) -> Any:
        if isinstance(atom, core.Literal):
            return atom.val
        if atom not in known and atom in given:
            known[atom] = given[atom]()
        elif atom not in known:
            equation = made_by[atom]
            results = _run(jaxpr, equation, value, pool)
            known.update(zip(equation.outvars, results, strict=True))
        return known[atom]

    return [value(atom) for atom in jaxpr.outvars]


def _run(
    program: core.Jaxpr, equation: core.JaxprEqn, value: Callable[[Any], Any], pool: _Pool
) -> Sequence[Any]:
    if (shape := _drawn(equation)) is not None:
        return [pool.take(shape)]
    if equation.primitive is primitives.jit_p:
        arguments = [functools.partial(value, atom) for atom in equation.invars]
        return _results(equation.params["jaxpr"], arguments, pool)
    variables = list(dict.fromkeys(a for a in equation.invars if not isinstance(a, core.Literal)))
    alone = program.replace(
        constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation]
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*map(value, variables))
