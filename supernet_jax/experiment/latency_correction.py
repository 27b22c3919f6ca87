"""A latency table's sums, corrected by what some whole networks took.

Blocks are timed by themselves; in a network the compiler fuses them with their neighbours, and they
find caches warm or cold. What that does is much the same for blocks that are alike. So every kind
of block gets a factor, which is a sum over what kinds share: their module, each of its sizes, the
shapes of their inputs, and the kind itself. A ridge regression finds the addends from the relative
errors of the sums; kinds that no measured network had are corrected by what they share with others.

The corrected table is still a table: its milliseconds are sums over blocks. A function of whole
archs could know what blocks do to each other, too, but searches that need sums could not use it.

Shape letters: `N` networks, `K` kinds of block, `G` groups of kinds, `R` rank.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are used: they take time at each start

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.evaluation import costs, latency_table
from supernet_jax.evaluation.latency_table import Agreement, Calibration, Correction, Table
from supernet_jax.networks import timing
from supernet_jax.searching.predictors import predictor
from supernet_jax.tasks import Size

FOLDS = 10
LEAST = 1e-3  # by which an error must become smaller, of what was measured: less is no help
FACTORS = (0.25, 4.0)  # the smallest and the largest factor of a kind
STRENGTHS = np.append(np.logspace(-6, 4, 41), np.inf)  # of the penalty; infinite leaves no factor


class _Line(NamedTuple):
    factors: np.ndarray  # [K]
    constant: float
    scale: float


def learn(
    space: Space,
    table: Table,
    archs: Sequence[Arch],
    sizes: Sequence[Size],
) -> Table:
    """The table with a correction, applied as far as it helps networks it was not learnt from.

    A new constant and scale, and then factors of the kinds, are each taken only if they make the
    errors of the networks smaller, by more than `LEAST` and than the standard error of that.

    Args:
        space: whose archs.
        table: calibrated, with timings of all networks.
        archs: to learn from, measured in turn. Only they are: what was measured at another time may
            differ by what else the machine did then.
        sizes: of the archs.
    """
    assert table.calibration is not None
    stacked, names = choices.stack(archs), [timing.notation(space, arch) for arch in archs]
    counts = latency_table.counts(space, stacked, sizes)
    kinds = list(table.kinds)
    alone = np.asarray([table.kinds[kind].ms for kind in kinds])
    none = np.zeros(len(archs), np.int64)
    parts = alone * np.stack([counts.get(kind, none) for kind in kinds], axis=1)  # [N, K]
    times = np.asarray([table.networks[name].ms for name in names])
    shared = groups(kinds)
    before = np.asarray(costs.latency(space, table, sizes=sizes)(stacked))
    rescaled, corrected = np.zeros_like(times), np.zeros_like(times)
    fold = predictor.folds_of(len(times), min(FOLDS, len(times)), seed=0)
    for i in range(fold.max() + 1):
        rest, own = fold != i, fold == i
        constant, scale = timing.fit(parts[rest].sum(1), times[rest])
        rescaled[own] = constant + scale * parts[own].sum(1)
        line = _fit(parts[rest], shared, times[rest])
        corrected[own] = line.constant + line.scale * (parts[own] @ line.factors)
    found = {"before": before, "rescaled": rescaled, "corrected": corrected}
    errors = {name: np.abs(ms - times) / times for name, ms in found.items()}
    applied = "before"
    for name in ("rescaled", "corrected"):
        applied = name if _helps(errors[applied], errors[name]) else applied
    factors = _fit(parts, shared, times).factors if applied == "corrected" else np.ones(len(kinds))
    factors = np.round(factors, 6)
    timings = [table.networks[name] for name in names]
    correction = Correction(
        learnt_on=tuple(names),
        earlier=table.calibration,
        **{name: agreement(ms, times) for name, ms in found.items()},
        applied=applied,  # type: ignore[arg-type]
        factors={kind: float(f) for kind, f in zip(kinds, factors, strict=True) if f != 1},
        spread=statistics.median((t.high - t.low) / t.ms for t in timings),
    )
    known = table.calibration
    if applied != "before":
        constant, scale = timing.fit(parts @ factors, times)
        plain = np.abs(parts.sum(1) - times) / times
        known = Calibration(
            constant=round(constant, 6),
            scale=round(scale, 6),
            resolutions=table.calibration.resolutions,
            fitted_on=len(times),
            checked_on=len(times),
            median_error=float(np.median(errors[applied])),
            largest_error=float(np.max(errors[applied])),
            plain_median_error=float(np.median(plain)),
            plain_largest_error=float(np.max(plain)),
            spearman=timing.correlation(scipy.stats.spearmanr, found[applied], times),
            kendall=timing.correlation(scipy.stats.kendalltau, found[applied], times),
            spread=correction.spread,
        )
    return dataclasses.replace(table, correction=correction, calibration=known)


def groups(kinds: Sequence[str]) -> np.ndarray:
    """Which kinds share what, `[K, G]`, 0 or 1."""
    members: dict[str, list[int]] = {}
    for place, kind in enumerate(kinds):
        module, _, rest = kind.partition("(")
        sizes, _, inputs = rest.rpartition(") on ")
        shared = [module, f"{module} on {inputs}", kind]
        for name in {*shared, *(f"{module}({size})" for size in sizes.split(", "))}:
            members.setdefault(name, []).append(place)
    found = np.zeros((len(kinds), len(members)))
    for column, places in enumerate(members.values()):
        found[places, column] = 1
    return found


def _fit(parts: np.ndarray, shared: np.ndarray, times: np.ndarray) -> _Line:
    """Factors of kinds by ridge regression, then a constant and a scale, least relative squares.

    The strength of the penalty is the one with the least squared error when each network is
    predicted by all others, in closed form. The constant and the scale have no penalty.

    Args:
        parts: milliseconds of the blocks of each kind, `[N, K]`.
        shared: see `groups`, `[K, G]`.
        times: milliseconds of the networks, `[N]`.
    """
    sums, ones = parts.sum(axis=1), np.ones(len(times))
    line = np.stack([ones, sums], axis=1) / times[:, None]
    free, _ = np.linalg.qr(line)  # what a constant and a scale explain
    shares = parts @ shared / times[:, None]
    rest = ones - free @ (free.T @ ones)
    left, sizes, right = np.linalg.svd(shares - free @ (free.T @ shares), full_matrices=False)
    kept = sizes > 1e-9 * sizes.max(initial=0.0)
    left, sizes, right = left[:, kept], sizes[kept], right[kept]
    along = left.T @ rest  # [R]
    best, weights = np.inf, np.zeros(shared.shape[1])
    for strength in STRENGTHS[::-1]:  # of equals the strongest
        shrunk = sizes**2 / (sizes**2 + strength)
        known = np.square(free).sum(1) + np.square(left) @ shrunk  # [N]: how far each fits itself
        errors = (rest - left @ (shrunk * along)) / np.maximum(1 - known, 1e-9)
        if (error := float(np.square(errors).mean())) < best:
            best, weights = error, right.T @ (sizes / (sizes**2 + strength) * along)
    scale = np.linalg.lstsq(line, ones - shares @ weights, rcond=None)[0][1]
    factors = np.ones(len(shared))
    if scale > 0:  # else noise is all there is
        factors = np.clip(1 + shared @ weights / scale, *FACTORS)
    return _Line(factors, *timing.fit(parts @ factors, times))


def _helps(old: np.ndarray, new: np.ndarray) -> bool:
    """Whether errors `[N]` became smaller, beyond what chance would make of it."""
    gain = old - new
    noise = gain.std(ddof=1) / np.sqrt(len(gain))
    return bool(gain.mean() > max(LEAST, noise) and np.median(new) <= np.median(old))


def agreement(found: Any, times: Any) -> Agreement:
    """How milliseconds that are computed agree with measured ones; at least one of each."""
    computed, measured = np.asarray(found), np.asarray(times)
    return Agreement(
        float(np.median(np.abs(computed - measured) / measured)),
        timing.correlation(scipy.stats.kendalltau, computed, measured),
    )
