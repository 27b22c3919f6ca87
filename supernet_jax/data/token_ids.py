"""Sequences of tokens with labels, from a file of ids: `ids:FILE.npz`.

Shape letters: `N` sequences of a part, `T` tokens of each.
"""

import numpy as np

from supernet_jax.data import sources
from supernet_jax.data.images import Images
from supernet_jax.errors import UserError

LARGEST = 2**31 - 1  # id, as an int32 holds it


def find(name: str, *, data_dir: str | None) -> tuple[Images, Images, tuple[str, ...]]:
    """Training and test sequences, int32 `[N, T]`, with labels `[N]`, and the names of the classes.

    Args:
        name: `ids:PATH` of a npz file with x_train `[N, T]` and y_train `[N]`, x_test and y_test of
            whole numbers, and class_names if wanted.
        data_dir: where a relative PATH starts.

    Raises:
        UserError: no such file; ids or labels that are no whole numbers, or out of range; parts of
            different lengths; classes without a training sequence, or one class alone.
    """
    _, _, path = name.partition(":")
    if not path:
        raise UserError(f"{name} names no file; give ids:FILE.npz")
    found = sources.find(f"npz:{path}", data_dir=data_dir)
    classes = found.class_names
    train, test = (
        _checked(part, f"{name}, {which}", classes=len(classes))
        for which, part in zip(("train", "test"), found.arrays, strict=True)
    )
    if len(classes) < 2:
        raise UserError(
            f"{name} has {len(classes)} class, with which every answer would be right; add "
            "sequences of another class"
        )
    lengths = train.images.shape[1], test.images.shape[1]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"{name}: training sequences have {lengths[0]} tokens and test sequences {lengths[1]}; "
            "they must have as many: cut them, or fill them up"
        )
    absent = np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0)
    if absent.size:
        raise UserError(
            f"{name}: class {classes[absent[0]]!r} (label {absent[0]}) has no training sequence; "
            "every class needs one: add some, or number the labels without gaps"
        )
    return train, test, classes


def vocabulary(*parts: Images) -> int:
    """Number of ids: one more than the largest."""
    return 1 + max(int(np.max(part.images[:])) for part in parts)


def _checked(part: Images, where: str, *, classes: int) -> Images:
    ids, labels = (np.asarray(array) for array in part)
    if ids.dtype.kind not in "iu" or ids.ndim != 2 or 0 in ids.shape:
        raise UserError(
            f"{where}: ids are {ids.dtype} {list(ids.shape)}; they must be whole numbers [N, T] "
            "and not empty, each row a sequence: convert them"
        )
    if labels.dtype.kind not in "iu" or labels.shape != ids.shape[:1]:
        raise UserError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)} for {len(ids)} sequences; "
            f"they must be whole numbers [{len(ids)}]: convert them"
        )
    for what, array, end in (("id", ids, LARGEST), ("label", labels, classes - 1)):
        bad = np.flatnonzero(((array < 0) | (array > end)).reshape(len(ids), -1).any(1))
        if bad.size:
            raise UserError(
                f"{where}: sequence {bad[0]} has a wrong {what} ({bad.size} such); allowed are 0 "
                f"to {end}: correct it"
            )
    return Images(ids.astype(np.int32), labels.astype(np.int32))
