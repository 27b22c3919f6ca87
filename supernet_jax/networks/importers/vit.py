"""ViT and DeiT as timm names their tensors, into spaces of `vit_supernet`.

`blocks.0.attn.qkv.weight` and so on, which DeiT's published files have too (arXiv 2012.12877). The
network becomes the largest subnet. Positions must be as many as the space has; they are not
interpolated.
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
    batched,
    merged_heads,
    place,
    stacked_biases,
    stacked_heads,
)
from supernet_jax.runtime import owned

INNER: dict[str, Rule] = {
    "attention_norm/scale": ("norm1.weight", place),
    "attention_norm/bias": ("norm1.bias", place),
    "attention/heads/kernel": ("attn.qkv.weight", stacked_heads),
    "attention/heads/bias": ("attn.qkv.bias", stacked_biases),
    "attention/merge/kernel": ("attn.proj.weight", merged_heads),
    "attention/merge/bias": ("attn.proj.bias", place),
    "mlp_norm/scale": ("norm2.weight", place),
    "mlp_norm/bias": ("norm2.bias", place),
    "expand/kernel": ("mlp.fc1.weight", place),
    "expand/bias": ("mlp.fc1.bias", place),
    "project/kernel": ("mlp.fc2.weight", place),
    "project/bias": ("mlp.fc2.bias", place),
}
OUTER: dict[str, Rule] = {
    "embed/class_token": ("cls_token", batched(2)),
    "embed/position": ("pos_embed", batched(1)),
    "embed/patches/kernel": ("patch_embed.proj.weight", place),
    "embed/patches/bias": ("patch_embed.proj.bias", place),
    "head/norm/scale": ("norm.weight", place),
    "head/norm/bias": ("norm.bias", place),
    "head/classifier/kernel": ("head.weight", place),
    "head/classifier/bias": ("head.bias", place),
}
FAMILY = (
    "of the form of ViT: {leaf} has no counterpart there; use a config with the space VitSupernet()"
)
WHAT = "a ViT or DeiT of the largest subnet's sizes, with a class token"
STD = tensor_mapping.STD
STEM: Leaf = ("embed", "patches", "kernel")
CLASSIFIER: Leaf = ("head", "classifier")
CLASSIFIER_TENSORS = ("head.weight", "head.bias")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space, whose largest subnet is the network.

    Args:
        tensors: by timm's names, PyTorch's layout, floats of any width.
        space: `spaces.VitSupernet(...).build()`.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32, without those of the
        classifier where the file has none; and what became of each tensor.

    Raises:
        UserError: a tensor is missing, unknown or of another shape, as those of another width,
            number of heads or depth; a space of another family.
    """
    found = tensor_mapping.without_absent(places(space), CLASSIFIER_TENSORS, tensors)
    return tensor_mapping.mapped(tensors, found, {}, what=WHAT)


@owned.by(owned.first)
def places(space: Space) -> dict[str, Place]:
    """Where each tensor goes, by its name, in the order of the space.

    Raises:
        UserError: the space is not of the family.
    """
    return tensor_mapping.by_rules(
        space, inner=INNER, outer=OUTER, prefix="blocks.{}.", family=FAMILY
    )
