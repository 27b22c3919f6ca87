"""Multiply-accumulates (MACs), counted in a traced program.

What is counted are products of matrices and convolutions, of whatever layer: linear layers, the
products of attention, `einsum`. A layer that computes a convolution in another way (as sums of
shifted images) declares a method `macs(*inputs) -> int` of its own, which counts in the place of
what it does. Biases, normalisations, activations, pooling and resizing are no MACs, which is the
published rule.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from supernet_jax.errors import UserError

_ASIDE = "macs_aside"  # in the names of operations that are not counted


def aside() -> contextlib.AbstractContextManager[Any]:
    """While entered, operations do not count: those of a layer that declares its MACs, or of a
    resize that happens to be a product of matrices.
    """
    return jax.named_scope(_ASIDE)


def counted(program: ClosedJaxpr | Jaxpr) -> int:
    """MACs of a traced program.

    Of the branches of a condition the most expensive counts.

    Raises:
        UserError: they depend on data, in a loop that ends by a condition.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    total = 0
    equation: Any
    for equation in jaxpr.eqns:
        if _ASIDE in str(equation.source_info.name_stack):
            continue
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, made = equation.invars[0].aval, equation.outvars[0].aval
            total += made.size * math.prod(left.shape[axis] for axis in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel, made = equation.invars[1].aval, equation.outvars[0].aval
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += made.size * kernel.size // outputs
        else:
            total += _inside(equation)
    return total


def _inside(equation: Any) -> int:
    """Of the programs that an operation runs."""
    inner = [counted(program) for program in programs(list(equation.params.values()))]
    if equation.primitive.name == "cond":
        return max(inner)
    if equation.primitive.name == "while" and any(inner):
        raise UserError(
            "MACs cannot be counted in a loop that ends by a condition (jax.lax.while_loop); use "
            "jax.lax.scan, or give the layer a method macs(*inputs) that returns their number"
        )
    return sum(inner) * equation.params.get("length", 1)


def programs(values: Sequence[Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    """Those among the parameters of an equation."""
    for value in values:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from programs(value)
