"""`weights`: the variables as an Orbax checkpoint, for Flax."""

import pathlib

from supernet_jax.networks import network_folder
from supernet_jax.networks.formats.format import Export, Format, Runner, flax_runner


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes the folder `weights`."""
    network_folder.write_orbax(folder, export.variables)


def load(folder: pathlib.Path) -> Runner:
    """The network in Flax. Use `network_folder.load` for one with blocks of your own."""
    return flax_runner(*network_folder.load(folder, source=network_folder.WEIGHTS))


FORMAT = Format("orbax", "Flax, as JAX checkpoints are", write, load, program=False)
