"""`model.stablehlo`: the whole network as one program that JAX runs, written by `jax.export`.

Weights are inside; any batch size, and any length of text; for CPU, CUDA and TPU; nothing of this
library is needed.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from supernet_jax.data import augment
from supernet_jax.errors import UserError
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.networks.network import Runner, on_cpu
from supernet_jax.runtime import native
from supernet_jax.storage import files
from supernet_jax.tasks import ImageClassification, OfTokens

NAME = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
SNIPPET = """\
import jax.export

with open("FOLDER/model.stablehlo", "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
logits = np.asarray(model.call(inputs))"""
GENERAL_SNIPPET = """\
import jax.export, numpy as np

with open("FOLDER/model.stablehlo", "rb") as file:
    model = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
logits = np.asarray(model(inputs.astype(np.int32)))"""


def write(folder: pathlib.Path, export: Export) -> None:
    """Writes `model.stablehlo`.

    Raises:
        UserError: the network cannot be traced for any batch size, as a topology of the user's own
            may need to know it.
    """
    taken = _taken(export)
    run = jax.jit(_function(export))
    try:
        # Kernels built here are not there where the file is run.
        with jax.default_matmul_precision("highest"), native.aside():
            program = jax.export.export(run, platforms=PLATFORMS)(taken)
        written = program.serialize()
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the network cannot be written as stablehlo ({reason}); its blocks and topology must "
            "work for a batch of any size and call nothing outside of JAX"
        ) from error
    files.write_bytes(folder / NAME, lambda file: file.write(written))


def _taken(export: Export) -> jax.ShapeDtypeStruct:
    """What the program takes: any number of inputs; text of any length, others as they are."""
    if isinstance(export.network.task, OfTokens):
        size = export.network.size
        if size == ():
            return jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, length"), jnp.int32)
        [batch] = jax.export.symbolic_shape("batch")
        return jax.ShapeDtypeStruct((batch, size if isinstance(size, int) else size[0]), jnp.int32)
    [batch] = jax.export.symbolic_shape("batch")
    if not isinstance(export.network.task, ImageClassification):
        one = export.network.task.inputs(export.network.size)
        return jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype)
    channels = export.description["input_channels"]
    dtype = jnp.uint8 if export.pixels else jnp.float32
    return jax.ShapeDtypeStruct((batch, *export.size, channels), dtype)


def _function(export: Export) -> Callable[[jax.Array], jax.Array]:
    """`inputs -> logits`, with the weights in it; inputs are as `export.pixels` says."""

    def run(inputs: jax.Array) -> jax.Array:
        prepared = inputs
        if export.pixels:
            mean, std = (tuple(export.description[name]) for name in ("mean", "std"))
            prepared = augment.normalise(inputs, mean=mean, std=std)
        return jnp.asarray(export.network.apply(export.variables, prepared))

    return run


def load(folder: pathlib.Path) -> Runner:
    """The program, on CPU.

    Raises:
        UserError: it is missing, not readable, or nothing that this version of JAX can read.
    """
    content = files.read_bytes(folder / NAME, kind="program of jax.export")
    try:
        program = jax.export.deserialize(bytearray(content))
    except Exception as error:  # flatbuffers and MLIR raise all sorts
        raise files.unreadable(folder / NAME, error, kind="program of jax.export") from error

    def run(inputs: np.ndarray) -> np.ndarray:
        with on_cpu():
            return np.asarray(program.call(inputs))

    return run


FORMAT = Format("stablehlo", write, load, snippet=SNIPPET, general_snippet=GENERAL_SNIPPET)
