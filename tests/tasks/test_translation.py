"""The task of translation: what it scores of pairs, one by one."""

import math

import jax
import numpy as np
import pytest

from supernet_jax.data import pairs
from supernet_jax.tasks import TASKS, Task, Translation
from supernet_jax.tasks.language_modelling import IGNORED

TASK = Translation(256, 6, 4)


def test_it_is_a_task_of_the_library() -> None:
    assert isinstance(TASK, Task) and TASKS["Translation"] is Translation
    assert TASK.guess == math.log(256) and not TASK.metric.higher_is_better
    assert (TASK.inputs(()).shape, TASK.inputs(()).dtype) == ((1, 10), np.int32)
    ids = np.zeros((3, 10), np.uint8)
    assert TASK.fit(ids, ()).dtype == np.int32


def test_scores_by_hand() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 256)).astype(np.float32)
    targets = pairs.encoded([pairs.Pair(b"a", b"x"), pairs.Pair(b"a", b"xyz")], 4).labels
    targets = np.concatenate([targets, np.full((1, 4), IGNORED, np.int32)])  # one of no token
    logits[0, 0, ord("x")] = logits[1, 3, ord("\n")] = 9.0
    logits[0, 3, 0] = 9.0  # behind the end, which does not count
    scores = jax.device_get(jax.jit(TASK.score)(logits, targets))
    likely = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for i, row in enumerate(targets):
        counted = [-likely[i, t, token] for t, token in enumerate(row) if token != IGNORED]
        right = [logits[i, t].argmax() == token for t, token in enumerate(row)]
        assert scores["tokens"][i] == len(counted) == (2, 4, 0)[i]
        assert scores["right"][i] == sum(right) == (1, 1, 0)[i]
        assert scores["nats"][i] == pytest.approx(sum(counted), abs=1e-4)
        assert scores["loss"][i] == pytest.approx(sum(counted) / max(len(counted), 1), abs=1e-4)
    assert TASK.accuracy(scores) == pytest.approx(2 / 6)
    assert TASK.value(scores) == pytest.approx(math.exp(scores["nats"].sum() / 6), rel=1e-5)
    # Of tokens, not of pairs: the mean over pairs is another number.
    assert TASK.value(scores) != pytest.approx(math.exp(scores["loss"][:2].mean()), rel=1e-3)
