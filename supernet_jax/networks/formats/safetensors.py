"""`model.safetensors`: the variables in one file that every framework reads.

Names are those of Flax: "params/BLOCK/LAYER/LEAF", and "stats/..." for those of BatchNorm. The
header's metadata says what the network is, and how an image becomes its input.
"""

import pathlib

import flax

from supernet_jax.networks import network_folder
from supernet_jax.networks.formats.format import Export, Format, Runner, facts, flax_runner
from supernet_jax.storage import safetensors_file


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes `model.safetensors`."""
    flat = flax.traverse_util.flatten_dict(network_folder.filled(export.variables), sep="/")
    safetensors_file.write(folder / network_folder.TENSORS, flat, said=facts(export))


def load(folder: pathlib.Path) -> Runner:
    """The network in Flax. Use `network_folder.load` for one with blocks of your own."""
    return flax_runner(*network_folder.load(folder, source=network_folder.TENSORS))


FORMAT = Format("safetensors", "weights for any framework", write, load, program=False)
