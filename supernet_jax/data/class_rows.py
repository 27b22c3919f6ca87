"""Which output of weights from elsewhere is which class."""

import re
from collections.abc import Mapping, Sequence

from supernet_jax.errors import UserError


def rows(names: Sequence[str], order: str | None, data: str) -> list[int]:
    """Which output of weights that know classes by place alone each class is.

    Args:
        names: of our classes, by label.
        order: "text" or "number", as the classes of the weights were sorted; None takes our order.
        data: name of the dataset, for messages.

    Raises:
        UserError: names sort as text or by their numbers, one of which is how they come, and nobody
            said which the weights know.
    """
    orders = {"text": sorted(names), "number": sorted(names, key=_by_number)}
    if order is not None:
        return [orders[order].index(name) for name in names]
    if orders["text"] != orders["number"] and list(names) in orders.values():
        shown = {name: _from_first_difference(order, orders) for name, order in orders.items()}
        raise UserError(
            f"the classes of {data} are numbered, and the weights know them by their places alone; "
            f"say how they were sorted: --class-order text ({shown['text']}; as this library and "
            f"PyTorch's ImageFolder do) or --class-order number ({shown['number']})"
        )
    return list(range(len(names)))


def matched(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """Which of their outputs each of our classes is, by name; None where the names are others."""
    if sorted(theirs) != sorted(ours):
        return None
    if list(theirs) == list(ours):  # a name that stands there twice is in its place, too
        return list(range(len(ours)))
    return [list(theirs).index(name) for name in ours]


def first_difference(there: Sequence[str], here: Sequence[str]) -> str:
    """Where two lists of classes of one length differ first, in words; or nothing."""
    pairs = [(a, b) for a, b in zip(there, here, strict=False) if a != b]
    if len(there) != len(here) or not pairs:
        return ""
    same = ", the same in another order" if sorted(there) == sorted(here) else ""
    return f"{same} ({pairs[0][0]} there is {pairs[0][1]} here)"


def _by_number(name: str) -> tuple[list[str | int], str]:
    """A key that sorts 2 before 10."""
    parts: list[str | int] = re.split(r"([0-9]+)", name)  # every other one is a number
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _from_first_difference(order: list[str], orders: Mapping[str, list[str]]) -> str:
    text, number = orders.values()
    first = next(i for i, (a, b) in enumerate(zip(text, number, strict=True)) if a != b)
    start = max(0, first - 2)
    return f"{'..., ' * (start > 0)}{', '.join(order[start : first + 2])}, ..."
