"""Bayesian optimisation by Optuna's tree-structured Parzen estimators, a baseline.

Optuna is optional: `pip install "supernet_jax[bayesian]"`. Nothing of its own is kept: each
generation makes a study of the history, so that a search goes on from its file exactly.

Shape letters: `N` archs, `D` decisions, `O` objectives.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import ClassVar

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import at_least
from supernet_jax.runtime import optional
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

ROUNDS = 4  # studies that are asked for one generation before uniform archs fill it up


def bayesian(
    menu: Menu, costs: Costs, *, batch: int = 16, startup: int = 32, normal: Normal | None = None
) -> Searcher:
    """What Optuna's multivariate TPE proposes.

    Bergstra et al. 2011 (Algorithms for Hyper-Parameter Optimization, section 4): densities are
    fitted to the options of the best archs and to those of the others, and of some samples of the
    first the one is proposed at which their ratio is largest. Of several objectives those archs are
    the best that stand on the first fronts and dominate most (Ozaki et al. 2020,
    doi 10.1145/3377930.3389817). Options are in order, hence whole numbers and no categories.

    Within a generation whatever was proposed counts as the poorest until it is scored, which keeps
    the next proposals away from it; so does who is beyond a budget, as one told of from an earlier
    search may be. Archs with a NaN or an infinite number are left out. No network is
    asked for twice, and where Optuna proposes too few new ones within the budgets uniform ones fill
    the generation up.

    Args:
        menu: what may be chosen.
        costs: and their budgets and aims.
        batch: archs of a generation, at least 1.
        startup: uniform archs before Optuna is first asked, at least 1; also as long as fewer have
            finite scores.
        normal: `archs [N] -> archs [N]`, equal ones for the same network, as `space.normal` of a
            space; None where every arch is another network.

    Raises:
        UserError: a setting is out of range, or Optuna is not installed; `init` raises it if no
            arch meets the budgets.
    """
    at_least("batch", batch, 1)
    at_least("startup", startup, 1)
    who, otherwise = "the searcher bayesian", "choose another searcher"
    optional.package("optuna", extra="bayesian", who=who, otherwise=otherwise)
    region = proposals.Region(menu, costs, normal)
    using = proposals.operators(menu)
    draw = proposals.drawer(region, using)
    sizes = np.array([len(choice) for choice in jax.tree.leaves(menu)])

    def init(key: Array) -> SearchState:
        check, search = jax.random.split(key)
        proposals.require_any(region, using, check)
        return begin(menu, search)

    def ask(state: SearchState) -> tuple[Arch, SearchState]:
        told, (look, fill) = state.told, jax.random.split(generation_key(state))
        values, excess = costs.objectives(told.scores, told.costs), costs.excess(told.costs)
        use = np.all(np.isfinite(np.c_[values, excess]), axis=1)
        wanted, rows = max(startup - int(np.sum(use)), 0), told.archs[:0]
        if wanted == 0:
            wanted, known = batch, (told.archs[use], _values(values[use], excess[use]))
            propose = functools.partial(_proposals, sizes, *known, n=batch)
            rows = proposals.collect(region, propose, look, batch, told.archs, rounds=ROUNDS)
        taken = np.concatenate([told.archs, rows])
        rows = np.concatenate([rows, draw(fill, wanted - len(rows), taken)])
        return choices.unpack(menu, rows), state._replace(generation=state.generation + 1)

    return Searcher(init, ask, remember)


def _values(objectives: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """Objectives `[N, O]`, those of archs beyond the budgets worse than all others."""
    low = objectives.min(axis=0)
    span = objectives.max(axis=0) - low
    worse = low - np.where(span > 0, span, 1.0) * excess[:, None]
    return np.where(excess[:, None] > 0, worse, objectives)


def _proposals(
    sizes: np.ndarray, archs: np.ndarray, values: np.ndarray, key: Array, *, n: int
) -> np.ndarray:
    """What Optuna asks for that knows some archs, int32 `[n, D]`.

    Args:
        sizes: options of each decision, `[D]`.
        archs: `[N, D]`.
        values: to be large, finite, `[N, O]`.
        key: the same proposals for the same one.
        n: how many.
    """
    import optuna

    free = np.flatnonzero(sizes > 1)
    kinds = {str(i): optuna.distributions.IntDistribution(0, int(sizes[i]) - 1) for i in free}
    rows = np.zeros((n, len(sizes)), np.int32)
    with _silent():
        sampler = optuna.samplers.TPESampler(
            seed=int(jax.random.bits(key)),
            n_startup_trials=0,  # there have been uniform archs
            multivariate=True,  # decisions of several objectives are not good or bad each by itself
            constant_liar=False,  # what was proposed is told of below
        )
        study = optuna.create_study(directions=["maximize"] * values.shape[1], sampler=sampler)
        study.add_trials(
            optuna.trial.create_trial(
                params={name: int(row[int(name)]) for name in kinds},
                distributions=kinds,
                values=some.tolist(),
            )
            for row, some in zip(archs, values, strict=True)
        )
        for row in rows:
            trial = study.ask(kinds)
            row[free] = [trial.params[name] for name in kinds]
            study.tell(trial, values.min(axis=0).tolist())
    return rows


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without Optuna's word on stderr that a study was made, and that of older versions that
    `multivariate` is new. What the user has set is as before afterwards.
    """
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


@dataclasses.dataclass(frozen=True)
class Bayesian:
    """What Optuna's tree-structured Parzen estimators propose; it needs the extra "bayesian"."""

    name: ClassVar[str] = "bayesian"
    batch: int = 16
    """subnets scored between two fits; fewer learn sooner, and fit more often"""
    startup: int = 32
    """uniform subnets before the first fit; more begin with better estimates"""

    def __post_init__(self) -> None:
        at_least("batch", self.batch, 1)
        at_least("startup", self.startup, 1)

    def build(self, space: Space, costs: Costs) -> Searcher:
        """The searcher of a space.

        Raises:
            UserError: Optuna is not installed.
        """
        normal = functools.partial(elastic_space.normal, space)
        return bayesian(space.menu, costs, batch=self.batch, startup=self.startup, normal=normal)
