"""A search on disk: one NumPy archive, written whole or not at all, read without pickle.

It holds every leaf of the searcher's state, the history, and as JSON what the search belongs to.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.searching.searcher import History
from supernet_jax.storage import arrays, files

DAMAGED = "give it another name, and the search begins anew"
IDENTITY = "identity"  # the entry with the JSON; leaves have names like ".state.key"


class Saved(NamedTuple):
    """Where a search stands.

    Attributes:
        state: of the searcher, before it was asked for the generation that is being scored.
        history: all archs scored so far.
        told: how many of them the state knows; the others belong to the current generation.
    """

    state: Any
    history: History
    told: int


def write(file: Path, saved: Saved, identity: Mapping[str, Any]) -> None:
    """Replaces the file, atomically: a process killed meanwhile leaves the old one.

    Args:
        file: where; its folder is made if need be.
        saved: what.
        identity: JSON values that say what the search belongs to.

    Raises:
        UserError: the file cannot be written, or a leaf of the state is no array, number or key.
        TypeError: the identity is not JSON.
    """
    entries: dict[str, Any] = {IDENTITY: np.array(json.dumps(identity))}
    entries |= {name: _to_array(name, leaf) for name, leaf in _named(saved).items()}
    arrays.write(file, entries)


def read(file: Path, like: Saved, identity: Mapping[str, Any]) -> Saved:
    """Reads what `write` wrote.

    Args:
        file: where.
        like: gives the structure and types; array sizes may differ.
        identity: what the search should belong to.

    Raises:
        UserError: the file cannot be read, is damaged, belongs to something else, or another
            searcher wrote it.
    """
    found = arrays.read(file, kind="search state", damaged=DAMAGED)
    try:
        belongs = json.loads(str(found.pop(IDENTITY)[()]))
        if not isinstance(belongs, dict):
            raise ValueError("its identity is no object")
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(
            f"{files.unreadable(file, error, kind='search state')}; {DAMAGED}"
        ) from error
    _compare(file, belongs, json.loads(json.dumps(identity)))
    leaves = _named(like)
    wrong = set(leaves) ^ set(found)
    wrong |= {n for n in set(leaves) & set(found) if not _alike(n, leaves[n], found[n])}
    if wrong:
        raise UserError(
            f"{file} was written by another searcher: they differ in {', '.join(sorted(wrong))}; "
            "use the searcher that wrote it, or another state file"
        )
    restored = [_from_array(leaf, found[name]) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored)


def _compare(file: Path, there: Any, here: Any) -> None:
    """Raises a `UserError` that names the fields in which two identities differ."""
    missing = object()
    differing = [
        f"{name} is {_shown(there, name)} there and {_shown(here, name)} here"
        for name in sorted(set(there) | set(here))
        if there.get(name, missing) != here.get(name, missing)
    ]
    if differing:
        raise UserError(
            f"{file} belongs to another search: {'; '.join(differing)}; search with what it "
            "belongs to, or give another state file"
        )


def _shown(identity: Any, name: str) -> str:
    return json.dumps(identity[name]) if name in identity else "absent"


def _named(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_array(name: str, leaf: Any) -> np.ndarray:
    array = np.asarray(jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf))
    if array.dtype.hasobject:
        raise UserError(
            f"{name} of the searcher is a {type(leaf).__name__}; keep arrays, numbers or keys in it"
        )
    return array


def _alike(name: str, leaf: Any, array: np.ndarray) -> bool:
    """Whether an array may stand for the leaf. bfloat16 and its like are read as raw bytes."""
    mine = _to_array(name, leaf)
    same = (mine.dtype.kind, mine.dtype.itemsize) == (array.dtype.kind, array.dtype.itemsize)
    return same and mine.ndim == array.ndim


def _from_array(leaf: Any, array: np.ndarray) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array | np.ndarray):
        array = array.view(leaf.dtype)
        return jnp.asarray(array) if isinstance(leaf, jax.Array) else array
    return type(leaf)(array[()])
