"""What a format is: how a network is written, and how what was written is run again.

A format is one file of this folder with a `FORMAT`, and a place in `table.FORMATS`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import augment
from supernet_jax.networks.manifest import Description
from supernet_jax.networks.network import Network, Variables, compiled_quickly
from supernet_jax.storage import files
from supernet_jax.storage.typed_json import parse

Runner = Callable[[np.ndarray], np.ndarray]  # images [B, H, W, C] -> float32 logits [B, K]


class Export(NamedTuple):
    """A network that is to be written.

    Attributes:
        network: the extracted module.
        variables: its variables, NumPy.
        description: of it, as `extract.describe` made it.
        size: height and width, in pixels, of the images that will be fed; the network resizes them
            to its own resolution.
        pixels: whether images are uint8 `[B, H, W, C]`, normalised by what is written, rather
            than float32, normalised by whoever feeds them.
    """

    network: Network
    variables: Variables
    description: Mapping[str, Any]
    size: tuple[int, int]
    pixels: bool


class Format(NamedTuple):
    """One format.

    Attributes:
        name: as in `--format`.
        write: `(folder, export)` writes the format's files into an existing folder.
        load: `folder -> run`: what was written, in its own runtime on CPU. Images go in as
            `Export.pixels` says, always `[B, H, W, C]` of `Export.size`. Files may be anything,
            unless it is called by `table.load`.
        packages: pip requirements of writer and runtime beyond the library's own dependencies.
        snippet: Python for the model card: imports, an empty line, and what makes `logits` of the
            NumPy array `inputs`, in which FOLDER stands for the folder. Empty where
            `network_folder.load` is what loads it.
        program: whether the files hold the computation too, and not only weights for Flax.
        blocks: of a format that is written block by block, the names of those blocks of
            `nn.blocks` that it can write; None where it can write any network.
    """

    name: str
    write: Callable[[pathlib.Path, Export], None]
    load: Callable[[pathlib.Path], Runner]
    packages: tuple[str, ...] = ()
    snippet: str = ""
    program: bool = True
    blocks: frozenset[str] | None = None


def function(export: Export) -> Callable[[jax.Array], jax.Array]:
    """`images -> logits`, with the weights in it; images are as `export.pixels` says."""
    mean, std = (tuple(export.description[name]) for name in ("mean", "std"))

    def run(images: jax.Array) -> jax.Array:
        prepared = augment.normalise(images, mean=mean, std=std) if export.pixels else images
        return jnp.asarray(export.network.apply(export.variables, prepared))

    return run


def facts(export: Export) -> dict[str, str]:
    """What a file that can hold text says of its network: by name, JSON."""
    d = parse(Description, dict(export.description), "the description")
    values = {
        "mean": d.mean,
        "std": d.std,
        "preparation": d.preparation and dataclasses.asdict(d.preparation),
        "classes": d.classes,
        "space": d.space,
        "arch": d.arch,
        "resolution": d.resolution,
        "macs": d.macs,
        "accuracy": d.accuracy,
        "sha256": d.sha256,
    }
    return {name: files.dumps(value) for name, value in values.items()}


def flax_runner(network: Network, variables: Variables) -> Runner:
    """Runs a Flax network on CPU, float32 at highest precision."""
    held = jax.device_get(variables)

    def run(images: np.ndarray) -> np.ndarray:
        with on_cpu(), jax.default_matmul_precision("highest"):
            return np.asarray(compiled_quickly(network)(held, images))

    return run


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """What is called meanwhile runs on CPU, whatever else there is."""
    if jax.default_backend() == "cpu":  # changing nothing compiles nothing again
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])
