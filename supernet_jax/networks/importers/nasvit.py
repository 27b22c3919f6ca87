"""NASViT's supernet as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (Gong et al., ICLR 2022) follow from the
stages and depths of a space, so any of `spaces.nasvit` can be read. Blocks without
attention are AttentiveNAS's; each of them has a scale besides that nothing reads.
"""

import re
from collections.abc import Mapping

import flax
import numpy as np

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks.importers import attentivenas, tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import Leaf, Place, Spare
from supernet_jax.nn.blocks.nasvit import AttentionSpec
from supernet_jax.runtime import owned

# By our layer of an attention block: the published one.
ATTENTION = {
    "attention_norm": "norm1",
    "query": "attn.q.linear",
    "key": "attn.k.linear",
    "value": "attn.v.linear",
    "value_conv": "attn.vconv",
    "mix_scores": "attn.proj_l.linear",
    "mix_weights": "attn.proj_w.linear",
    "merge": "attn.proj.linear",
    "first_mlp_norm": "norm3",
    "first_mlp_expand": "mlp2.linear1.linear",
    "first_mlp_project": "mlp2.linear2.linear",
    "second_mlp_norm": "norm2",
    "second_mlp_expand": "mlp1.linear1.linear",
    "second_mlp_project": "mlp1.linear2.linear",
}
SCALES = {"attention_scale": "rescale_attn", "mlp_scale": "rescale_mlp"}
TABLE, PLACES = "attn.relative_position_bias_table", "attn.relative_position_index"
SCALE = "mobile_inverted_conv.rescale"
TRACKED = 2  # more statistics that each norm has room for
WHAT = "a published NASViT supernet of this space"
NEVER_READ = "nothing reads it"
COMPUTED = "follows from the size of the table of distances"
MEAN, STD = attentivenas.MEAN, attentivenas.STD
STEM, CLASSIFIER = attentivenas.STEM, attentivenas.CLASSIFIER


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space from the published model's tensors.

    Args:
        tensors: by published name, PyTorch's layout, floats of any width.
        space: `spaces.NASViT().build()`, or another of that family.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32; they expect inputs normalised
        by `MEAN` and `STD`. And what became of each tensor.

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
    if not _sides(space):
        raise UserError(
            f"the space {space.name} is not of NASViT's family: it has no attention of that kind; "
            "use a config with the space NASViT(), or with one that spaces.nasvit.nasvit makes"
        )
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    return dict(_place(space, leaf, tuple(shape.shape)) for leaf, shape in flat.items())


def _place(space: Space, leaf: Leaf, shape: tuple[int, ...]) -> tuple[str, Place]:
    if leaf[0] not in _sides(space):
        return attentivenas.published_name(space, leaf), tensor_mapping.place(leaf, shape)
    prefix, layer = f"blocks.{_numbers(space)[leaf[0]]}.", leaf[1]
    if layer in SCALES:
        return prefix + SCALES[layer], Place(leaf, shape, (0, 1, 2))
    if layer == "distances":
        rows, columns, heads = shape
        return prefix + TABLE, Place(leaf, shape, (0, 1, 2), tensor=(rows * columns, heads))
    name = f"{prefix}{ATTENTION[layer]}.{tensor_mapping.KINDS[leaf[-1]]}"
    return name, tensor_mapping.place(leaf, shape)


def spares(space: Space) -> dict[str, Spare]:
    """The tensors without a place that a published file may have, by name."""
    numbers, sides, known = _numbers(space), _sides(space), places(space)
    others = {name: place for name, place in known.items() if place.leaf[0] not in sides}
    found = attentivenas.spares_beside(space, others)
    found |= {
        name.replace(".bn.running", f".bn_tracking.{i}.running").replace(
            ".bn.num", f".bn_tracking.{i}.num"
        ): spare
        for name, spare in found.items()
        for i in range(TRACKED)
        if ".bn.bn." in name
    }
    for block, side in sides.items():
        shape = (side * side, side * side)
        found[f"blocks.{numbers[block]}.{PLACES}"] = Spare(shape, COMPUTED)
    for block in numbers.keys() - sides.keys():
        channels = (space.blocks[block].union.c_out,)
        found[f"blocks.{numbers[block]}.{SCALE}"] = Spare(channels, NEVER_READ)
    return found


def _numbers(space: Space) -> dict[str, int]:
    """The published number of each block."""
    blocks = [name for name in space.blocks if re.fullmatch(r"stage\d+_block\d+", name)]
    return {name: number for number, name in enumerate(blocks)}


def _sides(space: Space) -> dict[str, int]:
    """The blocks with attention, and the places on a side that they have biases for."""
    unions = {name: block.union for name, block in space.blocks.items()}
    return {name: union.side for name, union in unions.items() if isinstance(union, AttentionSpec)}
