"""Which MACs training visited: the sampler's draws, made again from seed and step.

Shape letters: `S` steps that are replayed, `M` random members of a step, `G` parts of a batch.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax import checkpoint, choices, costs, schema, train
from supernet_jax.choices import Arch, Array
from supernet_jax.errors import UserError
from supernet_jax.network import Space
from supernet_jax.report.history import Stretch
from supernet_jax.sampling import Sampler

MOST = 20_000  # steps that are replayed; of longer runs so many, evenly spaced


class Visited(NamedTuple):
    """MACs of the random members.

    Attributes:
        macs: `[S * M * G]`.
        fixed: MACs of the members of every step, the largest first.
        ends: MACs of the smallest and the largest subnet.
        replayed: S.
        steps: of the run.
    """

    macs: np.ndarray
    fixed: tuple[int, ...]
    ends: tuple[int, int]
    replayed: int
    steps: int


class _NeedsScores(Exception):
    """The sampler asked for the loss of an arch."""


def visited(
    described: Mapping[str, Any],
    meta: Mapping[str, Any],
    stretches: Sequence[Stretch],
    types: Mapping[str, type],
) -> Visited:
    """Replays the sampler of a run.

    Args:
        described: the run's `config.json`.
        meta: of its last checkpoint.
        stretches: the steps that ran.
        types: configuration dataclasses by name.

    Raises:
        UserError: why that cannot be done.
    """
    known = meta.get("space")
    try:
        assert isinstance(known, Mapping)
        sizes = {"classes": int(known["classes"]), "input_channels": int(known["input_channels"])}
        own = described["train"]
        seed, shards = int(own["seed"]), int(own.get("arch_shards", 1))
        if not (0 <= seed < 2**63 and 1 <= shards <= 2**16):
            raise ValueError
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        raise UserError("the configuration or the checkpoint does not say enough") from None
    part = schema.from_json(described.get("space"), types, where="space")
    drawing = schema.from_json(described.get("sampler"), types, where="sampler")
    space, sampler = _built(part, drawing, sizes)
    checkpoint.check_space(dict(meta), space)
    if jax.tree.leaves(jax.eval_shape(sampler.init, jax.random.key(0))):
        raise UserError("its sampler has a state that training changes")
    steps, rollbacks, total = _some(stretches)
    macs = costs.macs(space)
    archs = draws(space, sampler, steps, rollbacks, seed=seed, shards=shards)
    ends = choices.smallest(space.menu), choices.largest(space.menu)
    return Visited(
        macs=np.asarray(macs(archs)).ravel() if sampler.n_random else np.zeros(0),
        fixed=tuple(int(macs(arch)) for arch in sampler.fixed),
        ends=(int(macs(ends[0])), int(macs(ends[1]))),
        replayed=len(steps),
        steps=total,
    )


def _built(space: Any, sampler: Any, sizes: Mapping[str, int]) -> tuple[Space, Sampler]:
    """The space and the sampler of a configuration; both may be the user's own."""
    try:
        made: Space = space.build(**sizes)
        return made, sampler.build(menu=made.menu)
    except Exception as error:  # whatever code of the user's raises
        raise UserError(
            "its sampler cannot be made from the menu of the space alone "
            f"({type(error).__name__}: {error})"
        ) from error


def _some(stretches: Sequence[Stretch]) -> tuple[np.ndarray, np.ndarray, int]:
    """Steps that ran, evenly spaced where they are many, their rollbacks, and how many ran."""
    ends = np.cumsum([s.stop - s.start for s in stretches])
    total = int(ends[-1])
    if max(s.stop for s in stretches) >= 2**31:
        raise UserError("its metrics name impossible steps")
    place = np.unique(np.linspace(0, total - 1, min(MOST, total)).astype(np.int64))
    which = np.searchsorted(ends, place, side="right")
    stops = np.array([s.stop for s in stretches])
    rolled = np.array([s.rollbacks for s in stretches])
    return stops[which] - (ends[which] - place), rolled[which], total


def draws(
    space: Space,
    sampler: Sampler,
    steps: np.ndarray,
    rollbacks: np.ndarray,
    *,
    seed: int,
    shards: int,
) -> Arch:
    """The random archs of some steps: leaves `[S, M]`, or `[S, M, G]` with several parts.

    Args:
        space: whose archs.
        sampler: without state.
        steps: int `[S]`.
        rollbacks: int `[S]`, how often training had gone back.
        seed: of the run.
        shards: G, parts of a batch with archs of their own.

    Raises:
        UserError: the sampler needs the losses of archs.
    """

    def score(arch: Arch) -> Array:
        raise _NeedsScores

    def one(step: Array, rolled: Array) -> Arch:
        _, key, _ = train.step_keys(seed, step, rolled)
        sample = functools.partial(sampler.sample, ())
        if shards == 1:
            return sample(key, step, score)
        keys = jax.random.split(key, shards)
        return jax.vmap(lambda k: sample(k, step, score), out_axes=1)(keys)

    try:
        drawn = jax.jit(jax.vmap(one))(steps.astype(np.int32), rollbacks.astype(np.int32))
    except _NeedsScores:
        raise UserError("its sampler asks for the losses of subnets") from None
    archs = jax.tree.map(np.asarray, drawn)
    options = choices.get(space.menu, space.resolution).values
    sizes = [
        train.shared_resolution(len(options), seed=seed, step=int(s), rollbacks=int(r))
        for s, r in zip(steps, rollbacks, strict=True)
    ]
    shape = choices.get(archs, space.resolution).shape
    spread = np.reshape(np.array(sizes, np.int32), (-1,) + (1,) * (len(shape) - 1))
    return choices.replace(archs, space.resolution, np.broadcast_to(spread, shape))
