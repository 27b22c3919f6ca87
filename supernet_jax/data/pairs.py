"""Pairs of sentences, a source and its translation, as bytes: read whole, from a file of lines or
made here.

A side of a pair is its bytes and an end, byte 10, which no line has inside; byte 0 fills it up. An
example is its source, and behind it the target moved by one: first the byte of an end, then all of
the target but its last. Which part a pair belongs to depends on its source and on the seed alone,
so that no sentence is in two parts.

Shape letters: `N` pairs of a part, `L` bytes of a side.
"""

import hashlib
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from supernet_jax.data import text
from supernet_jax.data.images import Images
from supernet_jax.data.splits import random_stream
from supernet_jax.errors import UserError, require
from supernet_jax.storage import files, local_copy
from supernet_jax.storage.paths import expanded, joined

PADDING, END, IGNORED = 0, 10, -1  # as `tasks.translation` and `tasks.language_modelling` have them
LENGTH = 64  # L where nobody says
REVERSAL = "source:reversal"
# The toy: so many words of two letters, sentences of so many of them.
WORDS, SENTENCES, SHORTEST, LONGEST = 100, 20_000, 2, 4
TOY_SEED, TOY = 0, 100  # of its words and sentences: a stream of their own


class Pair(NamedTuple):
    """Two sentences that say the same, without ends."""

    source: bytes
    target: bytes


class Pairs(NamedTuple):
    """What the examples of pairs are made of.

    Attributes:
        vocabulary: number of ids.
        source: ids of a source.
        target: ids of a target.
    """

    vocabulary: int
    source: int
    target: int


class Found(NamedTuple):
    """Pairs by part ("train", "held-out", "test"), and what tells them from others."""

    parts: dict[str, Images]
    digest: str


def is_pairs(name: str) -> bool:
    """Whether a data set of this name is pairs of sentences."""
    return name == REVERSAL or name.partition(":")[0] == "pairs"


def find(name: str, *, data_dir: str | None, held_out: float, seed: int, length: int) -> Found:
    """The pairs of a data set.

    Args:
        name: `pairs:FILE`, a UTF-8 file whose lines are a source, a tab and a target; or
            `source:reversal`, a toy, see `reversal`.
        data_dir: where a relative FILE starts.
        held_out: share of the pairs that are held out of training, in (0, 1).
        seed: of that share.
        length: L, with the end.

    Raises:
        UserError: there is no such file; a line is no pair, or longer than that; a part has none.
    """
    text.check_share(held_out)
    require(length >= 2, f"a side of a pair has {length} bytes with its end; give at least 2")
    if name == REVERSAL:
        lines: Iterator[tuple[int, Pair]] = enumerate(reversal(), 1)
    elif name.startswith("pairs:") and name != "pairs:":
        path = joined(expanded(data_dir or "."), expanded(name.partition(":")[2]))
        lines = _read(local_copy.local(path))
    else:
        raise UserError(f"there are no pairs {name!r}; allowed are {REVERSAL} and pairs:FILE")
    digest = hashlib.sha256()
    parts: dict[str, list[Pair]] = {"train": [], "held-out": [], "test": []}
    for number, pair in lines:
        for side, sentence in zip(Pair._fields, pair, strict=True):
            if len(sentence) >= length:
                raise UserError(
                    f"{name}, line {number:,}: the {side} has {len(sentence):,} bytes and an end, "
                    f"but a side has at most {length}; raise --data.length, or take the line out"
                )
        digest.update(b"%s\t%s\n" % pair)
        parts[text.part_of(pair.source.decode(), held_out, seed)].append(pair)
    for part, own in parts.items():
        require(
            bool(own),
            f"{name} is too few pairs for a split: of {sum(map(len, parts.values())):,} none falls "
            f"into the {part} part; give more of them",
        )
    return Found(
        {part: encoded(own, length) for part, own in parts.items()},
        digest.hexdigest(),
    )


def encoded(pairs: list[Pair], length: int) -> Images:
    """Inputs uint8 `[N, 2 L]` and targets int32 `[N, L]`, `IGNORED` behind the end.

    Args:
        pairs: N of them, each side shorter than the length.
        length: L.
    """
    inputs = np.full((len(pairs), 2, length), PADDING, np.uint8)
    targets = np.full((len(pairs), length), IGNORED, np.int32)
    for row, wanted, (source, target) in zip(inputs, targets, pairs, strict=True):
        row[0, : len(source) + 1] = np.frombuffer(source + b"\n", np.uint8)
        row[1, : len(target) + 1] = np.frombuffer(b"\n" + target, np.uint8)
        wanted[: len(target) + 1] = np.frombuffer(target + b"\n", np.uint8)
    return Images(inputs.reshape(len(pairs), -1), targets)


def _read(path: pathlib.Path) -> Iterator[tuple[int, Pair]]:
    """The pairs of a file, with the numbers of their lines."""
    require(path.is_file(), f"there is no file {path}; give pairs:FILE, lines of SOURCE tab TARGET")
    number = 0
    try:
        with open(path, "rb") as file:
            for line in file:
                number += 1
                yield number, _pair(line.removesuffix(b"\n").removesuffix(b"\r"), path, number)
    except OSError as error:
        raise files.unreadable(path, error) from error
    require(number > 0, f"{path} is empty; write a line of SOURCE tab TARGET for each pair")


def _pair(line: bytes, path: pathlib.Path, number: int) -> Pair:
    where = f"{path}, line {number:,}"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 text: its byte {error.start:,} is wrong; convert the file"
        ) from None
    sides = line.split(b"\t")
    if len(sides) != 2:
        raise UserError(
            f"{where} has {len(sides) - 1} tabs, but must have one, between a source and its "
            "target; of two files `paste SOURCES TARGETS` makes one"
        )
    for side, sentence in zip(Pair._fields, sides, strict=True):
        require(bool(sentence.strip()), f"{where}: its {side} is empty; take the line out")
        require(
            PADDING not in sentence,
            f"{where}: its {side} has a byte 0, which stands for nothing in text; take it out",
        )
    return Pair(*sides)


def reversal() -> Iterator[Pair]:
    """A toy: sentences of two to four words, whose translation has the translation of each word, in
    the opposite order. So who knows the words and counts places makes no mistake.
    """
    rng = random_stream(TOY_SEED, TOY)
    letters = "abcdefghijklmnop"
    every = ["".join(word) for word in itertools.product(letters, letters)]
    own, foreign = (rng.permutation(every)[:WORDS].tolist() for _ in range(2))
    seen: set[tuple[int, ...]] = set()
    while True:
        counts = rng.integers(SHORTEST, LONGEST + 1, SENTENCES).tolist()
        drawn = rng.integers(0, WORDS, (SENTENCES, LONGEST)).tolist()
        for count, row in zip(counts, drawn, strict=True):
            words = tuple(row[:count])
            if words in seen:
                continue
            source = " ".join(own[word] for word in words)
            target = " ".join(foreign[word] for word in reversed(words))
            yield Pair(source.encode(), target.encode())
            seen.add(words)
            if len(seen) == SENTENCES:
                return
