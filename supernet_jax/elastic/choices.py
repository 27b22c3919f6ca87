"""Decisions, menus and archs: what may be chosen, and what was.

A *menu* is a pytree (dicts, lists, tuples) whose leaves are `Choice`s. An *arch* is the same
pytree with an integer option index at each leaf, a *code* the same pytree with a weight for every
option of every decision. All functions here are pure; unless they say otherwise they take archs
with any leading batch axes and work inside `jax.jit`.

Shape letters: `...` leading batch axes, `D` number of decisions, `O` options of one decision.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError

Array = jax.Array
Menu = Any  # pytree of Choice
Arch = Any  # pytree of int32 arrays [...], one per decision
Code = Any  # pytree of float arrays [..., O], one per decision
Values = Any  # pytree of the chosen values themselves, as people write them
Path = tuple[str | int, ...]  # where a decision stands in the menu, as ("width", 3)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One decision: its allowed values, smallest first.

    Attributes:
        values: the options in ascending order, without repeats.
        depth: `(path, i)`: the decision counts only in archs whose value at `path` exceeds i, as
            one of a block with that `elastic(depth=...)`; None if it always counts. A list of such
            decisions may be written without those at its end that do not count.
    """

    values: tuple[int | float, ...]
    depth: tuple[Path, int] | None = None

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise ValueError(
                f"a Choice needs distinct values, smallest first; got {self.values}; "
                "write Choice((3, 5)), not Choice((5, 3))"
            )

    def __len__(self) -> int:
        return len(self.values)


def count(menu: Menu) -> int:
    """Number of archs of a menu (exact, any size)."""
    return math.prod(len(choice) for choice in jax.tree.leaves(menu))


def names(menu: Menu) -> tuple[str, ...]:
    """Name of each decision in leaf order, as `width/3`."""
    return tuple("/".join(map(str, path)) for path in paths(menu))


def paths(menu: Menu) -> tuple[Path, ...]:
    """Where each decision stands in the menu, in leaf order."""
    flat, _ = jax.tree_util.tree_flatten_with_path(menu)
    return tuple(tuple(_key(entry) for entry in path) for path, _ in flat)


def get(tree: Any, path: Path) -> Any:
    """The leaf of an arch, code or menu at `path`."""
    for key in path:
        tree = tree[key]
    return tree


def replace(tree: Any, path: Path, leaf: Any) -> Any:
    """The arch, code or menu with another leaf at `path`."""
    if not path:
        return leaf
    changed = replace(tree[path[0]], path[1:], leaf)
    if isinstance(tree, Mapping):
        return {**tree, path[0]: changed}
    return type(tree)(changed if i == path[0] else old for i, old in enumerate(tree))


def largest(menu: Menu) -> Arch:
    """The arch that takes the last option everywhere (NumPy, no batch axes)."""
    return jax.tree.map(lambda choice: np.int32(len(choice) - 1), menu)


def smallest(menu: Menu) -> Arch:
    """The arch that takes the first option everywhere (NumPy, no batch axes)."""
    return jax.tree.map(lambda choice: np.int32(0), menu)


def sample(menu: Menu, key: Array, shape: tuple[int, ...] = ()) -> Arch:
    """Uniform archs: every option of every decision equally likely.

    Args:
        menu: what may be chosen.
        key: consumed.
        shape: leading batch axes of the result.
    """
    sizes = _sizes(menu, shape)
    return unpack(menu, jax.random.randint(key, sizes.shape, 0, sizes, jnp.int32))


def mutate(menu: Menu, key: Array, arch: Arch, *, rate: float | Array) -> Arch:
    """Replaces each decision, with probability `rate`, by a *different* option.

    AttentiveNAS's mutation (arXiv 2011.09011). Decisions with one option stay. `rate` is one number
    or has the archs' batch axes.
    """
    pick, turn = jax.random.split(key)
    old = pack(arch)
    sizes = _sizes(menu, old.shape[:-1])
    # A turn of 1 to size - 1 never comes back to where it was.
    turned = (
        old + jax.random.randint(turn, old.shape, 1, jnp.maximum(sizes, 2), jnp.int32)
    ) % sizes
    return unpack(menu, jnp.where(_happens(pick, rate, old.shape), turned, old))


def crossover(key: Array, first: Arch, second: Arch, *, rate: float | Array = 0.5) -> Arch:
    """Uniform crossover: each decision comes from `second` with probability `rate`.

    `rate` is one number or has the archs' batch axes.
    """
    a, b = pack(first), pack(second)
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    return unpack(first, jnp.where(_happens(key, rate, shape), b, a))


def one_hot(menu: Menu, arch: Arch) -> Code:
    """The hard code of an arch: weight 1 on the chosen option, 0 elsewhere. Leaves `[..., O]`."""
    return jax.tree.map(lambda choice, i: jax.nn.one_hot(i, len(choice)), menu, arch)


def is_code(arch: Arch | Code) -> bool:
    """Whether this is a (relaxed) code rather than an arch: its leaves are floating."""
    return any(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(arch))


def require_arch(arch: Arch | Code) -> None:
    """Raises a `UserError` for a code, where only an arch has a meaning."""
    if is_code(arch):
        raise UserError(
            "a code was given (weights of each option), but an arch is wanted (the index of one "
            "option for each decision); jax.tree.map(lambda w: w.argmax(-1), code) is the likeliest"
        )


def pack(arch: Arch) -> Any:
    """All decisions side by side: int32 `[..., D]`, in leaf order; NumPy in, NumPy out.

    Raises:
        UserError: it is a code.
    """
    require_arch(arch)
    leaves = jax.tree.leaves(arch)
    xp = jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np
    return xp.stack([xp.asarray(leaf, xp.int32) for leaf in leaves], axis=-1)


def unpack(menu: Menu, packed: Array | np.ndarray) -> Arch:
    """Inverse of `pack`; NumPy in, NumPy out."""
    treedef = jax.tree.structure(menu)
    return jax.tree.unflatten(treedef, [packed[..., i] for i in range(packed.shape[-1])])


def stack(archs: Sequence[Arch]) -> Arch:
    """Several archs as one, with a new leading axis (NumPy, host only)."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *archs)


def unstack(arch: Arch) -> list[Arch]:
    """Inverse of `stack` (host only)."""
    host = jax.tree.map(np.asarray, arch)
    return [jax.tree.map(lambda x, i=i: x[i], host) for i in range(len(jax.tree.leaves(host)[0]))]


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """An integer that a few decisions determine, as a table over their options.

    Attributes:
        paths: the decisions asked.
        table: int `[O_1, ..., O_k]`, the answer for each combination of their options.
    """

    paths: tuple[Path, ...]
    table: np.ndarray

    def static(self, arch: Arch) -> int:
        """The answer for a concrete arch without batch axes."""
        return int(self.table[tuple(int(get(arch, path)) for path in self.paths)])

    def __call__(self, arch: Arch) -> Array | np.ndarray:
        """The answer for archs with any batch axes: `[...]`; NumPy in, NumPy out."""
        index = tuple(get(arch, path) for path in self.paths)
        if any(isinstance(i, jax.Array) for i in index):
            return jnp.asarray(self.table)[index]
        return np.asarray(self.table[index])

    def probabilities(self, arch: Arch | Code, size: int) -> Array:
        """How likely each of the answers `0 .. size-1` is: float `[size]`, one-hot for archs.

        The decisions of a code are independent. No batch axes (use `vmap`).
        """
        if not is_code(arch):
            return jax.nn.one_hot(jnp.asarray(self(arch)), size)
        joint = jnp.ones((1,))
        for path in self.paths:
            joint = (joint[:, None] * get(arch, path)[None, :]).reshape(-1)
        answers = np.eye(size, dtype=np.float32)[self.table.reshape(-1)]
        return jnp.dot(joint, answers, precision=jax.lax.Precision.HIGHEST)


def tabulate(menu: Menu, where: Sequence[Path], answer: Any) -> np.ndarray:
    """Calls `answer(*values)` for every combination of the decisions at `where`.

    Returns:
        An object array `[O_1, ..., O_k]` of what `answer` returned.
    """
    options = [get(menu, path).values for path in where]
    table = np.empty([len(o) for o in options], dtype=object)
    for index in itertools.product(*(range(len(o)) for o in options)):
        table[index] = answer(*(o[i] for o, i in zip(options, index, strict=True)))
    return table


def _happens(key: Array, rate: float | Array, shape: tuple[int, ...]) -> Array:
    """Independent events of probability `rate [...]`: bool `shape` = `[..., D]`."""
    return jax.random.uniform(key, shape) < jnp.broadcast_to(jnp.asarray(rate)[..., None], shape)


def _sizes(menu: Menu, shape: tuple[int, ...]) -> Array:
    """Number of options of each decision, repeated over batch axes: int32 `[*shape, D]`."""
    sizes = jnp.asarray([len(choice) for choice in jax.tree.leaves(menu)], jnp.int32)
    return jnp.broadcast_to(sizes, (*shape, len(sizes)))


def _key(entry: Any) -> str | int:
    return entry.idx if isinstance(entry, jax.tree_util.SequenceKey) else entry.key
