"""Rows of a parameter bank in a training step: only those that members used change."""

from typing import Any

import jax
import jax.numpy as jnp

from supernet_jax.elastic import banks, choices
from supernet_jax.elastic.choices import Arch, Array, Code
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.runtime import path_rules


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


def kept(space: Space, touched: Array, new: Any, old: Any) -> Any:
    """The new values, but the old ones in untouched rows: of parameters and of trees of theirs."""
    names = banks.with_rows(space)

    def one(path: Any, n: Array, o: Array) -> Array:
        if path_rules.ending_in(path, names) is None or n.ndim == 0:
            return n
        return jnp.where(touched.reshape((-1,) + (1,) * (n.ndim - 1)), n, o)

    return jax.tree_util.tree_map_with_path(one, new, old)
