"""Ways to make one gradient of the members' gradients.

A `Combine` is a fold over the members of a step, in the order in which they train: largest,
smallest, then the random ones, in a scan. Some of them wrap another: `scaled(clipped(...))`.
The carry is as large as the gradients that a method must remember.

With different subnets on parts of a batch (`arch_shards`), or with accumulation, a member's
gradient is the mean over its parts; a method sees one gradient for each member.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.errors import UserError

Array = jax.Array
Tree = Any  # nested dicts of arrays
Factor = Callable[[str, Array], Array | float]  # (role, step) -> what a gradient is multiplied by
ROLES = ("largest", "smallest", "random")


class Combine(NamedTuple):
    """How the members' gradients become one: a fold over the members of a step.

    Attributes:
        init: `params -> carry`.
        add: `(carry, gradients, role, step) -> carry`; `role` is static, `step` is traced.
        finish: `carry -> gradients`.
    """

    init: Callable[[Tree], Any]
    add: Callable[[Any, Tree, str, Array], Any]
    finish: Callable[[Any], Tree]


def unit_sum() -> Combine:
    """The published rule of AttentiveNAS and AlphaNet: gradients are added, each with weight 1."""
    return Combine(
        init=optax.tree.zeros_like,
        add=lambda carry, gradients, role, step: optax.tree.add(carry, gradients),
        finish=lambda carry: carry,
    )


def scaled(inner: Combine, *, factor: Factor) -> Combine:
    """Multiplies each member's gradient by a number that its role and the step decide.

    Under plain SGD that is a learning rate for each subnet.

    Args:
        inner: what combines the scaled gradients.
        factor: `(role, step) -> number`; the role is static, the step an int32 scalar.
    """

    def add(carry: Any, gradients: Tree, role: str, step: Array) -> Any:
        number = jnp.asarray(factor(role, step), jnp.float32)
        return inner.add(carry, optax.tree.scale(number, gradients), role, step)

    return Combine(inner.init, add, inner.finish)


def by_role(weights: Mapping[str, float]) -> Factor:
    """A weight for each role, the same in every step.

    Args:
        weights: finite, at least 0, for "largest", "smallest" and "random".

    Raises:
        UserError: a role is missing or unknown, or a weight is out of range.
    """
    if set(weights) != set(ROLES):
        raise UserError(f"weights are given for {sorted(weights)}; give them for {sorted(ROLES)}")
    for role, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UserError(f"the weight of {role} is {weight}; it must be finite and at least 0")
    kept = dict(weights)
    return lambda role, step: kept[role]


def delayed_shrinking(*, delay: int, ramp: int, floor: float = 0.0) -> Factor:
    """Trains the largest subnet first, then lets the others in at a growing learning rate.

    Delayed epsilon-shrinking (Annavajjala et al. 2024, arXiv:2407.06167): the largest alone until
    it is about half trained, then the subnets with an effective learning rate that is warmed up.
    Here the largest always has the factor 1, and all others have 0 before `delay`, then a line
    from `floor` to 1 over `ramp` steps. The shape of that line is ours. Members with the factor 0
    are still computed.

    Args:
        delay: the first step in which the others train, at least 0.
        ramp: steps until they have the factor 1; with 0 they have it at once.
        floor: their factor at `delay`, in [0, 1].

    Raises:
        UserError: a number is out of range.
    """
    if delay < 0 or ramp < 0 or not 0 <= floor <= 1:
        raise UserError(
            f"shrinking has delay={delay}, ramp={ramp}, floor={floor}; the first two must be at "
            "least 0 and the last in [0, 1]"
        )

    def factor(role: str, step: Array) -> Array | float:
        if role == "largest":
            return 1.0
        grown = jnp.minimum((step - delay) / ramp, 1.0) if ramp else 1.0
        return jnp.where(step < delay, 0.0, floor + (1 - floor) * grown)

    return factor


def clipped(inner: Combine, *, member: float | None = None, total: float | None = None) -> Combine:
    """Bounds the global norm of each member's gradient, of the combined one, or of both.

    Pascanu et al. 2013 (arXiv:1211.5063), algorithm 1: a longer gradient is scaled to the bound.
    AlphaNet clips elements of the sum instead; that is the optimiser's `clip_value`.

    Args:
        inner: what combines the gradients.
        member: bound of each member's norm, above 0, or None.
        total: bound of the combined norm, above 0, or None.

    Raises:
        UserError: a bound is not above 0.
    """
    for name, bound in (("member", member), ("total", total)):
        if bound is not None and not bound > 0:
            raise UserError(f"the bound of the {name} gradient's norm is {bound}; it must exceed 0")

    def add(carry: Any, gradients: Tree, role: str, step: Array) -> Any:
        return inner.add(carry, _shortened(gradients, member), role, step)

    def finish(carry: Any) -> Tree:
        return _shortened(inner.finish(carry), total)

    return Combine(inner.init, add, finish)


def _shortened(gradients: Tree, bound: float | None) -> Tree:
    """The same direction, no longer than the bound."""
    if bound is None:
        return gradients
    # a quotient of 1 leaves a short gradient as it is, to the bit
    return optax.tree.scale(bound / jnp.maximum(optax.tree.norm(gradients), bound), gradients)


class _Sides(NamedTuple):
    """Gradient of the largest, sum of all others, and the step."""

    largest: Tree
    others: Tree
    step: Array


def conflict_projection(*, start: int = 0, limit: float = 2.0, by_array: bool = True) -> Combine:
    """Takes out of the largest's gradient what opposes the sum of all others, and adds both.

    NASViT (Gong et al., ICLR 2022): with `g` the gradient of the largest and `s` the summed
    gradients of the others, where `<g, s> < 0` it trains with `g - <g, s> / |s|**2 s + s`, so that
    the largest's part has no component against the others; `s` itself is never changed. Elsewhere,
    and before `start`, with `g + s`. Its published code decides for each parameter array by itself,
    bounds the coefficient `-<g, s> / |s|**2` by 2 and begins after 100 of its epochs; those are
    the defaults here, but for `start`, which is a number of steps. That code adds 1e-6 to `|s|**2`;
    here an array whose `s` is zero is left alone instead, so small gradients are projected fully.

    Conflict projection between all pairs of tasks (Yu et al. 2020, arXiv:2001.06782) is another
    method: it changes both gradients of a pair, and its result depends on their order.

    Args:
        start: the first step with projection.
        limit: upper bound of the coefficient, above 0; infinity for none.
        by_array: whether each array is projected by itself, or the gradient as one long vector.

    Raises:
        UserError: a number is out of range.
    """
    if start < 0 or not limit > 0:
        raise UserError(
            f"projection has start={start}, limit={limit}; they must be at least 0 and above 0"
        )

    def init(params: Tree) -> _Sides:
        zero = optax.tree.zeros_like(params)
        return _Sides(zero, optax.tree.zeros_like(params), jnp.int32(0))

    def add(carry: _Sides, gradients: Tree, role: str, step: Array) -> _Sides:
        step = jnp.asarray(step, jnp.int32)
        if role == "largest":
            return _Sides(optax.tree.add(carry.largest, gradients), carry.others, step)
        return _Sides(carry.largest, optax.tree.add(carry.others, gradients), step)

    def finish(carry: _Sides) -> Tree:
        largest, others, step = carry
        # no dot products: accelerators would round their factors to fewer bits
        dots, squares = (
            jax.tree.map(lambda a, b: jnp.sum(a * b), one, others) for one in (largest, others)
        )
        if not by_array:
            dots, squares = _total(dots), _total(squares)

        def one(g: Array, s: Array, dot: Array, square: Array) -> Array:
            opposed = jnp.where(square > 0, -dot / jnp.where(square > 0, square, 1), 0)
            coefficient = jnp.where(step < start, 0, jnp.clip(opposed, 0, limit))
            return g + s + coefficient.astype(s.dtype) * s

        return jax.tree.map(one, largest, others, dots, squares)

    return Combine(init, add, finish)


def _total(tree: Tree) -> Tree:
    """The sum of all leaves, at each of them."""
    total = sum(jax.tree.leaves(tree))
    return jax.tree.map(lambda _: total, tree)
