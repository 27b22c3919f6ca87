"""Which results of a function depend on an argument, as the program that JAX traces says."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import primitives


def on_last(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """For each leaf of a function's results, whether the last argument can change it.

    It may say so of one that does not change; whatever it says no of does not.

    Args:
        function: to be traced.
        *arguments: trees of arrays, or of `jax.ShapeDtypeStruct`.
    """
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    last = len(jax.tree.leaves(arguments[-1]))
    count = len(program.invars)
    return _dependent(program, [i >= count - last for i in range(count)])


def _dependent(program: core.Jaxpr, arguments: list[bool]) -> list[bool]:
    """Which results of a program depend on some of its arguments."""
    known = {v for v, depends in zip(program.invars, arguments, strict=True) if depends}

    def of(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in known

    for equation in program.eqns:
        given = [of(atom) for atom in equation.invars]
        made = [any(given)] * len(equation.outvars)
        if equation.primitive is primitives.jit_p:
            made = _dependent(equation.params["jaxpr"].jaxpr, given)
        elif equation.primitive is primitives.cond_p and not given[0]:
            each = [_dependent(one.jaxpr, given[1:]) for one in equation.params["branches"]]
            made = [any(several) for several in zip(*each, strict=True)]
        known.update(v for v, depends in zip(equation.outvars, made, strict=True) if depends)
    return [of(atom) for atom in program.outvars]
