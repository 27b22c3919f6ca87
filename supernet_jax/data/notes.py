"""Warnings about images before somebody trains on them, a line for each kind."""

import collections
from collections.abc import Sequence

import numpy as np

from supernet_jax.data.decode import LARGE, How, Odd
from supernet_jax.errors import UserError

FEW = 10  # training images of a class, below which it is named
NAMED = 4


def check_classes(name: str, class_names: Sequence[str]) -> None:
    """Refuses a task without a choice, and class names that no file can hold.

    Raises:
        UserError: there is one class alone, or a name is not UTF-8.
    """
    if len(class_names) < 2:
        raise UserError(
            f"{name} has {len(class_names)} class ({', '.join(class_names)}), with which every "
            "answer would be right; add images of another class"
        )
    for class_name in class_names:
        try:
            class_name.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{name}: the class name {class_name!r} is not UTF-8, which no format of networks "
                "can hold; rename the class"
            ) from None


def odd(name: str, seen: Sequence[Odd], looked_at: int, total: int, how: How) -> list[str]:
    """A line for each kind of oddity that is not dealt with.

    Args:
        name: of the dataset.
        seen: what was odd, once for each image.
        looked_at: how many images were looked at.
        total: how many there are.
        how: they are decoded.
    """
    counts = collections.Counter(seen)
    of = f"of {total} images of {name}"
    if looked_at < total:
        of = f"of {looked_at} images looked at, of {total} of {name},"
    notes = []
    if counts["rotated"] and not how.upright:
        notes.append(
            f"{counts['rotated']} {of} note a rotation (EXIF), which is not applied; "
            "--data.upright True turns them"
        )
    if counts["transparent"] and how.background == "none":
        have = "may be" if looked_at < total else "are"
        notes.append(
            f"{counts['transparent']} {of} {have} transparent in places, where the colours that "
            "this hides are taken; --data.background white (or black, grey) puts one colour there"
        )
    if counts["large"]:
        notes.append(
            f"{counts['large']} {of} have more than {LARGE:,} pixels and take hundreds of MB each "
            "while they are decoded; smaller copies are decoded faster"
        )
    return notes


def thin(
    name: str, class_names: Sequence[str], train: np.ndarray, held_out: np.ndarray, test: np.ndarray
) -> list[str]:
    """A line where classes have so few images that figures say little, or nothing, about them.

    Args:
        name: of the dataset.
        class_names: by label.
        train: int [N], the labels of the training images.
        held_out: int [N], of those held out of them.
        test: int [N], of the test images.
    """
    counts = np.bincount(train, minlength=len(class_names))
    few = np.flatnonzero(counts < FEW)
    parts = []
    if few.size:
        shown = ", ".join(f"{class_names[i]} {counts[i]}" for i in few[:NAMED])
        more = ", ..." if few.size > NAMED else ""
        parts.append(f"{few.size} have fewer than {FEW} training images ({shown}{more})")
    for part, labels in (("held-out", held_out), ("test", test)):
        missing = len(class_names) - len(np.unique(labels))
        if missing:
            parts.append(f"{missing} have none of the {len(labels)} {part} images")
    if not parts:
        return []
    return [
        f"{name} is thin: of {len(class_names)} classes {', '.join(parts)}; accuracies say little "
        "about such classes: add images of them"
    ]
