"""The door of every cost: what a subnet costs, vectorised over archs."""

import itertools
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
    """The lowest cost and the highest, at any size, as far as single decisions lead there.

    From the smallest arch and the largest, which have them where options are sizes, one decision
    after the other takes its cheapest option, or its dearest, until none is cheaper, or dearer.
    """
    sizes = np.arange(len(space.sizes), dtype=np.int32)

    def of(arch: Arch) -> np.ndarray:
        everywhere = jax.tree.map(lambda leaf: np.broadcast_to(leaf, sizes.shape), arch)
        return np.asarray(cost(space.at_size(everywhere, sizes)))

    lowest = of(_cheapest(space, cost, choices.smallest(space.menu)))
    highest = of(_cheapest(space, lambda arch: -cost(arch), choices.largest(space.menu)))
    return float(lowest.min()), float(highest.max())


def _cheapest(space: Space, cost: Cost, arch: Arch) -> Arch:
    """The arch that single decisions lead to."""
    paths = [path for path in choices.paths(space.menu) if path not in space.static]
    stayed = 0  # so many decisions in a row
    for path in itertools.cycle(paths):
        options = np.arange(len(choices.get(space.menu, path)), dtype=np.int32)
        alike = jax.tree.map(lambda leaf, n=options: np.broadcast_to(leaf, n.shape), arch)
        values = np.asarray(cost(choices.replace(alike, path, options)))
        best = int(np.argmin(values))
        if values[best] < values[int(choices.get(arch, path))]:
            arch, stayed = choices.replace(arch, path, np.int32(best)), 0
        elif (stayed := stayed + 1) >= len(paths):
            break
    return arch


def check_is_space(space: Any) -> None:
    """Raises a `UserError` where something else was given in place of a space."""
    if not isinstance(space, Space):
        raise UserError(
            f"costs are of a space, as run.space, but a {type(space).__name__} was given"
        )
