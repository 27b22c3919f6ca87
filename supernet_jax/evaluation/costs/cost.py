"""The door of every cost: what a subnet costs, vectorised over archs."""

from collections.abc import Callable
from typing import Any

from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError

Cost = Callable[[Arch], Any]  # pure: arch[...] -> array[...], NumPy in, NumPy out


def check_is_space(space: Any) -> None:
    """Raises a `UserError` where something else was given in place of a space."""
    if not isinstance(space, Space):
        raise UserError(
            f"costs are of a space, as run.space, but a {type(space).__name__} was given"
        )
