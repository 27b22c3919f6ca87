"""The AttentiveNAS/AlphaNet supernet as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 2011.09011 and 2102.07954) follow
from the stages and depths of a space, so any space of `spaces.mobilenet` can be read. The published
model has two kinds of tensors without a place here. Running statistics of normalisations are
nobody's: each subnet has its own, which calibration makes. And it has a shortcut kernel in every
block, but where input and output have equal channels in all subnets, nothing ever reads it.
"""

import re
from collections.abc import Iterator, Mapping

import flax
import numpy as np

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import Leaf, Place, Spare
from supernet_jax.nn.blocks.mobilenet import MBConvSpec
from supernet_jax.runtime import owned

# By our layer: the published one. Within a block, and outside of blocks.
INNER = {
    "expand": "mobile_inverted_conv.inverted_bottleneck.conv.conv",
    "expand_norm": "mobile_inverted_conv.inverted_bottleneck.bn.bn",
    "depthwise": "mobile_inverted_conv.depth_conv.conv.conv",
    "depthwise_norm": "mobile_inverted_conv.depth_conv.bn.bn",
    "squeeze/reduce": "mobile_inverted_conv.depth_conv.se.fc.reduce",
    "squeeze/expand": "mobile_inverted_conv.depth_conv.se.fc.expand",
    "project": "mobile_inverted_conv.point_linear.conv.conv",
    "project_norm": "mobile_inverted_conv.point_linear.bn.bn",
    "shortcut": "shortcut.conv.conv",
}
OUTER = {
    "stem/conv": "first_conv.conv.conv",
    "stem/norm": "first_conv.bn.bn",
    "head/expand": "last_conv.final_expand_layer.conv.conv",
    "head/expand_norm": "last_conv.final_expand_layer.bn.bn",
    "head/mix": "last_conv.feature_mix_layer.conv.conv",
    "head/classifier": "classifier.linear.linear",
}
NEVER_READ = "no subnet reads it: input and output of this block always have equal channels"
WHAT = "a published AttentiveNAS or AlphaNet supernet of this space"
MEAN, STD = tensor_mapping.MEAN, tensor_mapping.STD
STEM: Leaf = ("stem", "conv", "kernel")
CLASSIFIER: Leaf = ("head", "classifier")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space from the published model's tensors.

    Args:
        tensors: by published name, PyTorch's layout, floats of any width.
        space: `spaces.attentivenas.attentivenas`, or another of that family.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32; they expect inputs
        normalised by `MEAN` and `STD`. And what became of each tensor.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; a space of another family.
    """
    return tensor_mapping.mapped(tensors, places(space), spares(space), what=WHAT)


@owned.by(owned.first)
def places(space: Space) -> dict[str, Place]:
    """Where each tensor goes, by its published name, in the order of the space.

    Raises:
        UserError: the space is not of the family.
    """
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    return {
        published_name(space, leaf): tensor_mapping.place(leaf, shape.shape)
        for leaf, shape in flat.items()
    }


def published_name(space: Space, leaf: Leaf) -> str:
    """What a parameter of ours is called there.

    Raises:
        UserError: the space is not of the family.
    """
    block, layer, kind = leaf[0], "/".join(leaf[1:-1]), tensor_mapping.KINDS.get(leaf[-1])
    numbers = _numbers(space)
    if block in numbers:
        there, prefix = INNER.get(layer), f"blocks.{numbers[block]}."
    else:
        there, prefix = OUTER.get(f"{block}/{layer}"), ""
    if there is None or kind is None or space.bank is not None:
        raise UserError(
            f"the space {space.name} is not of the AttentiveNAS family: {'/'.join(leaf)} has no "
            "counterpart there; use a config with the space AttentiveNAS(), or with one that "
            "spaces.mobilenet.mobilenet makes"
        )
    return f"{prefix}{there}.{kind}"


def spares(space: Space) -> dict[str, Spare]:
    """The tensors without a place that a published file may have, by name."""
    return spares_beside(space, places(space))


def spares_beside(space: Space, known: Mapping[str, Place]) -> dict[str, Spare]:
    """The same beside the places of a family that has AttentiveNAS's blocks among others."""
    found = {
        f"blocks.{number}.{INNER['shortcut']}.weight": Spare((c_out, c_in, 1, 1), NEVER_READ)
        for number, c_in, c_out in _sizes(space)
    }
    unused = {name: spare for name, spare in found.items() if name not in known}
    return unused | tensor_mapping.statistics(known)


def _numbers(space: Space) -> dict[str, int]:
    """The published number of each block: stages one after another, at their largest depths."""
    blocks = [name for name in space.blocks if re.fullmatch(r"stage\d+_block\d+", name)]
    return {name: number for number, name in enumerate(blocks)}


def _sizes(space: Space) -> Iterator[tuple[int, int, int]]:
    """Number of each block, and its channels in and out."""
    for name, number in _numbers(space).items():
        union = space.blocks[name].union
        if isinstance(union, MBConvSpec):
            yield number, union.c_in, union.c_out
