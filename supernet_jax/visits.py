"""What a sampler will visit, without training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices, costs, sampling, train
from supernet_jax.choices import Arch, Array


class Visits(NamedTuple):
    """Members of some steps of a run.

    Attributes:
        steps: number of steps looked at, spread evenly over the run.
        macs: by role ("largest", "smallest", "random") those of its members, of all steps.
        scored: whether the sampler asked for losses. It got 0 for each, so among candidates it
            took what comes first.
        remembers: whether the sampler has a state, which stayed what it is at the start.
    """

    steps: int
    macs: dict[str, np.ndarray]
    scored: bool
    remembers: bool


def visits(recipe: train.Recipe, *, total: int, count: int) -> Visits:
    """The members of `count` steps of a run of `total`, drawn as training draws them.

    With several subnets on parts of a batch it is those of the first part.
    """
    sampler, space = recipe.sampler, recipe.space
    steps = np.unique(np.linspace(0, total - 1, count).astype(np.int32))
    scored = False

    def score(arch: Arch) -> Array:
        nonlocal scored
        scored = True
        return jnp.zeros(())

    _, sampler_key = jax.random.split(jax.random.key(recipe.seed))
    state = sampler.init(sampler_key)

    def drawn(step: Array) -> Arch:
        _, key, _ = train.keys(recipe.seed, step, jnp.int32(0))
        key = key if recipe.arch_shards == 1 else jax.random.split(key, recipe.arch_shards)[0]
        return sampler.sample(state, key, step, score)

    archs = None
    if sampler.n_random:
        archs = jax.device_get(jax.jit(lambda steps: jax.lax.map(drawn, steps))(steps))
    macs, roles = costs.macs(space), (*sampling.roles(sampler), *("random",) * sampler.n_random)
    found: dict[str, list[int]] = {role: [] for role in roles}
    for i, step in enumerate(steps):
        sizes = train.step_resolutions(recipe, step=int(step))
        for j, (role, size) in enumerate(zip(roles, sizes, strict=False)):
            random = j - len(sampler.fixed)
            arch = sampler.fixed[j] if random < 0 else _one(archs, i, random)
            place = np.int32(space.resolutions.index(size))
            found[role].append(int(macs(choices.replace(arch, space.resolution, place))))
    counts = {role: np.asarray(values, np.int64) for role, values in found.items()}
    return Visits(len(steps), counts, scored, bool(jax.tree.leaves(state)))


def _one(archs: Any, step: int, member: int) -> Arch:
    return jax.tree.map(lambda leaf: leaf[step, member], archs)
