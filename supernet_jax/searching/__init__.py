"""Search algorithms, a file each, the loop that runs any of them, fronts and racing."""

from supernet_jax.searching.bayesian import Bayesian, bayesian
from supernet_jax.searching.blockwise_choice import BlockwiseChoice, blockwise_choice
from supernet_jax.searching.code_loss import CodeLoss, HeldOut, code_loss
from supernet_jax.searching.evolution import Evolution, evolution
from supernet_jax.searching.hardcore import HardCoRe, hardcore
from supernet_jax.searching.linas import Linas, linas
from supernet_jax.searching.loop import Score, run
from supernet_jax.searching.nsga2 import Nsga2, nsga2
from supernet_jax.searching.pareto import (
    front_per_bin,
    hypervolume,
    most_gained,
    pareto_front,
    ranks,
)
from supernet_jax.searching.perturbation import Keep, perturbed
from supernet_jax.searching.racing import Raced, race
from supernet_jax.searching.random_search import RandomSearch, random_search
from supernet_jax.searching.searcher import (
    Budget,
    Costs,
    History,
    Searcher,
    SearchState,
    begin,
    extend,
    generation_key,
    no_history,
    remember,
)
