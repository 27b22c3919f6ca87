"""What descriptions have in common for all tasks: fields of `network.json`, parts of cards."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

FORMAT = "supernet_jax network"
WEIGHTS, TENSORS = "weights", "model.safetensors"  # where variables for Flax are
SOURCES = {"orbax": WEIGHTS, "safetensors": TENSORS}  # by the name of the format


@dataclasses.dataclass(frozen=True)
class BlockDescription:
    """A block in `network.json`.

    Attributes:
        name: of its variables.
        type: class of its module.
        spec: fields of its spec.
        spec_type: class of its spec where both are in the user's file; None for the library's own.
    """

    name: str
    type: str
    spec: dict
    spec_type: str | None


@dataclasses.dataclass(frozen=True)
class Code:
    """Which file of the user's defines blocks or the topology.

    Attributes:
        file: where it was.
        sha256: of its content.
        forward: name of the topology function in it; None for a chain.
    """

    file: str
    sha256: str
    forward: str | None


@dataclasses.dataclass(frozen=True)
class Topology:
    """A topology of the library's: the name of its class, and its fields."""

    type: str
    fields: dict


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How many batches of how many training examples the statistics were calibrated on; 0 of 0 for
    a network that has none.
    """

    batches: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Proof:
    """Largest difference of logits from the supernet's, relative to the largest logit, on so many
    examples.
    """

    difference: float
    images: int


@dataclasses.dataclass(frozen=True)
class Exported:
    """One format of a network, loaded from its files by its own runtime and compared.

    Attributes:
        difference: largest one of a logit from the Flax network's, relative to the largest logit.
        images: on how many examples.
        size: height and width of images that are fed; of anything else nothing.
        pixels: whether that is uint8, normalised by the network itself.
        files: SHA-256 of each; what holds variables for Flax is covered by the network's own.
    """

    difference: float
    images: int
    size: tuple[int, ...]
    pixels: bool
    files: dict[str, str]


class Place(NamedTuple):
    """Where the snippets of a card find a network.

    Attributes:
        folder: of its files, for programs of other libraries.
        address: from which this library loads it.
        fetch: the command that makes the folder; "" where it is there.
    """

    folder: str
    address: str
    fetch: str

    @property
    def fetched_first(self) -> list[str]:
        """What a card says before it opens files of the folder."""
        if not self.fetch:
            return []
        said = "Other programs open files, which this brings to your machine:"
        return [said, "", "```sh", self.fetch, "```", ""]


def quoted(text: str) -> str:
    """A text as it stands between the double quotes of a Python literal."""
    plain = (c if c.isprintable() and c not in '"\\' else repr(c)[1:-1] for c in text)
    return "".join('\\"' if c == '"' else c for c in plain)


def written_as(formats: Sequence[str]) -> str:
    """By which formats of weights a network is loaded, as the end of a sentence."""
    return f", from what is written as {' or '.join(formats)}" if formats else ""


def code_block(lines: Sequence[str]) -> list[str]:
    """Python in Markdown."""
    return ["```python", *lines, "```"]
