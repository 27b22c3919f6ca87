"""AutoFormer's supernets as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 2107.00651) follow from the blocks
of a space, so any of `spaces.autoformer` can be read. Rows of the published weight of queries, keys
and values are interleaved: every third one, from the first on, is of queries. Its bias is not: a
subnet of `h` heads reads the first `3 * 64 * h` numbers, queries first (`attention.read_prefix`).
"""

from collections.abc import Mapping

import numpy as np

from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import (
    Leaf,
    Place,
    Rule,
    Shape,
    as_it_is,
    batched,
    merged_heads,
    place,
)
from supernet_jax.runtime import owned


def _interleaved(leaf: Leaf, shape: Shape) -> Place:
    """`[H * D * 3, C]`, the three kinds last, to `[C, 3, H, D]`."""
    c, kinds, heads, d = shape
    return Place(leaf, shape, (3, 2, 0, 1), tensor=(heads * d * kinds, c))


# By our parameter: the published one, and how it lies there. Within a block, and outside of blocks.
INNER: dict[str, Rule] = {
    "attention_norm/scale": ("attn_layer_norm.weight", place),
    "attention_norm/bias": ("attn_layer_norm.bias", place),
    "attention/heads/kernel": ("attn.qkv.weight", _interleaved),
    "attention/heads/bias": ("attn.qkv.bias", place),
    "attention/key_positions/vertical": ("attn.rel_pos_embed_k.embeddings_table_v", as_it_is),
    "attention/key_positions/horizontal": ("attn.rel_pos_embed_k.embeddings_table_h", as_it_is),
    "attention/value_positions/vertical": ("attn.rel_pos_embed_v.embeddings_table_v", as_it_is),
    "attention/value_positions/horizontal": ("attn.rel_pos_embed_v.embeddings_table_h", as_it_is),
    "attention/merge/kernel": ("attn.proj.weight", merged_heads),
    "attention/merge/bias": ("attn.proj.bias", place),
    "mlp_norm/scale": ("ffn_layer_norm.weight", place),
    "mlp_norm/bias": ("ffn_layer_norm.bias", place),
    "expand/kernel": ("fc1.weight", place),
    "expand/bias": ("fc1.bias", place),
    "project/kernel": ("fc2.weight", place),
    "project/bias": ("fc2.bias", place),
}
OUTER: dict[str, Rule] = {
    "embed/position": ("pos_embed", batched(1)),
    "embed/class_token": ("cls_token", batched(2)),
    "embed/patches/kernel": ("patch_embed_super.proj.weight", place),
    "embed/patches/bias": ("patch_embed_super.proj.bias", place),
    "head/norm/scale": ("norm.weight", place),
    "head/norm/bias": ("norm.bias", place),
    "head/classifier/kernel": ("head.weight", place),
    "head/classifier/bias": ("head.bias", place),
}
FAMILY = (
    "of the AutoFormer family: {leaf} has no counterpart there; use a config with the space "
    "AutoFormerT(), AutoFormerS() or AutoFormerB(), or with one that spaces.autoformer.autoformer "
    "makes"
)
WHAT = "a published AutoFormer supernet of this space"
MEAN, STD = tensor_mapping.MEAN, tensor_mapping.STD
STEM: Leaf = ("embed", "patches", "kernel")
CLASSIFIER: Leaf = ("head", "classifier")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space from the published model's tensors.

    Args:
        tensors: by published name, PyTorch's layout, floats of any width.
        space: `spaces.autoformer.AutoFormerT().build()`, or another of that family.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32; they expect inputs normalised
        by `MEAN` and `STD`. And what became of each tensor.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; a space of another family.
    """
    return tensor_mapping.mapped(tensors, places(space), {}, what=WHAT)


@owned.by(owned.first)
def places(space: Space) -> dict[str, Place]:
    """Where each tensor goes, by its published name, in the order of the space.

    Raises:
        UserError: the space is not of the family.
    """
    return tensor_mapping.by_rules(
        space, inner=INNER, outer=OUTER, prefix="blocks.{}.", family=FAMILY
    )
