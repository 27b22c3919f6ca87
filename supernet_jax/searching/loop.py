"""The loop of a search: ask, score, tell, save."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.errors import UserError
from supernet_jax.runtime import distributed
from supernet_jax.searching.searcher import Costs, History, Searcher, extend, no_history
from supernet_jax.searching.state_file import Saved, read, write
from supernet_jax.storage import files

KEY = "random key"  # its field in the identity
Known = tuple[Arch, np.ndarray, np.ndarray]  # archs [N], scores [N, S], costs [N, C]
Score = Callable[[Arch], np.ndarray]  # archs [N] -> [N] or [N, S], the higher the better


def run(
    searcher: Searcher,
    score: Score,
    *,
    costs: Costs,
    key: Array,
    evaluations: int,
    state_file: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    known: Known | None = None,
    on_progress: Callable[[History], None] | None = None,
) -> History:
    """Searches until `evaluations` archs are scored, or the searcher has none left to ask for.

    With a state file, the search is saved whenever a generation has been scored. Called again it
    goes on from there, and ends with the very history of a search that was never interrupted; a
    kill at any moment costs at most the generation being scored. A longer search may go on from a
    shorter one: `evaluations` only says where to stop.

    Args:
        searcher: what asks.
        score: called on one generation, NumPy archs `[N]`; a generation that would exceed
            `evaluations` is cut short.
        costs: those that the searcher was made with.
        key: of the whole search.
        evaluations: archs to score in all, those in the state file included.
        state_file: where the search is kept, or None to keep it in memory only.
        identity: JSON values that tell this search from any other: the space, the checkpoint, the
            split, the budget, the searcher's settings. The key is added to them.
        known: archs that were scored before, with scores and costs as `tell` takes them. The
            searcher is told of them before it is first asked; they do not count, and are not in
            what is returned.
        on_progress: called with the history after every generation, when it has been saved; and at
            first where a search goes on.

    Returns:
        The first `evaluations` archs that were scored, or all if the searcher has no more.

    Raises:
        UserError: the state file is damaged, belongs to another search or searcher, or cannot be
            written; `evaluations` is below 1; `score` or a cost gives not one number, or as many
            as before, for each arch.
    """
    if evaluations < 1:
        raise UserError(f"evaluations is {evaluations}; it must be at least 1")
    identity = {**(identity or {}), KEY: jax.random.key_data(key).tolist()}
    state, history, told = _begin(searcher, key, state_file, identity, known)
    if on_progress is not None and len(history.scores):
        on_progress(history)
    while len(history.scores) < evaluations:
        archs, asked = searcher.ask(state)
        generation = np.asarray(choices.pack(archs))
        if not len(generation):
            break
        rows = _not_scored(generation, history.archs[told:])[: evaluations - len(history.scores)]
        some = choices.unpack(archs, rows)
        scores = np.asarray(score(some), np.float64)
        scores = scores[:, None] if scores.ndim == 1 else scores
        history = extend(history, some, scores, costs(some))
        if len(history.scores) - told == len(generation):
            state = searcher.tell(asked, archs, history.scores[told:], history.costs[told:])
            told = len(history.scores)
        if state_file is not None:
            saved = Saved(state, history, told)
            distributed.once(functools.partial(write, state_file, saved, identity))
        if on_progress is not None:
            on_progress(history)
    return History(*(column[:evaluations] for column in history))


def _begin(
    searcher: Searcher,
    key: Array,
    file: Path | None,
    identity: Mapping[str, Any],
    known: Known | None,
) -> Saved:
    """The saved search, or a new one; the file is there afterwards."""
    state = searcher.init(key)
    if known is not None:
        state = searcher.tell(state, *known)
    fresh = Saved(state, no_history(0), 0)
    if file is None:
        return fresh
    if files.exists(file):
        return read(file, fresh, identity)
    write(file, fresh, identity)  # to fail now rather than after a generation was scored
    return fresh


def _not_scored(generation: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """What is left of a generation whose first archs a shorter search has scored already."""
    n = len(scored)
    if n and not np.array_equal(generation[:n], scored):
        raise UserError(
            f"the searcher does not ask again for the {n} archs that were scored last; go on with "
            "the settings and the costs that the search began with, or give another state file"
        )
    return generation[n:]
