"""The door of every cost: what a subnet costs, vectorised over archs."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError

Cost = Callable[[Arch], Any]  # pure: arch[...] -> array[...], NumPy in, NumPy out


def span(space: Space, cost: Cost) -> tuple[float, float]:
    """The lowest cost of the smallest arch and the highest of the largest one, at any size.

    A larger option of a static decision may make a cheaper network, as larger patches do.
    """
    sizes = np.arange(len(space.sizes), dtype=np.int32)

    def of(arch: Arch) -> np.ndarray:
        everywhere = jax.tree.map(lambda leaf: np.broadcast_to(leaf, sizes.shape), arch)
        return np.asarray(cost(space.at_size(everywhere, sizes)))

    lowest, highest = of(choices.smallest(space.menu)), of(choices.largest(space.menu))
    return float(lowest.min()), float(highest.max())


def check_is_space(space: Any) -> None:
    """Raises a `UserError` where something else was given in place of a space."""
    if not isinstance(space, Space):
        raise UserError(
            f"costs are of a space, as run.space, but a {type(space).__name__} was given"
        )
