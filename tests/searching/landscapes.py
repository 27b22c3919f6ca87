"""Functions whose optimum or front is known, for searchers to be compared on."""

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Choice
from supernet_jax.searching import Budget, Costs, run

MENU = [Choice(tuple(range(n))) for n in [4, 4] + [3] * 10]  # 944,784 archs
SIZES = np.array([len(choice) for choice in MENU])
TARGET = np.array([0, 3, 2, 0, 1, 0, 2, 0, 1, 0, 2, 0])  # costs 11


def total(archs):
    """What an arch costs: the sum of its options."""
    return sum(jax.tree.leaves(archs))


def nearness(archs):
    """Highest, 0, at TARGET alone; every decision matters as much as it is off."""
    return -np.abs(choices.pack(archs) - TARGET).sum(-1)


WITHIN = Costs((total,), (Budget(4, 12),), (0,))  # one objective: the score
FRONT = Costs((total,), (Budget(4, 12),), (-1,))  # two


def history(searcher, costs, seed, evaluations):
    key = jax.random.key(seed)
    return run(searcher, nearness, costs=costs, key=key, evaluations=evaluations)


def needed(searcher, seed, evaluations):
    """Evaluations until the generation that has the optimum is scored; infinite if none has."""
    state, scored = searcher.init(jax.random.key(seed)), 0
    while scored < evaluations:
        archs, state = searcher.ask(state)
        scores = nearness(archs)
        state = searcher.tell(state, archs, scores[:, None], WITHIN(archs))
        scored += len(scores)
        if scores.max() == 0:
            return scored
    return np.inf
