"""Long series in as few points as a picture has columns: nothing that sticks out is lost."""

from typing import NamedTuple

import numpy as np

LARGEST = 1e100  # beyond, sums might overflow


class Columns(NamedTuple):
    """A series, brought together column by column.

    Attributes:
        x: float64 `[C]`, ascending, the mean place of what each column holds.
        mean: float64 `[C]`.
        low: float64 `[C]`, the least.
        high: float64 `[C]`, the largest.
        merged: how many distinct places the widest column holds; 1 where nothing was merged.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    merged: int


def columns(x: np.ndarray, y: np.ndarray, *, most: int) -> Columns:
    """Brings values together that share a place, or a column where there are too many places.

    Args:
        x: places, `[N]`, in any order, with repeats.
        y: values, `[N]`; those that are not finite are left out.
        most: columns there may be.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], np.clip(y[kept], -LARGEST, LARGEST)
    if x.size == 0:
        return Columns(x, y, y, y, 1)
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    places = np.unique(x)
    own = np.searchsorted(places, x)
    merged = 1
    if len(places) > most:
        width = (x[-1] - x[0]) / most
        of_place = np.minimum(((places - x[0]) / width).astype(np.int64), most - 1)
        own, merged = of_place[own], int(np.bincount(of_place).max())
    first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    count = np.diff(np.r_[first, len(x)])
    return Columns(
        np.add.reduceat(x, first) / count,
        np.add.reduceat(y, first) / count,
        np.minimum.reduceat(y, first),
        np.maximum.reduceat(y, first),
        merged,
    )
