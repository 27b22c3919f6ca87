"""How much each decision matters: which part it has in the metric's variance.

The total effect of a decision (Homma and Saltelli, "Importance measures in global sensitivity
analysis of nonlinear models", 1996): the share of the variance that is left when all other
decisions are known,

    T_i = E[Var(f | all but i)] / Var(f) = E[(f(a) - f(a'))^2] / (2 Var(f)),

where a' is a with decision i drawn anew (Jansen's estimator, "Analysis of variance designs for
model output", 1999). It is the functional analysis of variance that Hutter et al. (2014, "An
Efficient Approach for Assessing Hyperparameter Importance") use for hyperparameters, and what
permutation importance measures where features are independent.

Those of evaluated subnets are not: a search keeps what is good together. So f is a linear model of
the options (ridge regression, whose weights are what a decision adds *beside the others*), and a is
drawn with independent decisions, each option as often as evaluated subnets have it where it counts.
The trees of that analysis share out what correlated decisions do; what they make of a decoy is in
`tests/experiment/test_importance.py`.

Subnets are cut in halves at random, several times. The two models of a cutting meet in the products
(f_1(a) - f_1(a')) (f_2(a) - f_2(a')), so that noise, which differs between halves, adds nothing on
average: a decision that does nothing comes out near 0, not above it.

Shape letters: `N` subnets, `D` decisions, `F` features, `P` parts, `M` drawn archs, `R` cuttings.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices, notation
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space, normal
from supernet_jax.errors import UserError, one_of
from supernet_jax.experiment import known_records, results
from supernet_jax.experiment.run import Run
from supernet_jax.searching import encoding

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # whose import takes time that a report need not


LEAST = 40  # subnets, without which nothing is said
MOST = 1000  # that a model learns from; of more a random part
EXPLAINED = 0.1  # of the variance of the other half, without which nothing is said
CUTTINGS, DRAWN = 10, 512
MANY = 8  # options of a decision, beyond which few subnets have each
STRENGTHS = np.logspace(-3, 4, 22)  # of the penalty; features are about 0 to 1 in size
BARS = 16  # that are drawn


class Part(NamedTuple):
    """A decision, or several of one name: what they are called, and where they stand."""

    name: str
    decisions: tuple[int, ...]


class Importance(NamedTuple):
    """What decisions explain.

    Attributes:
        parts: single decisions and groups of them.
        shares: of the variance that each part makes, `[R, P]`; about 0 for one that does nothing.
            Those of single decisions sum to about 1, or more where some act only with others.
        explained: of the variance of subnets that a model has not seen, in (0, 1].
        subnets: N.
    """

    parts: tuple[Part, ...]
    shares: np.ndarray
    explained: float
    subnets: int

    def order(self) -> list[int]:
        """Parts by what they explain, most first."""
        return sorted(range(len(self.parts)), key=lambda i: -self.shares[:, i].mean())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws a bar for each of the parts that explain most, with its range over the cuttings.

        Args:
            ax: Matplotlib axes to draw into; without, those of a new figure of `pyplot`.
        """
        if ax is None:
            from matplotlib import pyplot  # which picks a window or a notebook

            ax = pyplot.figure(figsize=(7.0, 4.5), layout="constrained").subplots()
        shown = self.order()[:BARS][::-1]
        mean = 100 * self.shares[:, shown].mean(axis=0)
        low, high = (100 * end(self.shares[:, shown], axis=0) for end in (np.min, np.max))
        single = ["tab:blue" if len(self.parts[i].decisions) == 1 else "tab:gray" for i in shown]
        ax.barh([self.parts[i].name for i in shown], np.maximum(mean, 0), color=single, alpha=0.8)
        ax.hlines(range(len(shown)), low, high, color="0.2", linewidth=1)
        ax.set_xlabel("share of the explained variance, %")
        explained = f"half of them explain {self.explained:.0%} of the variance of the others"
        ax.set_title(f"{self.subnets:,} subnets: {explained}")
        ax.grid(axis="x", alpha=0.3)
        return ax


def importance(run: Run, *, split: str = "held-out") -> Importance:
    """How much each decision of a run's space matters, by the subnets that were evaluated.

    Args:
        run: whose evaluations at its checkpoint count.
        split: "held-out" or "test".

    Raises:
        UserError: too few subnets were evaluated, or nothing can be learnt from them.
    """
    if not isinstance(run, Run):
        raise UserError(f"importance takes an opened run, as sj.open_run(folder), not {run!r}")
    one_of("split", split, ("held-out", "test"))
    records = known_records.read(results.file_of(run), run, split)
    known = [one for one in records if one["loss"] is not None]
    menu, metric = run.space.menu, run.space.task.metric.name
    archs = [notation.from_notation(menu, one["arch"]) for one in known]
    values = np.array([one[metric] for one in known])
    return of_subnets(run.space, choices.stack(archs) if archs else choices.smallest(menu), values)


def of_subnets(space: Space, archs: Arch, values: np.ndarray, *, seed: int = 0) -> Importance:
    """How much each decision matters, by some subnets.

    Args:
        space: whose archs.
        archs: `[N]`, concrete; NumPy.
        values: `[N]`, the metric; what is not finite is left out.
        seed: of the cuttings and of what is drawn.

    Raises:
        UserError: there are too few, all have one value, or nothing can be learnt from them.
    """
    values = np.asarray(values, np.float64)
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) < LEAST:
        raise UserError(
            f"{len(finite)} subnets were evaluated, and importance needs at least {LEAST}; "
            "evaluate more"
        )
    rng = np.random.default_rng(seed)
    chosen = finite if len(finite) <= MOST else np.sort(rng.choice(finite, MOST, replace=False))
    values = values[chosen]
    if np.ptp(values) == 0:
        raise UserError(f"all {len(chosen)} subnets score the same, so no decision explains more")
    archs = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], normal(space, archs))
    encode, found = _encoder(space), parts(space)
    halves = [np.array_split(rng.permutation(len(values)), 2) for _ in range(CUTTINGS)]
    features, centred = encode(archs), values - values.mean()
    weights = np.array([[_ridge(features[own], centred[own]) for own in two] for two in halves])
    explained = np.mean(
        [
            _explained(features[other] @ w[:-1] + w[-1], centred[other])
            for two, models in zip(halves, weights, strict=True)
            for w, other in zip(models, two[::-1], strict=True)
        ]
    )
    if explained < EXPLAINED:
        raise UserError(
            f"what half of the {len(values)} subnets tell explains {max(explained, 0):.0%} of the "
            "variance of the other half: no decision stands out from noise; evaluate more"
        )
    shares = _shares(space, archs, encode, found, weights[:, :, :-1], rng)
    return Importance(found, shares, float(explained), len(values))


def parts(space: Space) -> tuple[Part, ...]:
    """Decisions of more than one option, and before them those of one name together."""
    paths = choices.paths(space.menu)
    open_ = [i for i, choice in enumerate(jax.tree.leaves(space.menu)) if len(choice) > 1]
    named: dict[str, list[int]] = {}
    for i in open_:
        named.setdefault(str(paths[i][0]), []).append(i)
    groups = [
        Part(f"{name}, all {len(places)}", tuple(places))
        for name, places in named.items()
        if 1 < len(places) < len(open_)
    ]
    return (*groups, *(Part("/".join(map(str, paths[i])), (i,)) for i in open_))


def _encoder(space: Space) -> encoding.Encode:
    """Features of archs: a column for each option, and one more for each decision of many options:
    how far along it an option stands. What no subnet has then still lies between its neighbours.
    """
    encode = encoding.encoder(space)
    many = [len(choice) if len(choice) > MANY else 0 for choice in jax.tree.leaves(space.menu)]

    def encoded(archs: Arch) -> np.ndarray:
        rows = np.asarray(choices.pack(archs), np.float32)
        along = [rows[:, i] / (count - 1) for i, count in enumerate(many) if count]
        return np.concatenate([encode(archs), *(column[:, None] for column in along)], axis=1)

    return encoded


def _ridge(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights and constant of a ridge regression, `[F + 1]`.

    The penalty is the one with the least leave-one-out error. It is that of
    `predictors.ridge` by an eigenvalue problem of F instead of N: there are 20 fits to make, of
    which scikit-learn takes 0.6 s each with 500 subnets.
    """
    means = features.mean(axis=0, dtype=np.float64)
    x, y = features - means, values - values.mean()
    lengths, directions = np.linalg.eigh(x.T @ x)
    scores, fitted = x @ directions, directions.T @ (x.T @ y)
    best = (np.inf, np.zeros(x.shape[1]))
    for strength in STRENGTHS:
        shrunk = 1 / (np.maximum(lengths, 0) + strength)
        left = (scores**2) @ shrunk + 1 / len(y)  # of each subnet, what it says of itself
        error = np.mean(((y - scores @ (shrunk * fitted)) / np.maximum(1 - left, 1e-9)) ** 2)
        if error < best[0]:
            best = (error, directions @ (shrunk * fitted))
    return np.append(best[1], values.mean() - means @ best[1])


def _explained(predicted: np.ndarray, values: np.ndarray) -> float:
    spread = np.var(values)
    return 0.0 if spread == 0 else 1 - float(np.mean((predicted - values) ** 2) / spread)


def _shares(
    space: Space,
    archs: Arch,
    encode: encoding.Encode,
    found: Sequence[Part],
    weights: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Total effects of parts, `[R, P]`.

    Args:
        space: whose archs.
        archs: `[N]`, in their normal form.
        encode: archs to features.
        found: the parts.
        weights: of two models for each cutting, `[R, 2, F]`.
        rng: draws archs.
    """
    rows = rng.permutation(np.asarray(choices.pack(archs)))[:DRAWN]
    plain = encoding.encoder(space)
    where = [counts(space, rows, i, plain) for i in range(rows.shape[1])]
    seen = [rows[own, i] if own.any() else rows[:, i] for i, own in enumerate(where)]
    first, second = (
        np.stack([rng.choice(column, DRAWN) for column in seen], axis=-1) for _ in range(2)
    )

    def told(drawn: np.ndarray) -> np.ndarray:
        """What all models say of archs, `[R, 2, M]`."""
        return weights @ encode(choices.unpack(space.menu, drawn)).T

    base, other = told(first), told(second)
    whole = np.mean(np.prod(base - other, axis=1), axis=-1) / 2  # of all decisions: the variance
    effects = []
    for part in found:
        drawn = first.copy()
        drawn[:, part.decisions] = second[:, part.decisions]
        effects.append(np.mean(np.prod(base - told(drawn), axis=1), axis=-1) / 2)
    return np.stack(effects, axis=-1) / np.maximum(whole, 1e-300)[:, None]


def counts(space: Space, rows: np.ndarray, place: int, encode: encoding.Encode) -> np.ndarray:
    """Where a decision changes anything of a network: bool `[N]`.

    Args:
        space: whose archs.
        rows: their options, int `[N, D]`.
        place: of the decision.
        encode: archs to features.
    """
    ends = []
    for option in (0, len(jax.tree.leaves(space.menu)[place]) - 1):
        changed = rows.copy()
        changed[:, place] = option
        ends.append(encode(choices.unpack(space.menu, changed)))
    return np.any(ends[0] != ends[1], axis=1)
