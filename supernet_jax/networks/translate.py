"""Translations that an extracted network writes, by beam search.

    module, variables = sj.load("network")
    print(sj.translate(module, variables, ["on lf ml"]))

The search is that of fairseq, by which HAT (arXiv 2005.14187) is measured: of every unfinished
translation all ids that may follow are looked at, and as many as the beam is wide go on. One among
the first so many that ends is finished. A source is done when that many are. Of them the one with
the largest sum of log-likelihoods divided by a power of its length, the end included, is taken.

Shape letters: `B` sources, `S` ids of each, `T` ids of a target, `K` translations of a beam, `V`
ids of the vocabulary.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError, at_least, require
from supernet_jax.networks.network import Network, Variables
from supernet_jax.tasks import Translation
from supernet_jax.tasks.translation import END, PADDING

Array = jax.Array
LOWEST = -math.inf


def translate(
    module: Network,
    variables: Variables,
    sources: Sequence[str],
    *,
    beam: int = 4,
    length_penalty: float = 0.6,
    batch: int = 64,
) -> list[str]:
    """Translates lines.

    Each id is a pass over the whole network: nothing is kept from one to the next.

    Args:
        module: an extracted network that translates bytes.
        variables: of it.
        sources: lines, each shorter than the sources that it was trained on may be.
        beam: K; 1 takes the likeliest id each time. HAT has 4 for WMT and 5 for IWSLT.
        length_penalty: power of the length by which a sum of log-likelihoods is divided; more
            prefers longer translations. HAT has 0.6 for WMT and 1 for IWSLT.
        batch: sources that are translated at once.

    Returns:
        A line for each. Bytes that are not UTF-8 are shown as U+FFFD.

    Raises:
        UserError: the network is for another task; a source is empty, too long or no line; a beam
            of none.
    """
    task = module.task
    if not isinstance(task, Translation) or task.vocabulary != 256:
        raise UserError(
            f"the network is for {task.name}, but only one that translates bytes can be asked "
            "for translations; extract one that was trained on pairs of sentences"
        )
    at_least("batch", batch, 1)
    if isinstance(sources, str) or not all(isinstance(line, str) for line in sources):
        raise UserError("sources must be a list of lines, as ['on lf ml']")
    ids = np.full((len(sources), task.source), PADDING, np.int32)
    for number, line in enumerate(sources):
        content = line.encode()
        require(
            0 < len(content) < task.source and not {PADDING, END} & {*content},
            f"source {number} has {len(content)} bytes; it must be a line of 1 to "
            f"{task.source - 1}, for so many the network takes",
        )
        ids[number, : len(content) + 1] = [*content, END]
    made = search(module, variables, ids, beam=beam, length_penalty=length_penalty, batch=batch)
    return [bytes(line).decode(errors="replace") for line in made]


def search(
    module: Network,
    variables: Variables,
    sources: np.ndarray,
    *,
    beam: int,
    length_penalty: float,
    batch: int = 64,
) -> list[list[int]]:
    """Translates ids `[B, S]`, with their ends and padding: ids of each target, without its end.

    Raises:
        UserError: a beam of none, or a penalty that is no number.
    """
    at_least("beam", beam, 1)
    require(
        math.isfinite(length_penalty), f"length_penalty is {length_penalty}, but must be a number"
    )
    found: list[list[int]] = []
    for start in range(0, len(sources), batch):
        part = sources[start : start + batch]
        padded = np.zeros((min(batch, len(sources)), sources.shape[1]), np.int32)
        padded[: len(part)] = part  # always as many, so that one program is enough
        power = jnp.float32(length_penalty)
        lines = np.asarray(_searched(variables, jnp.asarray(padded), power, module=module, k=beam))
        found += [line[: line.index(END)] for line in lines[: len(part)].tolist()]
    return found


class _Beam(NamedTuple):
    """Where a search stands.

    Attributes:
        ids: of unfinished translations, int32 `[B, K, T]`.
        nats: log-likelihood of each, `[B, K]`.
        ended: ids of finished ones, with their ends, int32 `[B, K, T]`.
        value: of each, minus infinity where there is none yet, `[B, K]`.
        finished: how many are, `[B]`.
    """

    ids: Array
    nats: Array
    ended: Array
    value: Array
    finished: Array


@functools.partial(jax.jit, static_argnames=("module", "k"))
def _searched(
    variables: Variables, sources: Array, power: Array, *, module: Network, k: int
) -> Array:
    """The best translation of each source, int32 `[B, T]`, with its end."""
    task = module.task
    assert isinstance(task, Translation)
    b, length = len(sources), task.target
    each = jnp.repeat(sources, k, 0)

    def logits(ids: Array, place: Array) -> Array:
        """Of what follows so many ids: `[B, K, V]`."""
        begun = jnp.concatenate([jnp.full((b * k, 1), END), ids.reshape(b * k, -1)[:, :-1]], 1)
        whole = jnp.asarray(module.apply(variables, jnp.concatenate([each, begun], 1)))
        return jax.lax.dynamic_index_in_dim(whole, place, 1, keepdims=False).reshape(b, k, -1)

    def step(state: _Beam, place: Array) -> tuple[_Beam, None]:
        return _extended(state, jax.nn.log_softmax(logits(state.ids, place)), place, power), None

    empty = jnp.full((b, k, length), PADDING, jnp.int32)
    # At first all are alike: one of them counts.
    first = jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, LOWEST).reshape(1, k), (b, k))
    none = jnp.full((b, k), LOWEST)
    start = _Beam(empty, first, empty, none, jnp.zeros(b, jnp.int32))
    found, _ = jax.lax.scan(step, start, jnp.arange(length))
    best = jnp.argmax(found.value, 1)
    return jnp.take_along_axis(found.ended, best[:, None, None], 1)[:, 0]


def _extended(state: _Beam, nats: Array, place: Array, power: Array) -> _Beam:
    """A search after one more id, whose log-likelihoods are `[B, K, V]`."""
    b, k, length = state.ids.shape
    number = jnp.arange(nats.shape[-1]).reshape(1, 1, -1)
    # There is no empty translation, and none goes on behind the last place.
    barred = (number == PADDING) | ((number == END) & (place == 0) & (length > 1))
    barred |= (number != END) & (place == length - 1)
    total = state.nats[..., None] + jnp.where(barred, LOWEST, nats)
    value, which = jax.lax.top_k(total.reshape(b, -1), min(2 * k, k * number.size))
    parent, new = which // number.size, (which % number.size).astype(jnp.int32)
    lines = jnp.take_along_axis(state.ids, parent[..., None], 1)
    at_place = jnp.arange(length).reshape(1, 1, -1) == place
    lines = jnp.where(at_place, new[..., None], lines)
    is_end, is_there = new == END, value > LOWEST
    # Those that end among the first K are finished, until there are K.
    ends = is_end & is_there & (jnp.arange(value.shape[1]).reshape(1, -1) < k)
    slot = jnp.where(ends, state.finished[:, None] + jnp.cumsum(ends, 1) - 1, k)
    rows = jnp.arange(b)[:, None]
    ended = state.ended.at[rows, slot].set(lines, mode="drop")
    normed = value / (place + 1.0) ** power
    values = state.value.at[rows, slot].set(normed, mode="drop")
    count = jnp.minimum(state.finished + jnp.sum(ends, 1), k)
    # The first K that do not end go on.
    order = jnp.argsort(is_end, axis=1, stable=True)[:, :k]
    onward = jnp.take_along_axis(jnp.where(is_end, LOWEST, value), order, 1)
    ids = jnp.take_along_axis(lines, order[..., None], 1)
    return _Beam(ids, onward, ended, values, count)
