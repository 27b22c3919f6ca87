"""Names beside the points of a picture, where there is room for them."""

from collections.abc import Sequence

import numpy as np


def apart(x: np.ndarray, y: np.ndarray, widths: Sequence[float], *, height: float) -> list[bool]:
    """Which of some names, written to the right of points, stand clear of all points and names.

    Args:
        x: pixels, `[M]`, of which the first N have names.
        y: pixels, `[M]`.
        widths: of the names, pixels, `[N]`.
        height: of each.

    Returns:
        `[N]`; of two names in each other's way the first is free.
    """
    half = height / 2
    taken = [(a - half, b - half, a + half, b + half) for a, b in zip(x, y, strict=True)]
    free = []
    for a, b, width in zip(x, y, widths, strict=False):
        name = (a + half, b - half, a + half + width, b + half)
        free.append(not any(_overlap(name, other) for other in taken))
        if free[-1]:
            taken.append(name)
    return free


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, low, right, high) have more than an edge in common."""
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]
