"""What samplers need to know of a space before training: its MACs, or archs that score well."""

import dataclasses
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices, notation, shared_params
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation import proxies
from supernet_jax.experiment import build, results
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run
from supernet_jax.experiment.space_facts import space_of
from supernet_jax.runtime import cache, progress
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded
from supernet_jax.training.samplers import macs_table as tables
from supernet_jax.training.samplers.macs_table import Table
from supernet_jax.training.samplers.preferred import select


class Scored(NamedTuple):
    """Archs that were chosen by a score of untrained weights.

    Attributes:
        records: of those chosen, cheapest first: "arch" in the notation of the space, "macs", the
            score under its name, "space".
        tried: number of different networks that were scored.
        broken: of how many of these the score is not a number.
    """

    records: list[dict[str, Any]]
    tried: int
    broken: int


def macs_table(
    space: Space | Run | Config | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    bins: int = 40,
    samples: int = 100_000,
    seed: int = 0,
) -> Table:
    """Writes how the archs of a space lie over MACs, for the samplers `Attentive` and `Shift`.

    Args:
        space: a space, a run or a configuration that has one, its name, or a config file.
        out: JSON file, which must not exist.
        bins: ranges of MACs between the smallest and the largest subnet, at least 1.
        samples: random archs that the table is made of, at least 1; more make it finer.
        seed: of these archs, at least 0.

    Raises:
        UserError: a setting is not allowed, or the file cannot be written.
    """
    for name, value, low in (("--bins", bins, 1), ("--samples", samples, 1), ("--seed", seed, 0)):
        at_least(name, value, low)
    path = expanded(out)
    files.check_free("--out", path)
    space = space_of(space)
    with progress.bar("archs", samples, unit="arch") as advance:
        made = tables.build(space, bins=bins, samples=samples, seed=seed, advance=advance)
    files.check_free("--out", path)  # it was free when this began
    files.write_text(path, files.dumps(dataclasses.asdict(made)) + "\n")
    return made


def preferred_archs(
    config: Config,
    out: str | os.PathLike[str],
    *,
    bins: int = 40,
    samples: int = 200,
    keep: int = 2,
    batch: int = 64,
    seed: int = 0,
) -> Scored:
    """Writes the archs whose untrained weights have the best SNIP scores, for the sampler
    `Preferred`.

    Args:
        config: whose space and images.
        out: JSON file, which must not exist.
        bins: ranges of MACs, of each of which the best are chosen, at least 1.
        samples: random archs to choose among, at least 1; more find better ones.
        keep: archs of each range, at least 1.
        batch: training images that scores are computed on, at least 2.
        seed: of the archs and of the untrained weights, at least 0.

    Raises:
        UserError: a setting is not allowed, no score is a number, or the file cannot be written.
    """
    for name, value, low in (
        ("--bins", bins, 1),
        ("--samples", samples, 1),
        ("--keep", keep, 1),
        ("--batch", batch, 2),
        ("--seed", seed, 0),
    ):
        at_least(name, value, low)
    path = expanded(out)
    files.check_free("--out", path)
    cache.enable()
    built = build.build(config)
    space, macs = built.space, tables.reference_macs(built.space)
    archs = _distinct(space, jax.random.key(seed), samples)
    count = len(jax.tree.leaves(archs)[0])
    score = _scorer(built, batch=batch, seed=seed)
    found = []
    with progress.bar("scoring", count, unit="arch") as advance:
        for arch in choices.unstack(archs):
            found.append(float(score(arch)))
            advance(1)
    scores = np.asarray(found)
    numbers = np.flatnonzero(np.isfinite(scores))
    if not len(numbers):
        raise UserError(
            f"the score of none of {count:,} archs is a number; try another --seed or --batch"
        )
    chosen = numbers[
        select(np.asarray(macs(archs))[numbers], scores[numbers], bins=bins, keep=keep)
    ]
    records = [_record(space, archs, int(i), macs, scores[i]) for i in chosen]
    files.check_free("--out", path)  # it was free when this began
    files.write_text(path, results.dump(records) + "\n")
    return Scored(records, count, count - len(numbers))


def _distinct(space: elastic_space.Space, key: choices.Array, samples: int) -> choices.Arch:
    """The networks of so many uniform archs, at the largest size: there they are scored."""
    archs = jax.device_get(choices.sample(space.menu, key, (samples,)))
    last = np.full(samples, len(space.sizes) - 1, np.int32)
    archs = elastic_space.normal(space, space.at_size(archs, last))
    return choices.unpack(space.menu, np.unique(np.asarray(choices.pack(archs)), axis=0))


def _scorer(built: Experiment, *, batch: int, seed: int) -> Any:
    """The jitted score, on a random batch of training examples."""
    space = built.space
    inputs, targets = build.random_examples(built, batch, seed=seed)
    params = jax.jit(lambda: shared_params.init(space, jax.random.key(seed)))()
    return jax.jit(proxies.snip(space, params, inputs, targets, size=space.sizes[-1]))


def _record(space: Space, archs: Any, i: int, macs: Any, score: float) -> dict[str, Any]:
    """One line of the file."""
    arch = jax.tree.map(lambda leaf: leaf[i], archs)
    return {
        "arch": notation.to_notation(space.menu, arch),
        "macs": int(macs(arch)),
        "snip": float(score),
        "space": space.name,
    }
