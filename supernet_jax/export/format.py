"""What a format is: how a network is written, and how what was written is run again."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.extracted import Network, Variables

Runner = Callable[[np.ndarray], np.ndarray]  # images [B, H, W, C] -> float32 logits [B, K]


class Export(NamedTuple):
    """A network that is to be written.

    Attributes:
        network: the extracted module.
        variables: its variables, NumPy.
        description: of it, as `extract.describe` made it.
        size: height and width in pixels of the images that will be fed; the network resizes them
            to its own resolution.
        pixels: whether images are uint8 `[B, size, size, C]`, normalised by what is written, rather
            than float32, normalised by whoever feeds them.
    """

    network: Network
    variables: Variables
    description: Mapping[str, Any]
    size: int
    pixels: bool


class Format(NamedTuple):
    """One format.

    Attributes:
        name: as in `--format`.
        about: what it is for, a few words.
        write: `(folder, export)` writes the format's files into an existing folder.
        load: `folder -> run`: what was written, in its own runtime on CPU. Images go in as
            `Export.pixels` says, always `[B, size, size, C]`.
        packages: pip requirements of writer and runtime beyond the library's own dependencies.
    """

    name: str
    about: str
    write: Callable[[pathlib.Path, Export], None]
    load: Callable[[pathlib.Path], Runner]
    packages: tuple[str, ...] = ()
