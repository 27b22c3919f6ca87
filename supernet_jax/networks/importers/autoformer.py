"""AutoFormer's supernets as published, into spaces of the same family.

Names and shapes of the published PyTorch model's tensors (arXiv 2107.00651) follow from the blocks
of a space, so any of `spaces.autoformer` can be read. Rows of the published weight of queries, keys
and values are interleaved: every third one, from the first on, is of queries. Its bias is not: a
subnet of `h` heads reads the first `3 * 64 * h` numbers, queries first (`attention.read_prefix`).
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
from supernet_jax.networks.importers.tensor_mapping import Leaf, Place
from supernet_jax.runtime import owned

Shape = tuple[int, ...]


def _usual(leaf: Leaf, shape: Shape) -> Place:
    return tensor_mapping.place(leaf, shape)


def _as_it_is(leaf: Leaf, shape: Shape) -> Place:
    return Place(leaf, shape, tuple(range(len(shape))))


def _batched(ones: int) -> Callable[[Leaf, Shape], Place]:
    """With so many axes of size 1 before ours."""
    return lambda leaf, shape: _as_it_is(leaf, shape)._replace(tensor=(1,) * ones + shape)


def _interleaved(leaf: Leaf, shape: Shape) -> Place:
    """`[H * D * 3, C]`, the three kinds last, to `[C, 3, H, D]`."""
    c, kinds, heads, d = shape
    return Place(leaf, shape, (3, 2, 0, 1), tensor=(heads * d * kinds, c))


def _merged(leaf: Leaf, shape: Shape) -> Place:
    """`[features, H * D]` to `[H, D, features]`."""
    heads, d, features = shape
    return Place(leaf, shape, (1, 2, 0), tensor=(features, heads * d))


_Rule = tuple[str, Callable[[Leaf, Shape], Place]]
# By our parameter: the published one, and how it lies there. Within a block, and outside of blocks.
INNER: dict[str, _Rule] = {
    "attention_norm/scale": ("attn_layer_norm.weight", _usual),
    "attention_norm/bias": ("attn_layer_norm.bias", _usual),
    "attention/heads/kernel": ("attn.qkv.weight", _interleaved),
    "attention/heads/bias": ("attn.qkv.bias", _usual),
    "attention/key_positions/vertical": ("attn.rel_pos_embed_k.embeddings_table_v", _as_it_is),
    "attention/key_positions/horizontal": ("attn.rel_pos_embed_k.embeddings_table_h", _as_it_is),
    "attention/value_positions/vertical": ("attn.rel_pos_embed_v.embeddings_table_v", _as_it_is),
    "attention/value_positions/horizontal": ("attn.rel_pos_embed_v.embeddings_table_h", _as_it_is),
    "attention/merge/kernel": ("attn.proj.weight", _merged),
    "attention/merge/bias": ("attn.proj.bias", _usual),
    "mlp_norm/scale": ("ffn_layer_norm.weight", _usual),
    "mlp_norm/bias": ("ffn_layer_norm.bias", _usual),
    "expand/kernel": ("fc1.weight", _usual),
    "expand/bias": ("fc1.bias", _usual),
    "project/kernel": ("fc2.weight", _usual),
    "project/bias": ("fc2.bias", _usual),
}
OUTER: dict[str, _Rule] = {
    "embed/position": ("pos_embed", _batched(1)),
    "embed/class_token": ("cls_token", _batched(2)),
    "embed/patches/kernel": ("patch_embed_super.proj.weight", _usual),
    "embed/patches/bias": ("patch_embed_super.proj.bias", _usual),
    "head/norm/scale": ("norm.weight", _usual),
    "head/norm/bias": ("norm.bias", _usual),
    "head/classifier/kernel": ("head.weight", _usual),
    "head/classifier/bias": ("head.bias", _usual),
}
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
    shapes = shared_params.parameter_shapes(space)
    flat = flax.traverse_util.flatten_dict({name: shapes[name] for name in space.blocks})
    found = {}
    for leaf, shape in flat.items():
        block = re.fullmatch(r"block(\d+)", leaf[0])
        rule = INNER.get("/".join(leaf[1:])) if block else OUTER.get("/".join(leaf))
        if rule is None or space.bank is not None:
            raise UserError(
                f"the space {space.name} is not of the AutoFormer family: {'/'.join(leaf)} has no "
                "counterpart there; use a config with the space AutoFormerT(), AutoFormerS() or "
                "AutoFormerB(), or with one that spaces.autoformer.autoformer makes"
            )
        name, lies = rule
        prefix = f"blocks.{int(block[1]) - 1}." if block else ""
        found[prefix + name] = lies(leaf, tuple(shape.shape))
    return found
