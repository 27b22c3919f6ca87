"""Once-for-All's MobileNetV3 supernets as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 1908.09791) follow from the blocks
of a space, so any of `spaces.once_for_all` can be read. Older files spell some names otherwise than
the published code does today; both are read. Running statistics of normalisations are nobody's:
each subnet has its own, which calibration makes.
"""

import re
from collections.abc import Mapping

import flax
import numpy as np

from supernet_jax.elastic import elastic_block, shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import Leaf, Place, Spare
from supernet_jax.runtime import owned

# By our layer: the published one, as `_short` spells it. Within a block, and outside of blocks.
INNER = {
    "expand": "inverted_bottleneck.conv",
    "expand_norm": "inverted_bottleneck.bn",
    "depthwise": "depth_conv.conv",
    "transforms/depthwise/kernel": "depth_conv.conv",
    "depthwise_norm": "depth_conv.bn",
    "squeeze/reduce": "depth_conv.se.fc.reduce",
    "squeeze/expand": "depth_conv.se.fc.expand",
    "project": "point_linear.conv",
    "project_norm": "point_linear.bn",
}
OUTER = {
    "stem/conv": "first_conv.conv",
    "stem/norm": "first_conv.bn",
    "head/expand": "final_expand_layer.conv",
    "head/expand_norm": "final_expand_layer.bn",
    "head/mix": "feature_mix_layer.conv",
    "head/classifier": "classifier.linear",
}
SPELLINGS = (  # of elastic layers, which hold an ordinary one, and of older files
    (r"\.mobile_inverted_conv\.", ".conv."),
    (r"\.(conv|bn|linear)\.\1\.(?=\w+$)", r".\1."),
)
WHAT = "a published Once-for-All MobileNetV3 supernet of this space"
MEAN, STD = tensor_mapping.MEAN, tensor_mapping.STD
STEM: Leaf = ("stem", "conv", "kernel")
CLASSIFIER: Leaf = ("head", "classifier")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space from the published model's tensors.

    Args:
        tensors: by published name, PyTorch's layout, floats of any width.
        space: `spaces.once_for_all.ofa_mobilenetv3`, or another of that family.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32; they expect inputs normalised
        by `MEAN` and `STD`. And what became of each tensor, by the shortest spelling of its name.

    Raises:
        UserError: a tensor is missing, unknown, there twice or of another shape; a space of another
            family.
    """
    named: dict[str, str] = {}
    for name in tensors:
        other = named.setdefault(_short(name), name)
        if other != name:
            raise UserError(f"{other} and {name} are two spellings of one tensor; remove one")
    short = {key: tensors[name] for key, name in named.items()}
    return tensor_mapping.mapped(short, places(space), spares(space), what=WHAT)


@owned.by(owned.first)
def places(space: Space) -> dict[str, Place]:
    """Where each tensor goes, by the shortest spelling of its name, in the order of the space.

    Raises:
        UserError: the space is not of the family.
    """
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    return {_published(space, leaf): _place(leaf, shape.shape) for leaf, shape in flat.items()}


def spares(space: Space) -> dict[str, Spare]:
    """The tensors without a place that a published file may have, by name."""
    return tensor_mapping.statistics(places(space))


def _short(name: str) -> str:
    for pattern, new in SPELLINGS:
        name = re.sub(pattern, new, name)
    return name


def _place(leaf: Leaf, shape: tuple[int, ...]) -> Place:
    """Matrices of transforms are there as here: output by input."""
    if elastic_block.TRANSFORMS in leaf:
        return Place(leaf, shape, tuple(range(len(shape))))
    return tensor_mapping.place(leaf, shape)


def _published(space: Space, leaf: Leaf) -> str:
    """What a parameter of ours is called there, in the shortest spelling."""
    block, layer, kind = leaf[0], "/".join(leaf[1:-1]), tensor_mapping.KINDS.get(leaf[-1])
    numbers = _numbers(space)
    if elastic_block.TRANSFORMS in leaf:
        kind = f"{leaf[-1]}_matrix"
    if block in numbers:
        there, prefix = INNER.get(layer), f"blocks.{numbers[block]}.conv."
    else:
        there, prefix = OUTER.get(f"{block}/{layer}"), ""
    if there is None or kind is None or space.bank is not None:
        raise UserError(
            f"the space {space.name} is not of the Once-for-All family: {'/'.join(leaf)} has no "
            "counterpart there; use a config with the space OfaMobileNetV3(), or with one that "
            "spaces.once_for_all.ofa makes"
        )
    return f"{prefix}{there}.{kind}"


def _numbers(space: Space) -> dict[str, int]:
    """The published number of each block: the first, then stages at their largest depths."""
    blocks = [name for name in space.blocks if re.fullmatch(r"first|stage\d+_block\d+", name)]
    return {name: number for number, name in enumerate(blocks)}
