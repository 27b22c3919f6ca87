"""Sequences of ids with labels: how they are cut in parts, and what is refused."""

import pathlib
from typing import Any

import numpy as np
import pytest

from supernet_jax import data
from supernet_jax.errors import UserError

Arrays = dict[str, np.ndarray]


def arrays(**changed: Any) -> Arrays:
    """30 and 6 sequences of 4 ids below 9, in 3 classes."""
    rng = np.random.default_rng(0)
    found: Arrays = {
        "x_train": rng.integers(0, 9, (30, 4)),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 8, (6, 4)),
        "y_test": np.arange(6) % 3,
    }
    found["x_train"][0, 0] = 8
    return {**found, **{name: np.asarray(value) for name, value in changed.items()}}


def loaded(tmp_path: pathlib.Path, given: Arrays, **how: Any) -> data.Dataset:
    path = tmp_path / "some.npz"
    np.savez(path, **given)  # type: ignore[arg-type]  # its stubs take no dict
    return data.load(f"ids:{path}", **{"held_out": 0.2, "seed": 0, **how})


def test_parts_share_no_sequence(tmp_path: pathlib.Path) -> None:
    given = arrays(class_names=["a", "b", "c"])
    found = loaded(tmp_path, given)
    assert found.tokens == data.Tokens(9, 4) and found.class_names == ("a", "b", "c")
    assert found.train.images.dtype == np.int32 and found.mean == ()
    together = np.concatenate([found.train.images[:], found.held_out.images[:]])
    assert sorted(map(tuple, together)) == sorted(map(tuple, given["x_train"]))
    assert np.bincount(found.held_out.labels).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(found.test.images, given["x_test"])
    assert loaded(tmp_path, given).fingerprint == found.fingerprint
    assert loaded(tmp_path, given, seed=1).fingerprint != found.fingerprint
    assert loaded(tmp_path, arrays(y_test=[1] * 6)).fingerprint != found.fingerprint


LABELS = np.arange(30) % 3
WRONG: dict[str, tuple[Arrays, str]] = {
    "floats": (arrays(x_train=np.zeros((30, 4))), r"ids are float64 \[30, 4\]; .* \[N, T\]"),
    "images": (arrays(x_test=np.zeros((6, 4, 4), int)), r"test: ids are int64 \[6, 4, 4\]"),
    "empty": (arrays(x_test=np.zeros((0, 4), int), y_test=np.zeros(0, int)), r"int64 \[0, 4\]"),
    "negative": (arrays(x_train=np.full((30, 4), -1)), "train: sequence 0 has a wrong id"),
    "huge": (arrays(x_train=np.full((30, 4), 2**40)), "allowed are 0 to 2147483647"),
    "label": (arrays(y_test=[0, 1, 2, 3, 0, 0]), "sequence 3 has a wrong label .* 0 to 2: correct"),
    "few labels": (arrays(y_train=LABELS[1:]), r"labels are int64 \[29\] for 30 sequences"),
    "float labels": (arrays(y_train=LABELS / 2), "labels are float64"),
    "lengths": (arrays(x_test=np.zeros((6, 5), int)), "have 4 tokens and test sequences 5"),
    "one class": (arrays(y_train=LABELS * 0, y_test=[0] * 6), "has 1 class, with which every"),
    "no sequence": (arrays(y_train=LABELS % 2 * 2), r"class '1' \(label 1\) has no training"),
    "no labels": ({"x_train": np.zeros((3, 4), int)}, "has no y_train, x_test, y_test"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_cannot_be(case: str, tmp_path: pathlib.Path) -> None:
    given, said = WRONG[case]
    with pytest.raises(UserError, match=said) as error:
        loaded(tmp_path, given)
    assert "\n" not in str(error.value)


def test_held_out_sequences_and_names(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="28 of 30 training sequences; at most 27 can go"):
        loaded(tmp_path, arrays(), held_out=28)
    for name, said in (("ids:", "names no file"), ("ids:nowhere.npz", "no file .*nowhere.npz")):
        with pytest.raises(UserError, match=said):
            data.load(name, held_out=0.2, seed=0)
    kinds = [data.kind(name) for name in ("ids:a", "text:a", "source:stdlib", "npz:a", "digits")]
    assert kinds == ["ids of tokens", "text", "text", "images", "images"]
