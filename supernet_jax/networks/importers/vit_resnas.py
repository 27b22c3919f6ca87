"""ViT-ResNAS's supernets as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 2109.00642) follow from the blocks
of a space, so any of `spaces.vit_resnas` can be read. Its classifier of patches serves a loss of
training that is not here, and is left out.
"""

import re
from collections.abc import Callable, Mapping

import flax
import numpy as np

from supernet_jax.elastic import shared_params
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import Leaf, Place, Spare
from supernet_jax.runtime import owned

Shape = tuple[int, ...]
_Rule = tuple[str, Callable[[Leaf, Shape], Place]]


def _usual(leaf: Leaf, shape: Shape) -> Place:
    return tensor_mapping.place(leaf, shape)


def _with_ones(count: int) -> Callable[[Leaf, Shape], Place]:
    """With so many axes of size 1 before ours."""
    return lambda leaf, shape: Place(
        leaf, shape, tuple(range(len(shape))), tensor=(1,) * count + shape
    )


def _heads(leaf: Leaf, shape: Shape) -> Place:
    """`[3 * H * D, C]` to `[C, 3, H, D]`."""
    return Place(leaf, shape, (3, 0, 1, 2), tensor=(int(np.prod(shape[1:])), shape[0]))


def _heads_bias(leaf: Leaf, shape: Shape) -> Place:
    return Place(leaf, shape, (0, 1, 2), tensor=(int(np.prod(shape)),))


def _merged(leaf: Leaf, shape: Shape) -> Place:
    """`[C, H * D]` to `[H, D, C]`."""
    heads, d, c = shape
    return Place(leaf, shape, (1, 2, 0), tensor=(c, heads * d))


def _pairs(ours: str, there: str, kernel: str = "kernel") -> dict[str, _Rule]:
    return {
        f"{ours}/{kernel}": (f"{there}.weight", _usual),
        f"{ours}/bias": (f"{there}.bias", _usual),
    }


# By our parameter: the published one, and how it lies there. Within a block, and outside of blocks.
INNER: dict[str, _Rule] = {
    **_pairs("attention_norm", "norm1", "scale"),
    "attention/heads/kernel": ("attn.qkv.weight", _heads),
    "attention/heads/bias": ("attn.qkv.bias", _heads_bias),
    "attention/merge/kernel": ("attn.proj.weight", _merged),
    "attention/merge/bias": ("attn.proj.bias", _usual),
    **_pairs("mlp_norm", "norm2", "scale"),
    **_pairs("expand", "mlp.fc1"),
    **_pairs("project", "mlp.fc2"),
    **_pairs("norm", "norm", "scale"),
    **_pairs("reduce", "patch_reduce"),
    **_pairs("token", "token_transform"),
    "position": ("pos_embed", _with_ones(1)),
}
OUTER: dict[str, _Rule] = {
    **{f"embed/conv{i}/kernel": (f"patch_embed.conv{i}.conv.weight", _usual) for i in range(1, 4)},
    **{
        ours: rule
        for i in range(1, 4)
        for ours, rule in _pairs(f"embed/norm{i}", f"patch_embed.conv{i}.bn", "scale").items()
    },
    **_pairs("embed/patches", "patch_embed.conv_proj"),
    "embed/class_token": ("tokens", _with_ones(2)),
    "embed/position": ("pos_embed", _with_ones(1)),
    **_pairs("head/norm", "norm", "scale"),
    **_pairs("head/classifier", "cls_head"),
}
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
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    numbered = [
        name for name in space.blocks if re.fullmatch(r"stage\d+_block\d+|reduction\d+", name)
    ]
    found = {}
    for leaf, shape in flat.items():
        inner = leaf[0] in numbered
        rule = INNER.get("/".join(leaf[1:])) if inner else OUTER.get("/".join(leaf))
        if rule is None or space.bank is not None:
            raise UserError(
                f"the space {space.name} is not of ViT-ResNAS's family: {'/'.join(leaf)} has no "
                "counterpart there; use a config with the space ViTResNAS() or "
                "ViTResNASSmall(), or with one that spaces.vit_resnas.vit_resnas makes"
            )
        prefix = f"blocks.{numbered.index(leaf[0])}." if inner else ""
        found[prefix + rule[0]] = rule[1](leaf, tuple(shape.shape))
    return found


def spares(space: Space) -> dict[str, Spare]:
    """The tensors without a place that a published file may have, by name."""
    known = places(space)
    embedded = {name: place for name, place in known.items() if name.startswith("patch_embed.")}
    return {
        f"patch_head.{kind}": Spare(known[f"cls_head.{kind}"].wanted, PATCHES)
        for kind in ("weight", "bias")
    } | tensor_mapping.statistics(embedded)
