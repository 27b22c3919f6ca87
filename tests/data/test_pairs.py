"""Pairs of sentences: their ids, their parts, and what is said of lines that will not do."""

import pathlib

import numpy as np
import pytest

from supernet_jax import data
from supernet_jax.data import pairs
from supernet_jax.errors import UserError
from supernet_jax.tasks import language_modelling, translation

HOW = {"held_out": 0.3, "seed": 0, "length": 10}


def file_of(place: pathlib.Path, content: bytes) -> str:
    (place / "pairs.tsv").write_bytes(content)
    return f"pairs:{place / 'pairs.tsv'}"


def some(count: int = 60) -> bytes:
    return "".join(f"é {i}\tno {i}\n" for i in range(count)).encode()


def lines(part: data.Images) -> set[tuple[bytes, bytes]]:
    """The pairs of a part, read back from what a network would see."""
    found = set()
    inputs, targets = part.images[:], part.labels[:]
    for row, wanted in zip(inputs, targets, strict=True):
        source, moved = bytes(row[:10]), bytes(row[10:])
        target = bytes(wanted[wanted >= 0].astype(np.uint8))
        assert moved.rstrip(b"\0") == b"\n" + target[:-1] and target.endswith(b"\n")
        found.add((source[: source.index(b"\n")], target[:-1]))
    return found


def test_ids_are_those_of_the_task() -> None:
    assert (pairs.PADDING, pairs.END) == (translation.PADDING, translation.END)
    assert pairs.IGNORED == language_modelling.IGNORED


def test_what_a_pair_becomes() -> None:
    made = pairs.encoded([pairs.Pair(b"ab", b"xyz")], 5)
    assert made.images.tolist() == [[97, 98, 10, 0, 0, 10, 120, 121, 122, 0]]
    assert made.labels.tolist() == [[120, 121, 122, 10, -1]]
    assert made.images.dtype == np.uint8 and made.labels.dtype == np.int32


def test_parts_share_no_sentence_and_later_lines_move_none(tmp_path: pathlib.Path) -> None:
    name = file_of(tmp_path, some() + some(20))  # twenty pairs come twice
    a, b = (data.load(name, **{**HOW, "seed": seed}) for seed in (0, 1))
    assert a.tokens == data.Pairs(256, 10, 10) and a.class_names == ()
    own = [lines(part) for part in (a.train, a.held_out, a.test)]
    assert set.union(*own) == {(f"é {i}".encode(), f"no {i}".encode()) for i in range(60)}
    assert sum(map(len, own)) == 60
    assert sum(len(part.labels) for part in (a.train, a.held_out, a.test)) == 80
    assert lines(a.test) == lines(b.test) and lines(a.held_out) != lines(b.held_out)
    assert a.fingerprint != b.fingerprint
    again = data.load(name, **HOW)
    assert again.fingerprint == a.fingerprint
    np.testing.assert_array_equal(again.held_out.images, a.held_out.images)
    later = data.load(file_of(tmp_path, some(61) + some(20)), **HOW)
    assert later.fingerprint != a.fingerprint
    for part, before in zip((later.train, later.held_out, later.test), own, strict=True):
        assert lines(part) - {("é 60".encode(), b"no 60")} == before


def test_ends_of_lines_of_other_systems(tmp_path: pathlib.Path) -> None:
    plain = data.load(file_of(tmp_path, some()), **HOW)
    other = data.load(file_of(tmp_path, some().replace(b"\n", b"\r\n").rstrip()), **HOW)
    assert other.fingerprint == plain.fingerprint


def test_the_toy_is_a_language() -> None:
    made = list(pairs.reversal())
    assert len({pair.source for pair in made}) == len(made) == pairs.SENTENCES
    known: dict[bytes, bytes] = {}
    for source, target in made:
        for word, meaning in zip(source.split(), reversed(target.split()), strict=True):
            assert known.setdefault(word, meaning) == meaning
    assert len(known) == len(set(known.values())) == pairs.WORDS
    counts = [len(pair.source.split()) for pair in made]
    assert (min(counts), max(counts)) == (pairs.SHORTEST, pairs.LONGEST)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "pairs.tsv is empty; write a line of SOURCE tab TARGET"),
        (b"a\tb\nno tab\n", "line 2 has 0 tabs, but must have one, between a source and its"),
        (b"a\tb\tc\n", "line 1 has 2 tabs"),
        (b"a\tb\n\n", "line 2 has 0 tabs"),
        (b"a\tb\n \tb\n", "line 2: its source is empty; take the line out"),
        (b"a\t\n", "line 1: its target is empty"),
        (b"a\tb\0c\n", "line 1: its target has a byte 0"),
        (b"a\tb\na\xff\tb\n", "line 2 is not UTF-8 text: its byte 1 is wrong"),
        (
            b"a\tb\n" + b"x" * 10 + b"\tb\n",
            "line 2: the source has 10 bytes and an end",
        ),
        (b"a\t" + b"y" * 12 + b"\n", "line 1: the target has 12 bytes and an end"),
        (b"a\tb\n", "too few pairs for a split: of 1 none falls into the"),
    ],
)
def test_files_that_will_not_do(tmp_path: pathlib.Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        data.load(file_of(tmp_path, content), **HOW)
    assert "\n" not in str(error.value) and "pairs.tsv" in str(error.value)


def test_other_mistakes(tmp_path: pathlib.Path) -> None:
    name = file_of(tmp_path, some())
    for given, how, said in (
        (f"pairs:{tmp_path / 'none'}", {}, "there is no file .*none; give pairs:FILE"),
        (f"pairs:{tmp_path}", {}, "there is no file"),
        ("pairs:", {}, "there are no pairs 'pairs:'; allowed are source:reversal and pairs:FILE"),
        (name, {"length": 1}, "has 1 bytes with its end; give at least 2"),
        (name, {"held_out": 5}, "held_out is 5, but text is split by file, and pairs by their"),
        (name, {"seed": -1}, "seed of the held-out split is -1"),
    ):
        with pytest.raises(UserError, match=said) as error:
            data.load(given, **{**HOW, **how})
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="is text, but images are wanted here"):
        data.read(name)
