"""What a dataset is, as read and as cut in parts."""

import dataclasses
from typing import NamedTuple

from supernet_jax.data.images import Images
from supernet_jax.data.pairs import Pairs
from supernet_jax.data.speech import Speech


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset cut in three parts that share no example."""

    name: str  # as given to `load`
    train: Images
    held_out: Images  # taken from the training data, to search on; in random order
    test: Images  # for final figures only
    class_names: tuple[str, ...]  # empty for text
    mean: tuple[float, ...]  # C numbers: of the pixels of `train`, in 0..1 (of a sample, if stored)
    std: tuple[float, ...]  # C numbers: the same, at least one grey level (1/255)
    fingerprint: str  # 16 hex digits over pixels (or files), labels, names, split seed
    notes: tuple[str, ...] = ()  # what users should be told before they train on it, a line each
    # Of text, ids and pairs of sentences, or of speech, which have no mean and std.
    tokens: "Tokens | Pairs | None" = None
    speech: Speech | None = None

    @property
    def is_of_images(self) -> bool:
        """Whether its examples are images."""
        return self.tokens is None and self.speech is None


class Tokens(NamedTuple):
    """What examples are made of that are sequences.

    Attributes:
        vocabulary: number of ids.
        length: ids of an example.
    """

    vocabulary: int
    length: int


class Source(NamedTuple):
    """A dataset as read, before its training data is split."""

    train: Images
    test: Images
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what users should be told of it, a line each
