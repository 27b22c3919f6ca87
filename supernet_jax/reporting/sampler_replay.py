"""Which MACs training visited: the sampler's draws, made again from seed and step.

Shape letters: `S` steps that are replayed, `M` random members of a step, `G` parts of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.experiment import sampler_visits
from supernet_jax.reporting import run_space
from supernet_jax.reporting.metrics_history import Stretch
from supernet_jax.reporting.tolerant_json import mapping
from supernet_jax.storage import typed_json
from supernet_jax.storage.user_code import taken
from supernet_jax.training.samplers import Sampler

MOST = 20_000  # steps that are replayed; of longer runs so many, evenly spaced


class Visited(NamedTuple):
    """MACs of the random members.

    Attributes:
        macs: `[S * M * G]`.
        fixed: MACs of the fixed members, the largest first.
        ends: MACs of the smallest and the largest subnet.
        replayed: S.
        steps: of the run.
    """

    macs: np.ndarray
    fixed: tuple[int, ...]
    ends: tuple[int, int]
    replayed: int
    steps: int


def replayed(
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
    known = mapping(meta.get("space"))
    try:
        own = described["train"]
        seed, shards = int(own["seed"]), int(own.get("arch_shards", 1))
        if not (0 <= seed < 2**63 and 1 <= shards <= 2**16):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("the configuration or the checkpoint does not say enough") from None
    space = run_space.made(described.get("space"), known, types)
    drawing = typed_json.parse(Any, described.get("sampler"), "sampler", named=types)
    sampler = _built(drawing, space, own.get("steps"))
    steps, rollbacks, total = _some(stretches)
    seen = sampler_visits.visits(space, sampler, steps, rollbacks, seed=seed, arch_shards=shards)
    if seen.remembers:
        raise UserError("its sampler has a state that training changes")
    if seen.scored:
        raise UserError("its sampler asks for the losses of subnets")
    macs, menu = costs.macs(space), space.menu
    return Visited(
        macs=seen.macs.get("random", np.zeros(0)),
        fixed=tuple(int(macs(arch)) for arch in sampler.fixed),
        ends=(int(macs(choices.smallest(menu))), int(macs(choices.largest(menu)))),
        replayed=len(steps),
        steps=total,
    )


def _built(sampler: Any, space: Space, steps: Any) -> Sampler:
    """The sampler of a configuration, which may be the user's own."""
    try:
        more = taken(sampler, space=space, steps=steps)
        return sampler.build(menu=space.menu, **more)
    except Exception as error:  # whatever code of the user's raises
        raise UserError(
            f"its sampler cannot be made again ({type(error).__name__}: {error})"
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
