"""The archs of a space over their MACs: what is needed to draw one that costs so much.

A table says how MACs are distributed over uniform archs, in bins of equal width, and how likely
each option of each decision is within each bin, decision by decision. AttentiveNAS (arXiv
2011.09011, section 3) draws from one. Any space has one: it is made of random archs and their
exact MACs.

MACs are those at the largest size of inputs. A step's size is a shape and drawn apart; archs of
one bin cost alike at any.

Shape letters: `K` bins, `D` decisions, `O` the most options of a decision, `N` archs.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs import Cost
from supernet_jax.storage import files, typed_json
from supernet_jax.storage.paths import expanded

FORMAT, VERSION = "supernet_jax table of MACs", 1
CHUNK = 10_000  # archs that are counted at once
TRIES = 100  # as published: so many archs are drawn for one of a bin


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as its file holds it.

    Attributes:
        format: `FORMAT`.
        version: of the format.
        space: name of the space.
        samples: uniform archs that it was made of.
        seed: of those.
        edges: MACs between the bins, `[K + 1]`, from the smallest to the largest subnet.
        probability: of each bin, `[K]`.
        options: by decision the probability of each option in each bin, `[K][options]`; zeros
            where a bin is empty.
    """

    format: str
    version: int
    space: str
    samples: int
    seed: int
    edges: tuple[float, ...]
    probability: tuple[float, ...]
    options: dict[str, tuple[tuple[float, ...], ...]]


class Bins(NamedTuple):
    """A table as arrays.

    Attributes:
        edges: float32 `[K + 1]`.
        logits: of the bins, `[K]`; minus infinity where empty.
        options: logits of the options, `[K, D, O]`; minus infinity beyond a decision's own.
    """

    edges: np.ndarray
    logits: np.ndarray
    options: np.ndarray


def reference_macs(space: Space) -> Cost:
    """MACs at the space's largest size, whatever that of the arch."""
    count, last = costs.macs(space), len(space.sizes) - 1

    def macs(arch: Arch) -> Array | np.ndarray:
        return count(space.at_size(arch, space.which_size(arch) * 0 + last))

    return macs


def build(
    space: Space,
    *,
    bins: int,
    samples: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Table:
    """The table of a space, from uniform archs.

    Args:
        space: any.
        bins: K.
        samples: number of archs.
        seed: of the archs.
        advance: called with the number of archs counted since the last call.
    """
    menu, macs = space.menu, reference_macs(space)
    edges = np.linspace(*ends(space), bins + 1)
    leaves = jax.tree.leaves(menu)
    counts = [np.zeros((bins, len(choice)), np.int64) for choice in leaves]
    for start in range(0, samples, CHUNK):
        n = min(CHUNK, samples - start)
        key = jax.random.fold_in(jax.random.key(seed), start // CHUNK)
        archs = jax.tree.map(lambda leaf, n=n: np.asarray(leaf)[:n], _uniform(menu, key))
        which = np.clip(np.searchsorted(edges, macs(archs), side="right") - 1, 0, bins - 1)
        for count, chosen in zip(counts, jax.tree.leaves(archs), strict=True):
            np.add.at(count, (which, chosen), 1)
        advance(n)
    total = counts[0].sum(-1)
    shares = [count / np.maximum(total, 1)[:, None] for count in counts]
    return Table(
        FORMAT,
        VERSION,
        space.name,
        samples,
        seed,
        tuple(edges.tolist()),
        tuple((total / samples).tolist()),
        {
            name: tuple(tuple(row) for row in share.tolist())
            for name, share in zip(choices.names(menu), shares, strict=True)
        },
    )


def ends(space: Space) -> tuple[float, float]:
    """The fewest and the most MACs of a subnet, at least one apart."""
    low, high = costs.span(space, reference_macs(space))
    return low, max(high, low + 1)


def _uniform(menu: Menu, key: Array) -> Arch:
    """`CHUNK` archs; always so many, that the first of them do not depend on the number wanted."""
    return choices.sample(menu, key, (CHUNK,))


def read(path: pathlib.Path) -> Table:
    """Reads what `supernet table` wrote.

    Raises:
        UserError: no such file, or it is not such a table.
    """
    hint = "`supernet table SPACE --out FILE` makes one"
    try:
        value = json.loads(files.content_of(path).decode("utf-8"))
    except PermissionError as error:
        raise files.unreadable(path, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{files.unreadable(path, error, kind='table of MACs')}; {hint}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(f"{path} is not a table of MACs; {hint}")
    if value.get("version") != VERSION:
        raise UserError(f"{path} has version {value.get('version')}, this is {VERSION}; {hint}")
    return typed_json.parse(Table, value, str(path))


def check(table: Table, space: Space) -> None:
    """Makes sure that a table was made of a space.

    Raises:
        UserError: its decisions, their numbers of options or its MACs are others.
    """
    ours = dict(zip(choices.names(space.menu), map(len, jax.tree.leaves(space.menu)), strict=True))
    theirs = {name: len(rows[0]) for name, rows in table.options.items() if rows}
    low, high = ends(space)
    whole = _whole(table)
    if not whole or ours != theirs or (table.edges[0], table.edges[-1]) != (low, high):
        seen = f"{table.edges[0]:,.0f} to {table.edges[-1]:,.0f} MACs" if table.edges else "no bin"
        raise UserError(
            "the table of MACs was made of another space or is damaged: "
            f"{table.space} with {len(theirs)} decisions and {seen}, but this is "
            f"{space.name} with {len(ours)} decisions and "
            f"{low:,.0f} to {high:,.0f} MACs; make it again with `supernet table`"
        )


def _whole(table: Table) -> bool:
    """Whether all its parts have the same bins, and rows that one can draw from."""
    bins = {len(rows) for rows in table.options.values()} | {len(table.probability)}
    ragged = any(len(row) != len(rows[0]) for rows in table.options.values() for row in rows)
    likely = table.probability, *(row for rows in table.options.values() for row in rows)
    below = any(value < 0 for row in likely for value in row)
    return bins == {len(table.edges) - 1} and not ragged and not below and sum(likely[0]) > 0


def arrays(table: Table) -> Bins:
    """The table as arrays to draw from."""
    most = max(len(rows[0]) for rows in table.options.values())
    shares = np.zeros((len(table.probability), len(table.options), most), np.float32)
    for i, rows in enumerate(table.options.values()):
        shares[:, i, : len(rows[0])] = rows
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(table.probability, np.float32))
        return Bins(np.asarray(table.edges, np.float32), logits, np.log(shares))


def even(menu: Menu, edges: Sequence[float]) -> Bins:
    """Bins between any edges, from which uniform archs are drawn, all bins alike."""
    sizes = np.array([len(choice) for choice in jax.tree.leaves(menu)])
    own = np.where(np.arange(sizes.max()) < sizes[:, None], 0, -np.inf).astype(np.float32)
    count = len(edges) - 1
    options = np.broadcast_to(own, (count, *own.shape))
    return Bins(np.asarray(edges, np.float32), np.zeros(count, np.float32), options)


def draw(bins: Bins, menu: Menu, macs: Cost, key: Array, which: Array) -> Arch:
    """One arch of a bin: the first of `TRIES` drawn option by option whose MACs lie in it.

    Where none does it is the one that comes nearest to the bin's centre (the published code takes
    the last).

    Args:
        bins: the table.
        menu: of its space.
        macs: `reference_macs` of it.
        key: consumed.
        which: int32 `[]`, a bin that is not empty.
    """
    logits = jnp.asarray(bins.options)[which]
    shape = (TRIES, logits.shape[0])
    packed = jax.random.categorical(key, logits, axis=-1, shape=shape).astype(jnp.int32)
    low, high = jnp.asarray(bins.edges)[which], jnp.asarray(bins.edges)[which + 1]
    cost = jnp.asarray(macs(choices.unpack(menu, packed))).astype(jnp.float32)
    off = jnp.abs(cost - (low + high) / 2)
    inside = off <= (high - low) / 2
    best = jnp.where(inside.any(), jnp.argmax(inside), jnp.argmin(off))
    return choices.unpack(menu, packed[best])


def read_or_build(file: str | None, bins: int, space: Space) -> Bins:
    """The table of a file, or one made now."""
    require(bins >= 1, f"sampler.bins is {bins}, must be 1 or more")
    if file is None:
        return arrays(build(space, bins=bins, samples=20_000))
    table = read(expanded(file))
    check(table, space)
    return arrays(table)
