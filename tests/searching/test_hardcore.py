"""HardCoRe-NAS: what is linear, what budgets bind, planted optima, and budgets without number."""

import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest
from light_space import light, tied
from test_perturbation import BATCH, PARAMS, SPACE
from tiny_space import tiny

from supernet_jax.elastic import choices, decision_groups
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import masked
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs as evaluation_costs
from supernet_jax.evaluation.costs import macs, parameters
from supernet_jax.searching import Budget, CodeLoss, Costs, HeldOut, code_loss, hardcore, run
from supernet_jax.searching.hardcore import (
    HardCoRe,
    Weights,
    archs_within,
    balanced,
    descended,
    program_of_size,
    relaxed,
)
from supernet_jax.spaces.mobilenet import Stage, mobilenet

FREE = Budget(-np.inf, np.inf)


@functools.cache
def plain() -> Space:
    """256 archs of four blocks, each another network."""
    return mobilenet(
        "plain",
        resolutions=(6,),
        stem=(8, 16),
        stem_stride=1,
        stages=[Stage((8, 16), (1,), (3, 5), (1, 2), stride) for stride in (1, 2)],
        last=(8, 16),
        classes=5,
        input_channels=2,
        head_ratio=2,
    )


@functools.cache
def every(space: Space) -> np.ndarray:
    """All archs, packed."""
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    return np.array(list(itertools.product(*map(range, sizes))), np.int32)


def flat(code: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, float) for leaf in jax.tree.leaves(code)])


def one_hot(space: Space, rows: np.ndarray) -> np.ndarray:
    """Archs `[N, D]` as codes, `[N, V]`."""
    sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
    return np.concatenate([np.eye(n)[rows[:, i]] for i, n in enumerate(sizes)], axis=1)


class Planted:
    """A loss of what each option does, and of what each two of different decisions do together."""

    def __init__(self, space: Space, seed: int, together: float):
        rng = np.random.default_rng(seed)
        sizes = [len(choice) for choice in jax.tree.leaves(space.menu)]
        self.space, self.places = space, np.cumsum(sizes)[:-1]
        owner = np.repeat(np.arange(len(sizes)), sizes)
        self.alone = rng.normal(size=len(owner))
        self.pairs = rng.normal(size=(len(owner),) * 2) * (owner[:, None] < owner)
        self.pairs *= together / np.sqrt(len(sizes))
        self.loss = CodeLoss(1, self.slope)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Losses of codes `[N, V]`."""
        return codes @ self.alone + np.einsum("ni,ij,nj->n", codes, self.pairs, codes)

    def slope(self, code: Any, batch: int) -> tuple[float, Any]:
        z = flat(code)
        found = self.alone + (self.pairs + self.pairs.T) @ z
        menu = jax.tree.structure(self.space.menu)
        return float(self.of(z[None])[0]), jax.tree.unflatten(menu, np.split(found, self.places))


def at_most(space: Space, high: float) -> Costs:
    """MACs that only have to fit."""
    return Costs((macs(space),), (Budget(-np.inf, high, "MACs"),), (0,))
