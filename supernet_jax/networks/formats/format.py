"""What a format is: how a network is written, and how what was written is run again.

A format is one file of this folder with a `FORMAT`, and a place in `table.FORMATS`.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from supernet_jax.networks.network import Network, Runner, Variables


class Export(NamedTuple):
    """A network that is to be written.

    Attributes:
        network: the extracted module.
        variables: its variables, NumPy.
        description: of it, as `extract.describe` made it.
        size: height and width of what will be fed, which the network resizes to its own; of text,
            whose length may be any, nothing.
        pixels: whether inputs are uint8 `[B, H, W, C]`, normalised by what is written, rather than
            float32, normalised by the caller.
    """

    network: Network
    variables: Variables
    description: Mapping[str, Any]
    size: tuple[int, ...]
    pixels: bool


class Format(NamedTuple):
    """One format.

    Attributes:
        name: as in `--format`.
        write: `(folder, export)` writes the format's files into an existing folder.
        load: `folder -> run`: what was written, in its own runtime on CPU. Inputs go in as
            `Export` says, with channels last. Files may be anything, unless it is called by
            `table.load`.
        packages: pip requirements of writer and runtime beyond the library's own dependencies.
        snippet: Python for the model card: imports, an empty line, and what makes `logits` of the
            NumPy array `inputs`, in which FOLDER stands for the folder. Empty where
            `network_folder.load` is what loads it.
        general_snippet: likewise of a network for text, with an import of NumPy; `inputs` are int64
            ids `[B, T]`, and the last line alone makes `logits`, so that it can be repeated.
        program: whether the files hold the computation too, and not only weights for Flax.
        blocks: of a format that is written block by block, the names of those blocks of
            `nn.blocks` that it can write; None where it can write any network.
    """

    name: str
    write: Callable[[pathlib.Path, Export], None]
    load: Callable[[pathlib.Path], Runner]
    packages: tuple[str, ...] = ()
    snippet: str = ""
    general_snippet: str = ""
    program: bool = True
    blocks: frozenset[str] | None = None
