"""`weights`: the variables as an Orbax checkpoint, for Flax."""

import pathlib

from supernet_jax import extracted
from supernet_jax.export.format import Export, Format, Runner, flax_runner


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes the folder `weights`."""
    extracted.write_orbax(folder, export.variables)


def load(folder: pathlib.Path) -> Runner:
    """The network in Flax. Use `extracted.load` for one with blocks of your own."""
    return flax_runner(*extracted.load(folder, source=extracted.WEIGHTS))


FORMAT = Format("orbax", "Flax, as JAX checkpoints are", write, load, program=False)
