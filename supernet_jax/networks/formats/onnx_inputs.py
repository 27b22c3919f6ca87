"""What an ONNX file takes, and what becomes of it before the blocks.

Images are the input `images`: float32 `[batch, C, H, W]`, normalised, or with `Export.pixels` uint8
`[batch, H, W, C]`. Text is the input `ids`: int64 `[batch, length]`, of any length unless the
network has one. Whole numbers of other tasks are `ids` too, int64; anything else is `inputs`,
float32; both of the task's own shape.
"""

from collections.abc import Sequence

import jax
import numpy as np

from supernet_jax.networks.formats.format import Export
from supernet_jax.networks.formats.onnx_operations import Graph, Taken, Value
from supernet_jax.networks.manifest import Description, GeneralDescription
from supernet_jax.nn.resize import bicubic_matrix

IMAGES, IDS, INPUTS = "images", "ids", "inputs"
BATCH, LENGTH = "batch", "length"
FLOAT, INT64 = 1, 7  # as ONNX numbers its types


def taken(export: Export, description: Description | GeneralDescription) -> Taken:
    """The input of a network's file."""
    from onnx import TensorProto

    if isinstance(description, GeneralDescription):
        length = description.size[0] if description.size else LENGTH
        below = description.task.fields["vocabulary"]
        words = f"int64 [{BATCH}, {length}], ids below {below}"
        return Taken(IDS, TensorProto.INT64, (BATCH, length), words)
    (height, width), channels = export.size, description.input_channels
    if export.pixels:
        shape = (BATCH, height, width, channels)
        words = f"uint8 [{', '.join(map(str, shape))}], 0 to 255"
        return Taken(IMAGES, TensorProto.UINT8, shape, words)
    shape = (BATCH, channels, height, width)
    words = f"float32 [{', '.join(map(str, shape))}], (pixel / 255 - mean) / std"
    return Taken(IMAGES, TensorProto.FLOAT, shape, words)


def taken_as_it_is(one: jax.ShapeDtypeStruct) -> Taken:
    """The input of a network that is neither for images nor for text of any length.

    Args:
        one: what one example is, with a leading 1.
    """
    shape = (BATCH, *one.shape[1:])
    whole = np.issubdtype(one.dtype, np.integer)
    words = f"{'int64' if whole else 'float32'} [{', '.join(map(str, shape))}]"
    return Taken(IDS, INT64, shape, words) if whole else Taken(INPUTS, FLOAT, shape, words)


def first(graph: Graph, export: Export, description: Description | GeneralDescription) -> Value:
    """What the first block takes: images normalised, and of the network's own resolution."""
    if isinstance(description, GeneralDescription):
        return Value(IDS, 0, 0)
    images = IMAGES
    if export.pixels:
        images = normalise(graph, images, description.mean, description.std)
    images = resize(graph, images, export.size, description.resolution)
    return Value(images, description.input_channels, description.resolution)


def normalise(graph: Graph, images: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """uint8 `[B, H, W, C]` -> float32 `[B, C, H, W]`, `(pixel / 255 - mean) / std`."""
    centre = 255 * np.asarray(mean).reshape(1, -1, 1, 1)
    scale = 1 / (255 * np.asarray(std).reshape(1, -1, 1, 1))
    name = graph.node("Transpose", "normalise/transpose", images, perm=[0, 3, 1, 2])
    name = graph.node("Cast", "normalise/cast", name, to=FLOAT)
    name = graph.node("Sub", "normalise/sub", name, graph.weight("normalise/mean", centre))
    return graph.node("Mul", "normalise/mul", name, graph.weight("normalise/scale", scale))


def resize(graph: Graph, images: str, sizes: tuple[int, ...], size: int) -> str:
    """Bicubic, as two products with matrices.

    ONNX Runtime's Resize computes places in float32, which is wrong by up to 2e-5 of a pixel's
    value, and takes many times as long.
    """
    height, width = sizes
    if width != size:
        across = graph.weight("resize/columns/weight", bicubic_matrix(width, size).T)
        images = graph.node("MatMul", "resize/columns", images, across)
    if height != size:
        down = graph.weight("resize/rows/weight", bicubic_matrix(height, size))
        images = graph.node("MatMul", "resize/rows", down, images)
    return images


# ---------------------------------------------------------------------------- blocks
