"""LINAS: a search that asks a predictor, and evaluates what the predictor thinks is best.

Shape letters: `N` archs, `S` scores, `F` features.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import at_least, one_of, require
from supernet_jax.evaluation.costs import macs, parameters
from supernet_jax.searching import loop, pareto, predictors, proposals
from supernet_jax.searching.encoding import Encode, encoder
from supernet_jax.searching.nsga2 import nsga2, survivors
from supernet_jax.searching.predictors import Free, Predictor
from supernet_jax.searching.proposals import Normal
from supernet_jax.searching.searcher import (
    Costs,
    History,
    Searcher,
    SearchState,
    begin,
    generation_key,
    remember,
)
from supernet_jax.storage import user_code

POPULATION = 100  # of the search on the predictor
MOST = 256  # candidates, of which those are taken that the front gains most by
SAMPLES = 8192  # uniform archs whose free statistics a predictor may learn from
KINDS = {
    kind.__name__.lower(): kind for kind in vars(predictors).values() if hasattr(kind, "build")
}


def linas(
    menu: Menu,
    costs: Costs,
    *,
    encode: Encode,
    predictor: Predictor,
    first: int = 64,
    batch: int = 32,
    inner: int = 5000,
    normal: Normal | None = None,
) -> Searcher:
    """Evaluate, fit, search on the predictor, and again.

    Cummings et al. 2022 (DyNAS-T, arXiv:2205.10358): after `first` uniform archs, each generation
    fits a predictor to every score that was measured so far, runs NSGA-II on what they predict and
    on the exact costs, and asks for `batch` of the best archs that it found and nobody has scored.
    Several scores have a predictor each. Nothing is predicted of costs, which are known.

    One thing differs from the publication: of the best, those are asked for by which the
    hypervolume of what is known would grow most, one after the other, and not NSGA-II's first.

    Args:
        menu: what may be chosen.
        costs: and their budgets and aims.
        encode: `archs [N] -> [N, F]`, as `encoding.encoder` of a space.
        predictor: fitted anew in each generation, once for each score.
        first: uniform archs before the first fit, at least as many scores as the predictor needs;
            also as long as less is known.
        batch: archs of a generation, at least 1.
        inner: archs that the search on the predictor looks at in a generation, at least 1.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.

    Raises:
        UserError: a setting is out of range; `init` raises it if no arch meets the budgets.
    """
    at_least("first", first, 2)
    require(
        first >= predictor.least,
        f"first is {first}, but the predictor learns from {predictor.least} scores or more; "
        "evaluate as many before, or choose another predictor",
    )
    at_least("batch", batch, 1)
    at_least("inner", inner, 1)
    region = proposals.Region(menu, costs, normal)
    using = proposals.operators(menu)
    draw = proposals.drawer(region, using)
    search = nsga2(menu, costs, population=POPULATION, normal=normal, fills=False)

    def init(key: Array) -> SearchState:
        check, own = jax.random.split(key)
        proposals.require_any(region, using, check)
        return begin(menu, own)

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        told, key = state.told, generation_key(state)
        look, fill = jax.random.split(key)
        wanted, rows = max(first - _known(told), 0), told.archs[:0]
        if wanted == 0:
            wanted, rows = batch, best(told, look)
        taken = np.concatenate([told.archs, rows])
        rows = np.concatenate([rows, draw(fill, wanted - len(rows), taken)])
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    def best(told: History, key: Array) -> np.ndarray:
        """What NSGA-II finds with predicted scores, begun with all that was measured."""
        archs = choices.unpack(menu, told.archs)
        features = encode(archs)
        scores = np.where(np.isfinite(told.scores), told.scores, np.nan)  # none learns of infinity
        models = [predictor.fit(features, column) for column in scores.T]
        predict = [predictors.scorer(encode, predictor, model) for model in models]

        def score(archs: Arch) -> np.ndarray:
            return np.stack([one(archs)[0] for one in predict], axis=1)

        known = (archs, score(archs), told.costs)
        found = loop.run(search, score, costs=costs, key=key, evaluations=inner, known=known)
        if not len(found.scores):
            return told.archs[:0]
        objectives = costs.objectives(found.scores, found.costs)
        front = survivors(objectives, costs.excess(found.costs), MOST)
        there = costs.objectives(known[1], told.costs)[costs.allows(told.costs)]
        gaining = front[pareto.most_gained(there, objectives[front], batch)]
        others = front[~np.isin(front, gaining)]
        return found.archs[np.concatenate([gaining, others])[:batch]]

    return Searcher(init, ask, remember)


def _known(told: History) -> int:
    """Archs of which all scores are finite; 0 if those of some kind are all the same."""
    some = told.scores[np.all(np.isfinite(told.scores), axis=1)]
    return len(some) if len(some) and np.all(np.ptp(some, axis=0) > 0) else 0


@dataclasses.dataclass(frozen=True)
class Linas:
    """A predictor learns from few subnets and says which to evaluate next, as DyNAS searches."""

    name: ClassVar[str] = "linas"
    predictor: Any = "svr"
    """what learns: svr | ridge | boosting | ensemble; or, in a config file, a part of your own"""
    first: int = 64
    """uniform subnets before the first fit; more begin with a better predictor"""
    batch: int = 32
    """subnets evaluated between two fits; fewer learn sooner, and fit more often"""
    inner: int = 5000
    """subnets that the predictor is asked for between two fits; more search it more thoroughly"""

    def __post_init__(self) -> None:
        at_least("first", self.first, 2)
        at_least("batch", self.batch, 1)
        at_least("inner", self.inner, 1)
        if isinstance(self.predictor, str):
            one_of("predictor", self.predictor, KINDS)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space."""
        encode, predictor = self.learner(space)
        return linas(
            space.menu,
            costs,
            encode=encode,
            predictor=predictor,
            first=self.first,
            batch=self.batch,
            inner=self.inner,
            normal=functools.partial(elastic_space.normal, space),
        )

    def learner(self, space: Space) -> tuple[Encode, Predictor]:
        """What turns archs into features, and what learns from them."""
        part = KINDS[self.predictor]() if isinstance(self.predictor, str) else self.predictor
        exact = (macs(space), parameters(space))
        encode = encoder(space, costs=exact)
        keys = jax.random.key(0)  # the same in every generation, and when a search goes on
        archs = jax.tree.map(np.asarray, choices.sample(space.menu, keys, (SAMPLES,)))
        statistics = np.stack([cost(archs) for cost in exact], axis=1).astype(np.float64)
        return encode, _predictor(part, Free(encode(archs), statistics))


def _predictor(part: Any, free: Free) -> Predictor:
    """What a part makes; what goes wrong in one of the user's own is said with its place.

    Raises:
        UserError: it fails, or makes something else; of calls, they fail, or predict not one score
            and one spread of each arch.
    """
    kind = type(part).__name__
    with user_code.blamed(part, f"{kind}.build(free=...)"):
        made = part.build(free=free)
    require(
        isinstance(made, Predictor),
        f"{kind}.build(free=...) returns a {type(made).__name__}; it must return a Predictor",
    )
    if not user_code.is_own(part):
        return made

    def predict(model: Any, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with user_code.blamed(part, f"predict of {kind}"):
            mean, spread = (np.asarray(one, np.float64) for one in made.predict(model, features))
        n = len(features)
        require(
            mean.shape == spread.shape == (n,),
            f"predict of {kind} gives means {mean.shape} and spreads {spread.shape} of {n} archs; "
            f"both must have the shape ({n},)",
        )
        return mean, spread

    fit = user_code.watched(part, f"fit of {kind}", made.fit)
    return made._replace(fit=fit, predict=predict)
