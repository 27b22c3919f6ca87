"""What a sampler visits, drawn again without training.

Shape letters: `S` steps, `M` random members of a step, `G` parts of a batch with subnets of their
own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.evaluation import costs
from supernet_jax.training import members, samplers, train_step
from supernet_jax.training.samplers import Sampler


class Visits(NamedTuple):
    """Members of some steps of a run.

    Attributes:
        macs: by role ("largest", "smallest", "random") those of its members, of all steps, at the
            size of the step.
        scored: whether the sampler asked for losses. It got 0 for each, so among candidates it
            took what comes first.
        remembers: whether the sampler has a state, which stayed what it is at the start.
    """

    macs: dict[str, np.ndarray]
    scored: bool
    remembers: bool


def visits(
    space: Space,
    sampler: Sampler,
    steps: np.ndarray,
    rollbacks: np.ndarray,
    *,
    seed: int,
    arch_shards: int = 1,
) -> Visits:
    """The members of some steps, drawn as training draws them.

    Args:
        space: whose subnets.
        sampler: of the run.
        steps: int `[S]`.
        rollbacks: int `[S]`, how often training had gone back before each.
        seed: of the run.
        arch_shards: G of the recipe.

    Raises:
        UserError: the random members are codes.
    """
    if samplers.draws_codes(sampler):
        raise UserError(
            "its random members are codes, mixtures of options without MACs of a subnet"
        )
    macs, n_fixed = costs.macs(space), len(sampler.fixed)
    training = np.array([samplers.active(sampler, int(step)) for step in steps], np.int32)
    found: dict[str, list[np.ndarray]] = {}
    for i, (arch, role) in enumerate(zip(sampler.fixed, samplers.roles(sampler), strict=False)):
        times = int((training > i).sum())
        found.setdefault(role, []).append(np.full(times, int(macs(arch)), np.int64))
    archs, scored = draws(space, sampler, steps, rollbacks, seed=seed, arch_shards=arch_shards)
    if sampler.n_random:
        spent = np.asarray(macs(archs), np.int64)  # [S, M] or [S, M, G]
        trains = n_fixed + np.arange(sampler.n_random) < training[:, None]
        found["random"] = [spent[trains].ravel()]
    remembers = bool(jax.tree.leaves(jax.eval_shape(sampler.init, jax.random.key(0))))
    joined = {role: np.concatenate(values) for role, values in found.items()}
    return Visits(joined, scored, remembers)


def draws(
    space: Space,
    sampler: Sampler,
    steps: np.ndarray,
    rollbacks: np.ndarray,
    *,
    seed: int,
    arch_shards: int,
) -> tuple[Arch | None, bool]:
    """The random archs of some steps, and whether the sampler asked for losses.

    Leaves are `[S, M]`, or `[S, M, G]` with several parts; None of a sampler without random
    members. Arguments are those of `visits`.
    """
    if not sampler.n_random:
        return None, False
    scored = False

    def score(arch: Arch) -> Array:
        nonlocal scored
        scored = True
        return jnp.zeros(())

    state = sampler.init(jax.random.split(jax.random.key(seed))[1])

    def one(at: tuple[Array, Array]) -> Arch:
        step, rolled = at
        _, key, _ = members.step_keys(jax.random.key(seed), step, rolled)
        if arch_shards == 1:
            return sampler.sample(state, key, step, score)
        keys = jax.random.split(key, arch_shards)
        return jax.vmap(lambda k: sampler.sample(state, k, step, score), out_axes=1)(keys)

    # As many as a power of two: one program serves a run that goes on.
    more = (0, (1 << (len(steps) - 1).bit_length()) - len(steps))
    places = tuple(np.pad(x.astype(np.int32), more, mode="edge") for x in (steps, rollbacks))
    archs = jax.device_get(jax.jit(lambda at: jax.lax.map(one, at, batch_size=64))(places))
    archs = jax.tree.map(lambda leaf: leaf[: len(steps)], archs)
    options = len(space.sizes)
    sizes = [
        train_step.shared_size(options, seed=seed, step=int(step), rollbacks=int(rolled))
        for step, rolled in zip(steps, rollbacks, strict=True)
    ]
    shape = jax.tree.leaves(archs)[0].shape
    spread = np.reshape(np.array(sizes, np.int32), (-1,) + (1,) * (len(shape) - 1))
    return space.at_size(archs, np.broadcast_to(spread, shape)), scored
