"""NSGA-II against its publication and against random search."""

import jax
import numpy as np
from landscapes import FRONT, MENU, SIZES, history, nearness

from supernet_jax.elastic import choices
from supernet_jax.searching import hypervolume, nsga2, random_search
from supernet_jax.searching.nsga2 import CHUNK, _children, survivors


def beats(a, b) -> bool:
    """Constrained domination (definition 1): archs are (objectives, excess)."""
    if a[1] > 0 or b[1] > 0:
        return a[1] < b[1]
    return bool(np.all(a[0] >= b[0]) and np.any(a[0] > b[0]))


def brute_crowding(front: np.ndarray) -> np.ndarray:
    apart = np.zeros(len(front))
    for i, o in np.ndindex(front.shape):
        column, own = front[:, o], front[i, o]
        if own in (column.min(), column.max()):
            apart[i] = np.inf
        else:
            gap = column[column > own].min() - column[column < own].max()
            apart[i] += gap / np.ptp(column)
    return apart


def test_survivors_are_those_of_comparing_all_pairs():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values, excess = rng.random((40, 2 + seed % 2)), np.zeros(40)
        excess[rng.permutation(40)[:10]] = rng.random(10)
        archs = list(zip(values, excess, strict=True))
        ranks = np.full(40, -1)
        for rank in range(40):
            left = np.flatnonzero(ranks < 0)
            free = [i for i in left if not any(beats(archs[j], archs[i]) for j in left)]
            ranks[free] = rank
        apart = np.full(40, np.inf)
        for rank in range(ranks[excess == 0].max() + 1):
            apart[ranks == rank] = brute_crowding(values[ranks == rank])
        best = survivors(values, excess, 40)
        assert sorted(best) == list(range(40))
        ordered = list(zip(ranks[best], -apart[best], strict=True))
        assert ordered == sorted(ordered)
        np.testing.assert_array_equal(survivors(values, excess, 7), best[:7])


def test_what_is_no_number_survives_last():
    values = np.array([[np.nan, 9.0], [1.0, 1.0], [9.0, 9.0], [0.0, 0.0], [9.0, 9.0]])
    excess = np.array([0.0, 0.0, 5.0, 0.0, np.nan])
    assert survivors(values, excess, 3).tolist() == [1, 3, 2]


def test_those_beyond_a_budget_die_before_all_others():
    searcher = nsga2(MENU, FRONT, population=8)
    rows = np.zeros((20, len(SIZES)), np.int32)
    rows[:, 2:8] = 1 + (np.arange(20)[:, None] % 6 == np.arange(6))
    rows[:12] = SIZES - 1  # costs 26, at most 12 are allowed
    rows[np.arange(12), np.arange(12)] -= 1
    archs = choices.unpack(MENU, rows)
    costs = FRONT(archs)
    assert (costs[:12] > 12).all() and FRONT.allows(costs[12:]).all()
    scores = np.where(np.arange(20) < 12, 100.0, nearness(archs))[:, None]  # they would win
    state = searcher.tell(searcher.init(jax.random.key(0)), archs, scores, costs)
    assert sorted(state.alive) == list(range(12, 20))


def test_children_are_near_their_parents():
    parents = np.tile(np.array([0, 3] + [1] * 10, np.int32), (4, 1))
    same = _children(jax.random.key(0), parents, np.arange(4), SIZES - 1)
    assert same.shape == (CHUNK, 12) and same.dtype == np.int32
    assert (same >= 0).all() and (same < SIZES).all()
    # Crossings of like parents are like them, and one decision of 12 mutates on average.
    off = np.sum(same != parents[0], axis=1)
    np.testing.assert_allclose(off.mean(), 1, atol=5 / np.sqrt(CHUNK))
    # Of two parents who are apart, the first by tournament as often as it is drawn.
    parents = np.stack([np.zeros(12, np.int32), SIZES - 1]).astype(np.int32)
    first = _children(jax.random.key(0), parents, np.array([0, 1]), SIZES - 1)
    assert 0.6 < np.mean(first == 0) < 0.8  # 3 of 4 first parents, half of whose genes are mixed


def test_the_front_is_better_than_that_of_random_search():
    for seed in range(3):
        volumes = []
        for searcher in (nsga2(MENU, FRONT, population=16), random_search(MENU, FRONT, batch=16)):
            found = history(searcher, FRONT, seed, 400)
            values = FRONT.objectives(found.scores, found.costs)
            volumes.append(hypervolume(values, reference=np.array([-13.0, -13.0])))
        assert volumes[0] > 1.2 * volumes[1]
