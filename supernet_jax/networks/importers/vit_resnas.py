"""ViT-ResNAS's supernets as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 2109.00642) follow from the blocks
of a space, so any of `spaces.vit_resnas` can be read. Its classifier of patches serves a loss of
training that is not here, and is left out.
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
    Spare,
    batched,
    merged_heads,
    place,
    stacked_biases,
    stacked_heads,
)
from supernet_jax.runtime import owned


def _pairs(ours: str, there: str, kernel: str = "kernel") -> dict[str, Rule]:
    return {
        f"{ours}/{kernel}": (f"{there}.weight", place),
        f"{ours}/bias": (f"{there}.bias", place),
    }


# By our parameter: the published one, and how it lies there. Within a block, and outside of blocks.
INNER: dict[str, Rule] = {
    **_pairs("attention_norm", "norm1", "scale"),
    "attention/heads/kernel": ("attn.qkv.weight", stacked_heads),
    "attention/heads/bias": ("attn.qkv.bias", stacked_biases),
    "attention/merge/kernel": ("attn.proj.weight", merged_heads),
    "attention/merge/bias": ("attn.proj.bias", place),
    **_pairs("mlp_norm", "norm2", "scale"),
    **_pairs("expand", "mlp.fc1"),
    **_pairs("project", "mlp.fc2"),
    **_pairs("norm", "norm", "scale"),
    **_pairs("reduce", "patch_reduce"),
    **_pairs("token", "token_transform"),
    "position": ("pos_embed", batched(1)),
}
OUTER: dict[str, Rule] = {
    **{f"embed/conv{i}/kernel": (f"patch_embed.conv{i}.conv.weight", place) for i in range(1, 4)},
    **{
        ours: rule
        for i in range(1, 4)
        for ours, rule in _pairs(f"embed/norm{i}", f"patch_embed.conv{i}.bn", "scale").items()
    },
    **_pairs("embed/patches", "patch_embed.conv_proj"),
    "embed/class_token": ("tokens", batched(2)),
    "embed/position": ("pos_embed", batched(1)),
    **_pairs("head/norm", "norm", "scale"),
    **_pairs("head/classifier", "cls_head"),
}
FAMILY = (
    "of ViT-ResNAS's family: {leaf} has no counterpart there; use a config with the space "
    "ViTResNAS() or ViTResNASSmall(), or with one that spaces.vit_resnas.vit_resnas makes"
)
WHAT = "a published ViT-ResNAS supernet of this space"
PATCHES = "it classifies patches, which serves a loss of training that is not here"
MEAN, STD = tensor_mapping.MEAN, tensor_mapping.STD
STEM: Leaf = ("embed", "conv1", "kernel")
CLASSIFIER: Leaf = ("head", "classifier")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space from the published model's tensors.

    Args:
        tensors: by published name, PyTorch's layout, floats of any width.
        space: `spaces.ViTResNAS().build()`, or another of that family.

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
    return tensor_mapping.by_rules(
        space,
        inner=INNER,
        outer=OUTER,
        prefix="blocks.{}.",
        family=FAMILY,
        numbered=r"stage\d+_block\d+|reduction\d+",
    )


def spares(space: Space) -> dict[str, Spare]:
    """The tensors without a place that a published file may have, by name."""
    known = places(space)
    embedded = {name: place for name, place in known.items() if name.startswith("patch_embed.")}
    return {
        f"patch_head.{kind}": Spare(known[f"cls_head.{kind}"].wanted, PATCHES)
        for kind in ("weight", "bias")
    } | tensor_mapping.statistics(embedded)
