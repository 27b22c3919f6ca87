"""Axes: from values to pixels, with round numbers at the ticks.

They are those of `svg_plot`, which says why Matplotlib does not draw the charts. A report needs
nothing else of it, and importing its tickers alone takes 0.4 s.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

MANTISSAS = (1.0, 2.0, 2.5, 5.0, 10.0)  # ticks are these times powers of ten
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
LOG_FROM = 20.0  # ratio of largest to smallest from which a logarithmic axis shows more
MOST = 1e100  # values beyond, or below its inverse on a logarithmic axis, are drawn at the end


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: value at `start`; above 0 where `log`.
        high: value at `stop`, above `low`.
        start: pixel.
        stop: pixel; smaller than `start` where the axis runs upwards.
        log: whether the axis is logarithmic.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, values: np.ndarray | float) -> np.ndarray:
        """Pixels of some values; those beyond the ends are put on them."""
        x = np.clip(np.asarray(values, np.float64), self.low, self.high)
        low, high = self.low, self.high
        if self.log:
            x, low, high = np.log(x), math.log(low), math.log(high)
        return self.start + (x - low) / (high - low) * (self.stop - self.start)


def fit(
    values: np.ndarray, start: float, stop: float, *, log: bool = False, pad: float = 0.04
) -> Scale:
    """The axis on which some values lie.

    Args:
        values: any shape; those that are not finite, or not above 0 where `log`, do not count.
        start: pixel of the low end.
        stop: pixel of the high end.
        log: whether it is to be logarithmic; it is not where nothing is above 0.
        pad: room at either end, as a share of the range; with 0 the ends are the range.
    """
    x = np.asarray(values, np.float64).ravel()
    x = np.clip(x[np.isfinite(x)], -MOST, MOST)
    if log:
        x = x[x >= 1 / MOST]
    if x.size == 0:
        return Scale(0.0, 1.0, start, stop)
    low, high = float(x.min()), float(x.max())
    if log:
        room = max((high / low) ** pad, 1.0 if pad == 0 and high > low else 1.05)
        return Scale(low / room, high * room, start, stop, log=True)
    room = pad * (high - low) if high > low else 0.05 * abs(high) or 0.5
    return Scale(low - room, high + room, start, stop)


def wants_log(values: np.ndarray) -> bool:
    """Whether all finite values are above 0 and spread so far that a linear axis hides the low."""
    x = np.asarray(values, np.float64).ravel()
    x = x[np.isfinite(x)]
    return bool(x.size and x.min() > 0 and x.max() / x.min() >= LOG_FROM)


def ticks(scale: Scale, *, about: int = 5) -> list[float]:
    """Round values on the axis, ascending, roughly so many."""
    if scale.log:
        found = _log_ticks(scale, about)
        if len(found) >= 2:
            return found
    step = _step((scale.high - scale.low) / max(about, 1))
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def labelled(scale: Scale, *, about: int = 5) -> list[tuple[float, str]]:
    """The ticks, roughly so many, with their labels, which differ."""
    values = ticks(scale, about=about)
    return list(zip(values, told_apart(values), strict=True))


def told_apart(values: Sequence[float]) -> list[str]:
    """Distinct numbers with as many digits as make their texts differ, if 17 do."""
    for digits in (4, 6, 9, 17):
        labels = [short(value, digits=digits) for value in values]
        if len(set(labels)) == len(labels):
            break
    return labels


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in MANTISSAS if m * power >= rough * 0.999)


def _log_ticks(scale: Scale, about: int) -> list[float]:
    low, high = math.log10(scale.low), math.log10(scale.high)
    decades = high - low
    mantissas = (1, 2, 5) if decades < 2.5 else (1, 3) if decades < 4 else (1,)
    every = max(1, math.ceil(decades / (about + 2)))
    powers = range(math.floor(low), math.floor(high) + 1)
    every_nth = [m * 10.0**p for p in powers if p % every == 0 for m in mantissas]
    return [x for x in every_nth if scale.low <= x <= scale.high]


def short(value: float, *, digits: int = 4) -> str:
    """A number for a tick or a sentence: `12.5 k`, `3 M`, `0.05`, `1e-06`."""
    if not math.isfinite(value):
        return "not finite"
    for size, prefix in PREFIXES:
        if abs(value) >= size and (size > 1e3 or abs(value) >= 1e4):
            return f"{value / size:.{digits}g} {prefix}" if abs(value) < 1e16 else f"{value:.3g}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.{digits}g}"
