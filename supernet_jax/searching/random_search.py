"""Random search: the baseline that every other algorithm must beat."""

import dataclasses
import functools
from typing import ClassVar

import jax

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import at_least
from supernet_jax.searching import proposals
from supernet_jax.searching.proposals import Normal
from supernet_jax.searching.searcher import (
    Costs,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)


def random_search(
    menu: Menu, costs: Costs, *, batch: int, normal: Normal | None = None
) -> Searcher:
    """Uniform archs within budgets, no network twice.

    A generation smaller than `batch` says that little is left (see `proposals.drawer`, also for
    how budgets are met that uniform archs hardly ever meet), an empty one that nothing is.

    Args:
        menu: what may be chosen.
        costs: and their budgets.
        batch: archs of a generation, at least 1.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.

    Raises:
        UserError: for a batch below 1; `init` raises it if no arch meets the budgets.
    """
    at_least("batch", batch, 1)
    region = proposals.Region(menu, costs, normal)
    using = proposals.operators(menu)
    draw = proposals.drawer(region, using)

    def init(key: Array) -> SearchState:
        check, search = jax.random.split(key)
        proposals.require_any(region, using, check)
        return begin(menu, search)

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        rows = draw(generation_key(state), batch, state.told.archs)
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    return Searcher(init, ask, remember)


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """Uniform subnets within the budgets: what every other searcher has to beat."""

    name: ClassVar[str] = "random"
    batch: int = 128
    """subnets scored between two saves; more lose more work to a kill"""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 1)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space."""
        normal = functools.partial(elastic_space.normal, space)
        return random_search(space.menu, costs, batch=self.batch, normal=normal)
