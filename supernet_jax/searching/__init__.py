"""Search algorithms, a file each, the loop that runs any of them, fronts and racing."""

from supernet_jax.searching.evolution import evolution
from supernet_jax.searching.loop import Score, run
from supernet_jax.searching.pareto import front_per_bin, hypervolume, pareto_front
from supernet_jax.searching.racing import Raced, race
from supernet_jax.searching.random_search import random_search
from supernet_jax.searching.searcher import (
    Budget,
    History,
    Searcher,
    SearchState,
    begin,
    extend,
    generation_key,
    no_history,
    remember,
)
