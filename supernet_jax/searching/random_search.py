"""Random search: the baseline that every other algorithm must beat."""

import jax

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.errors import UserError
from supernet_jax.evaluation.costs import Cost
from supernet_jax.searching import proposals
from supernet_jax.searching.proposals import Normal
from supernet_jax.searching.searcher import (
    Budget,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)


def random_search(
    menu: Menu, *, cost: Cost, budget: Budget, batch: int, normal: Normal | None = None
) -> Searcher:
    """Uniform archs within a budget, no network twice.

    A generation smaller than `batch` says that little is left (see `candidates.drawer`, also for
    how budgets are met that uniform archs hardly ever meet), an empty one that nothing is.

    Args:
        menu: what may be chosen.
        cost: `archs [N] -> [N]`, pure; called on NumPy archs.
        budget: in units of the cost.
        batch: archs of a generation, at least 1.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.

    Raises:
        UserError: for a batch below 1; `init` raises it if no arch meets the budget.
    """
    if batch < 1:
        raise UserError(f"batch is {batch}; it must be at least 1")
    region = proposals.Region(menu, cost, budget, normal)
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
