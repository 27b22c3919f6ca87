"""A few small networks that vote, trained side by side in one program.

Shape letters: as in `predictor`; `E` members, `H` width, `R` rows with padding, `T` targets.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic.choices import Array
from supernet_jax.errors import at_least, require
from supernet_jax.searching.predictors.predictor import Free, Predictor, checked, folds_of

Params = dict[str, Array]  # of all members: leaves [E, ...]

BATCH, LOOKS = 64, 20  # rows of a step; how often the scores that are left out are looked at
RATE, DECAY = 5e-3, 0.3  # of AdamW; the rate falls along a cosine
HELD = 10  # one of so many free archs is left out of what is learnt
PADDING = 64  # least R; more rows are padded to a power of two, so that few programs are compiled
ROWS = 2048  # archs at a time in a prediction


class _Learnt(NamedTuple):
    params: Params
    centre: float
    unit: float
    error: float  # of the mean, in units
    apart: float  # variance among the members, on average


def ensemble(
    *,
    members: int = 5,
    width: int = 64,
    steps: int = 1000,
    seed: int = 0,
    free: Free | None = None,
) -> Predictor:
    """Networks of two hidden layers, whose mean is the prediction.

    Each member leaves out its own part of the scores, and keeps the weights that predict these
    best. The variance of a prediction is half the squared error of the scores that were left out,
    and half the variance among the members, brought to the same size: the spread is its root.

    With `free`, hidden layers start from those that have learnt the statistics (FBNetV3, arXiv
    2006.02049).

    Args:
        members: E, at least 2.
        width: H.
        steps: of training, and as many before with `free`.
        seed: of weights, parts and batches.
        free: features and statistics of archs without scores.

    Raises:
        UserError: a number is too small, or `free` does not fit together.
    """
    for name, value, low in (("members", members, 2), ("width", width, 1), ("steps", steps, LOOKS)):
        at_least(name, value, low)
    at_least("seed", seed, 0)
    trained = functools.partial(_trained, members=members, width=width, steps=steps, seed=seed)
    start = None if free is None else _pretrained(free, trained)

    def fit(features: np.ndarray, scores: np.ndarray) -> _Learnt:
        if start is not None:
            known = start["first"].shape[1]
            require(
                known == features.shape[1],
                f"there are {features.shape[1]} features of each arch, and {known} of those "
                "without scores; encode both by the same encoder",
            )
        centre, unit = float(scores.mean()), float(scores.std())
        wanted = (scores - centre) / unit
        fold = folds_of(len(scores), members, seed=seed)
        params = trained(features, wanted[:, None], fold, start)
        votes = _votes(params, features.astype(np.float32))
        missed = votes[fold, np.arange(len(scores))] - wanted
        alone, apart = np.mean(missed**2), np.mean(votes.var(axis=0))
        # A member errs by what all do and by what it does alone, which the mean does away with.
        error = float(np.sqrt(max(alone - apart, alone / members)))
        return _Learnt(params, centre, unit, error, max(float(apart), 1e-12))

    def predict(model: _Learnt, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        votes = _votes(model.params, features)
        # Half from all archs, as a variance of few members is not to be relied on by itself.
        spread = model.error * np.sqrt((1 + votes.var(axis=0) / model.apart) / 2)
        return model.centre + model.unit * votes.mean(axis=0), model.unit * spread

    return checked(fit, predict, least=2 * members)


def _pretrained(free: Free, trained: Any) -> Params:
    features, statistics = (np.asarray(x, np.float64) for x in free)
    require(
        features.ndim == statistics.ndim == 2 and len(features) == len(statistics),
        f"free features have the shape {features.shape} and statistics {statistics.shape}; there "
        "must be a row of each for each arch",
    )
    require(
        bool(np.isfinite(features).all() and np.isfinite(statistics).all()),
        "free features and statistics are not all finite; leave out archs that have no statistics",
    )
    telling = statistics[:, np.ptp(statistics, axis=0) > 0] if len(statistics) else statistics
    require(
        len(features) >= 2 * HELD and telling.shape[1] > 0,
        f"free statistics are of {len(features)} archs, and {telling.shape[1]} differ among them; "
        f"give at least {2 * HELD} archs, and one that differs",
    )
    scaled = (telling - telling.mean(axis=0)) / telling.std(axis=0)
    fold = np.zeros(len(scaled), int)
    fold[::HELD] = 1  # left out by all
    return trained(features, scaled, fold, None, same=True)


def _trained(
    features: np.ndarray,
    wanted: np.ndarray,
    fold: np.ndarray,
    start: Params | None,
    *,
    members: int,
    width: int,
    steps: int,
    seed: int,
    same: bool = False,
) -> Params:
    """Trains all members.

    Args:
        features: `[N, F]`.
        wanted: `[N, T]`, about 1 in size.
        fold: `[N]`, of each row the member that leaves it out; with `same`, 1 if all do.
        start: whose hidden layers they start from.
        members: as in `ensemble`.
        width: as there.
        steps: as there.
        seed: as there.
        same: whether all leave out the same rows.
    """
    count = len(features)
    size = max(PADDING, 1 << (count - 1).bit_length())
    rows = np.pad(features, ((0, size - count), (0, 0))).astype(np.float32)
    targets = np.pad(wanted, ((0, size - count), (0, 0))).astype(np.float32)
    left = np.stack([fold == (1 if same else i) for i in range(members)])
    # Each member's own rows over and over: a uniform draw of R is one of these.
    own = np.stack([np.resize(np.flatnonzero(~part), size) for part in left]).astype(np.int32)
    weights = np.pad(left, ((0, 0), (0, size - count))).astype(np.float32)
    key = jax.random.key(seed)
    first = _begin(key, members, features.shape[1], width, wanted.shape[1])
    if start is not None:
        first |= {name: leaf for name, leaf in start.items() if name not in ("last", "constant")}
    return _train(first, rows, targets, own, weights, jax.random.fold_in(key, 1), steps=steps)


def _begin(key: Array, members: int, inputs: int, width: int, targets: int) -> Params:
    a, b, c = jax.random.split(key, 3)
    normal = lambda key, n, m: jax.random.normal(key, (members, n, m)) / np.sqrt(n)  # noqa: E731
    return {
        "first": normal(a, inputs, width) * np.sqrt(2),
        "first_bias": jnp.zeros((members, width)),
        "second": normal(b, width, width) * np.sqrt(2),
        "second_bias": jnp.zeros((members, width)),
        "last": 0.1 * normal(c, width, targets),
        "constant": jnp.zeros((members, targets)),
    }


def _forward(params: Params, x: Array) -> Array:
    """One member: `[R, F] -> [R, T]`."""
    x = jax.nn.silu(x @ params["first"] + params["first_bias"][None])
    x = jax.nn.silu(x @ params["second"] + params["second_bias"][None])
    return x @ params["last"] + params["constant"][None]


@functools.partial(jax.jit, static_argnames="steps")
def _train(
    params: Params,
    rows: Array,
    targets: Array,
    own: Array,
    left: Array,
    key: Array,
    *,
    steps: int,
) -> Params:
    """The weights of each member that predict best what it leaves out.

    Args:
        params: leaves `[E, ...]`.
        rows: `[R, F]`.
        targets: `[R, T]`.
        own: of each member, which rows it learns from: int `[E, R]`.
        left: of each member, 1 for rows that it leaves out, else 0: `[E, R]`.
        key: of the batches.
        steps: how many.
    """
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=DECAY)

    def error(params: Params, at: Array) -> Array:
        return jnp.mean((_forward(params, rows[at]) - targets[at]) ** 2)

    def member(params: Params, own: Array, left: Array, key: Array) -> Params:
        def step(carry: Any, i: Array) -> tuple[Any, None]:
            params, state = carry
            at = own[jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, len(own))]
            updates, state = optimizer.update(jax.grad(error)(params, at), state, params)
            return (optax.apply_updates(params, updates), state), None

        def look(carry: Any, i: Array) -> tuple[Any, None]:
            now, best, least = carry
            some = steps // LOOKS
            now, _ = jax.lax.scan(step, now, i * some + jnp.arange(some))
            missed = jnp.mean((_forward(now[0], rows) - targets) ** 2, axis=1)
            loss = jnp.sum(left * missed)
            best = jax.tree.map(lambda new, old: jnp.where(loss < least, new, old), now[0], best)
            return (now, best, jnp.minimum(loss, least)), None

        begun = ((params, optimizer.init(params)), params, jnp.float32(jnp.inf))
        return jax.lax.scan(look, begun, jnp.arange(LOOKS))[0][1]

    return jax.vmap(member)(params, own, left, jax.random.split(key, len(own)))


def _votes(params: Params, features: np.ndarray) -> np.ndarray:
    """What each member says: `[E, M]`, float64."""
    size = min(ROWS, max(PADDING, 1 << (len(features) - 1).bit_length()))
    found = []
    for start in range(0, len(features), size):
        some = features[start : start + size]
        found.append(_vote(params, np.pad(some, ((0, size - len(some)), (0, 0))))[:, : len(some)])
    return np.concatenate([np.asarray(part, np.float64) for part in found], axis=1)


@jax.jit
def _vote(params: Params, rows: Array) -> Array:
    return jax.vmap(_forward, (0, None))(params, rows)[..., 0]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Small networks that vote: each arch has its own spread; they can learn what is free first."""

    members: int = 5
    """networks; more cost as much more time, and make the spread surer"""
    width: int = 64
    """of two hidden layers; larger ones take longer"""
    steps: int = 1000
    """of training; more take longer"""
    seed: int = 0
    """of weights, batches, and the scores that each member leaves out"""

    def build(self, *, free: Free | None = None) -> Predictor:
        """The predictor, which learns what is free at once."""
        return ensemble(
            members=self.members, width=self.width, steps=self.steps, seed=self.seed, free=free
        )
