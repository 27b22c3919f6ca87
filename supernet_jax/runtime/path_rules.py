"""Leaves of a tree by the names on their paths."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax

from supernet_jax.errors import UserError

Tree = Any  # pytree of arrays, or of jax.ShapeDtypeStruct
Params = Any  # nested dicts of arrays: {block: {layer: {kernel | bias | scale}}}
Groups = tuple[tuple[str, Any], ...]  # (regular expression for a whole path, its group)


def param_groups(params: Params, *, groups: Groups) -> Params:
    """The group of every parameter, chosen by its path.

    Args:
        params: nested dicts with any leaves.
        groups: the first whose expression matches the whole path, as "block/layer/leaf", decides.

    Returns:
        A tree of the same structure, of groups.

    Raises:
        UserError: naming the paths that no expression matches.
    """
    unmatched: list[str] = []

    def one(path: tuple[Any, ...], leaf: Any) -> Any:
        del leaf
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, group in groups:
            if re.fullmatch(pattern, name):
                return group
        unmatched.append(name)
        return ""

    result = jax.tree_util.tree_map_with_path(one, params)
    if unmatched:
        raise UserError(
            f"no group for the parameters {', '.join(unmatched)}; every path must match one of "
            f"{[pattern for pattern, _ in groups]}: add a (regular expression, group) to groups"
        )
    return result


def chosen(params: Params, patterns: tuple[str, ...] | None) -> Params:
    """The part of nested dicts whose leaves have certain paths.

    Args:
        params: nested dicts with any leaves.
        patterns: regular expressions, one of which matches the whole path, as "block/layer/leaf";
            None for all of it.
    """
    return params if patterns is None else _chosen(params, patterns, "")


def _chosen(params: Params, patterns: tuple[str, ...], where: str) -> Params:
    found = {}
    for name, inner in params.items():
        if isinstance(inner, Mapping):
            if part := _chosen(inner, patterns, f"{where}{name}/"):
                found[name] = part
        elif any(re.fullmatch(pattern, f"{where}{name}") for pattern in patterns):
            found[name] = inner
    return found


def laid_over(params: Params, part: Params) -> Params:
    """Nested dicts with the leaves of a part of them in place of their own."""
    own = {
        name: laid_over(params[name], inner) if isinstance(inner, Mapping) else inner
        for name, inner in part.items()
    }
    return {**params, **own}


def ending_in(path: Any, names: Collection[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """Which parameter a leaf belongs to, in anything that holds trees like theirs, as momenta and
    averages: the one of `names` in which its path ends, as ("block", "layer", "leaf").
    """
    keys = tuple(_key(entry) for entry in path)
    return next((keys[i:] for i in range(len(keys)) if keys[i:] in names), None)


def _key(entry: Any) -> Any:
    """What one step of a tree's path is called."""
    if isinstance(entry, jax.tree_util.DictKey | jax.tree_util.FlattenedIndexKey):
        return entry.key
    return entry.name if isinstance(entry, jax.tree_util.GetAttrKey) else entry.idx


def named_leaves(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by the names of their paths, as `name_of` spells them."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: Any) -> str:
    """`params/stem/conv/kernel`, the same for a state and for the nested dicts that are saved."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
