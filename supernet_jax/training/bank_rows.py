"""Rows of a parameter bank in a training step: only those that members used change."""

import jax
import jax.numpy as jnp

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Bank


def touched(bank: Bank, fixed: tuple[Arch, ...], drawn: Arch | Code | None) -> Array:
    """Which rows the members of a step used: bool `[rows]`.

    Args:
        bank: of the space.
        fixed: concrete archs.
        drawn: archs or codes of the random members, `[M]` or `[M, G]`; None for none.
    """
    used = [jnp.atleast_1d(jnp.asarray(bank.row(arch))) for arch in fixed]
    found = jnp.zeros(bank.rows, bool)
    if drawn is not None and choices.is_code(drawn):
        each = jax.vmap(lambda code: bank.row.probabilities(code, bank.rows) > 0)(drawn)
        found = jnp.any(each, axis=0)
    elif drawn is not None:
        used.append(jnp.asarray(bank.row(drawn)).ravel())
    return found.at[jnp.concatenate(used)].set(True) if used else found


def kept(touched: Array, new: Tree, old: Tree) -> Tree:
    """The new values in touched rows and the old ones elsewhere, counters aside.

    Every leaf of the parameters, and of optimiser state shaped like them, leads with the bank axis.
    """

    def one(n: Array, o: Array) -> Array:
        if n.ndim == 0:
            return n
        return jnp.where(touched.reshape((-1,) + (1,) * (n.ndim - 1)), n, o)

    return jax.tree.map(one, new, old)
