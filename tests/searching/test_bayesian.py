"""The Bayesian searcher, which asks Optuna."""

import logging
import subprocess
import sys

import jax
import numpy as np
import optuna
import pytest
from landscapes import FRONT, MENU, WITHIN, history
from light_space import light

from supernet_jax.errors import UserError
from supernet_jax.searching import (
    Bayesian,
    Costs,
    bayesian,
    hypervolume,
    random_search,
)
from supernet_jax.searching.bayesian import _proposals, _values


@pytest.mark.parametrize("costs", [WITHIN, FRONT], ids=["one objective", "two"])
def test_it_is_better_than_random_search(costs):
    for seed in range(2):
        volumes = []
        for searcher in (
            bayesian(MENU, costs, batch=12, startup=24),
            random_search(MENU, costs, batch=12),
        ):
            found = history(searcher, costs, seed, 96)
            values = costs.objectives(found.scores, found.costs)
            volumes.append(hypervolume(values, reference=np.full(values.shape[1], -13.0)))
        assert volumes[0] > 1.2 * volumes[1]


def test_proposals_are_like_the_best_and_unlike_each_other():
    sizes = np.array([5, 1, 5, 5])
    archs = np.random.default_rng(0).integers(sizes, size=(60, 4), dtype=np.int32)
    values = -np.abs(archs - [4, 0, 0, 2]).sum(1, keepdims=True).astype(float)
    rows = _proposals(sizes, archs, values, jax.random.key(0), n=12)
    assert rows.dtype == np.int32 and (rows >= 0).all() and (rows < sizes).all()
    assert np.abs(rows - [4, 0, 0, 2]).sum(1).mean() < 0.6 * -values.mean()
    assert len(np.unique(rows, axis=0)) > 6
    np.testing.assert_array_equal(rows, _proposals(sizes, archs, values, jax.random.key(0), n=12))
    other = _proposals(sizes, archs, values, jax.random.key(1), n=12)
    assert not np.array_equal(rows, other)


def test_those_beyond_a_budget_are_the_poorest():
    objectives = np.array([[5.0, -9.0], [1.0, -2.0], [2.0, -3.0], [9.0, -1.0]])
    values = _values(objectives, np.array([0.0, 0.0, 0.1, 0.5]))
    np.testing.assert_array_equal(values[:2], objectives[:2])
    assert (values[2] < objectives.min(0)).all() and (values[3] < values[2]).all()
    alike = _values(np.ones((2, 1)), np.array([0.0, 1.0]))
    assert alike[1, 0] < alike[0, 0]


def test_nothing_of_the_user_s_is_changed(capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    level, state = logging.getLogger("optuna").level, np.random.get_state()[1].copy()
    history(bayesian(MENU, WITHIN, batch=2, startup=2), WITHIN, 0, 6)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO == level
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r'pip install "supernet_jax\[bayesian\]"') as error:
        Bayesian().build(light(), Costs())
    assert "\n" not in str(error.value)


def test_optuna_is_imported_only_by_a_search():
    script = "import sys, supernet_jax.searching; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_wrong_settings_are_refused():
    for name in ("batch", "startup"):
        with pytest.raises(UserError, match=f"{name} is 0"):
            Bayesian(**{name: 0})
        with pytest.raises(UserError, match=f"{name} is 0"):
            bayesian(MENU, WITHIN, **{name: 0})
