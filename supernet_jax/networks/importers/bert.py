"""BERT as the library transformers names its tensors, into spaces of `bert_supernet`.

`bert.encoder.layer.0.attention.self.query.weight` and so on, with or without `bert.` before them,
and norms with `gamma` and `beta` as older files have them (arXiv 1810.04805). The network becomes
the largest subnet. What pretraining alone has, whose names begin with `cls.`, is left out.
"""

from collections.abc import Callable, Mapping

import flax
import numpy as np

from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks.importers import tensor_mapping
from supernet_jax.networks.importers.importer import Report
from supernet_jax.networks.importers.tensor_mapping import (
    Leaf,
    Place,
    Rule,
    Shape,
    as_it_is,
    merged_heads,
    place,
)
from supernet_jax.runtime import owned

PREFIX, PRETRAINING = "bert.", "cls."
BUFFER = "embeddings.position_ids"  # 0, 1, 2 and so on
OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
KINDS = ("query", "key", "value")  # a tensor each there, one array here


def _table(rows: str) -> Rule:
    return f"embeddings.{rows}_embeddings.weight", as_it_is


def _affine(ours: str, theirs: str) -> dict[str, Rule]:
    return {f"{ours}/scale": (f"{theirs}.weight", place), f"{ours}/bias": (f"{theirs}.bias", place)}


def _linear(ours: str, theirs: str) -> dict[str, Rule]:
    return {
        f"{ours}/kernel": (f"{theirs}.weight", place),
        f"{ours}/bias": (f"{theirs}.bias", place),
    }


INNER: dict[str, Rule] = {
    # Of the queries; the two other kinds follow in `places`.
    "attention/heads/kernel": ("attention.self.query.weight", as_it_is),
    "attention/heads/bias": ("attention.self.query.bias", as_it_is),
    "attention/merge/kernel": ("attention.output.dense.weight", merged_heads),
    "attention/merge/bias": ("attention.output.dense.bias", place),
    **_affine("attention_norm", "attention.output.LayerNorm"),
    **_linear("expand", "intermediate.dense"),
    **_linear("project", "output.dense"),
    **_affine("mlp_norm", "output.LayerNorm"),
}
OUTER: dict[str, Rule] = {
    "embed/tokens/table": _table("word"),
    "embed/positions/table": _table("position"),
    "embed/types/table": _table("token_type"),
    **_affine("embed/norm", "embeddings.LayerNorm"),
    **_linear("pooler/dense", "pooler.dense"),
    **_linear("head/classifier", "classifier"),
}
FAMILY = (
    "of the form of BERT: {leaf} has no counterpart there; use a config with the space "
    "BertSupernet()"
)
WHAT = "a BERT of the largest subnet's sizes"
CLASSIFIER: Leaf = ("head", "classifier")
CLASSIFIER_TENSORS = ("classifier.weight", "classifier.bias")


def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]:
    """The shared parameters of a space, whose largest subnet is the network.

    Args:
        tensors: by the names of transformers, PyTorch's layout, floats of any width.
        space: `spaces.BertSupernet(...).build(task=...)`.

    Returns:
        Parameters in the tree of `shared_params.init`, NumPy float32, without those of the
        classifier where the file has none; and what became of each tensor.

    Raises:
        UserError: a tensor is missing, unknown or of another shape, as those of another width,
            number of heads or depth; a network without a pooler; a space of another family.
    """
    found = tensor_mapping.without_absent(places(space), CLASSIFIER_TENSORS, tensors)
    named, left = _named(tensors)
    if not any(name.startswith("pooler.") for name in named):
        raise UserError(
            "the file has no pooler (pooler.dense.weight), so it is a BERT that was saved without "
            "one, as for masked words alone; take one that has it, which the classifier reads"
        )
    tree, report = tensor_mapping.mapped(named, found, {}, what=WHAT)
    return _together(tree), report._replace(left=(*report.left, *left))


@owned.by(owned.first)
def places(space: Space) -> dict[str, Place]:
    """Where each tensor goes, by its name without `bert.`, in the order of the space; queries, keys
    and values to places of their own, which `load` brings together.

    Raises:
        UserError: the space is not of the family.
    """
    rules = tensor_mapping.by_rules(
        space, inner=INNER, outer=OUTER, prefix="encoder.layer.{}.", family=FAMILY
    )
    found = {}
    for name, where in rules.items():
        if ".self.query." not in name:
            found[name] = where
            continue
        for kind in KINDS:
            own = name.replace(KINDS[0], kind)
            found[own] = _of_kind((*where.leaf, kind), where.shape)
    return found


def _of_kind(leaf: Leaf, shape: Shape) -> Place:
    """`[H * D, C]` to `[C, H, D]`, or `[H * D]` to `[H, D]`, of one of three kinds."""
    *before, _, heads, d = shape
    own = (*before, heads, d)
    axes = (2, 0, 1) if before else (0, 1)
    return Place(leaf, own, axes, tensor=(heads * d, *before))


def _named(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors by today's names without the prefix, and what is left out."""
    named, left = {}, []
    for name, tensor in tensors.items():
        own = name.removeprefix(PREFIX)
        for old, new in OLD.items():
            own = own.removesuffix(old) + new if own.endswith(old) else own
        if name.startswith(PRETRAINING):
            left.append(f"{name}: it is of pretraining alone")
        elif own == BUFFER:
            left.append(f"{name}: it only counts")
        elif own in named:
            raise UserError(f"the file has {own} twice, as {name} and under another name")
        else:
            named[own] = tensor
    return named, left


def _together(tree: Tree) -> Tree:
    """Queries, keys and values as one array."""
    stack: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
        "kernel": lambda parts: np.stack(parts, 1),
        "bias": lambda parts: np.stack(parts, 0),
    }
    flat = flax.traverse_util.flatten_dict(tree)
    found = {leaf: value for leaf, value in flat.items() if leaf[-1] not in KINDS}
    for leaf in flat:
        if leaf[-1] == KINDS[0]:
            where = leaf[:-1]
            found[where] = stack[where[-1]]([flat[(*where, kind)] for kind in KINDS])
    return flax.traverse_util.unflatten_dict(found)
