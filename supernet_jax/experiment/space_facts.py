"""What is in a space: its sizes, and the costs of its archs."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices, notation, shared_params
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least, near
from supernet_jax.evaluation import costs
from supernet_jax.evaluation.costs.parameters import left_out
from supernet_jax.evaluation.latency_table import Table
from supernet_jax.experiment import build, config
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.run import Run

SPACE_HELP = f"{' | '.join(config.SPACES)} | a config file"  # for options that name a space
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def space_of(given: Space | Run | Config | str | os.PathLike[str]) -> Space:
    """A space as it is, of a run or of a configuration, or by its name or a config file."""
    if isinstance(given, Space):
        return given
    if isinstance(given, Run):
        return given.space
    if isinstance(given, Config):
        return build.build(given).space
    name = os.fspath(given)
    if name in config.SPACES:
        return config.SPACES[name].build()  # of as many classes as are usual
    if name.endswith(".py") or pathlib.Path(name).exists():
        return build.build(config.load_file(name)[0]).space
    known = ", ".join(config.SPACES)
    hint = near(name, config.SPACES)
    raise UserError(f"there is no space {name!r}, only {known} or a config file{hint}")


def supernet_parameters(space: Space) -> int:
    """Number of shared parameters of a space, over all rows of a bank."""
    shapes = jax.tree.leaves(shared_params.parameter_shapes(space))
    return sum(math.prod(leaf.shape) for leaf in shapes)


def summarise(space: Space, *, samples: int, seed: int) -> dict[str, Any]:
    """Counts and costs of a space as JSON values; quantiles are of uniform archs, the ends those of
    `costs.span`.
    """
    at_least("--samples", samples, 1)
    at_least("--seed", seed, 0)
    archs = choices.sample(space.menu, jax.random.key(seed), (samples,))
    costs_of = {"macs": costs.macs(space), "parameters": costs.parameters(space)}
    ends = {name: costs.span(space, cost) for name, cost in costs_of.items()}
    host = jax.tree.map(np.asarray, archs)
    return {
        "space": space.name,
        "archs": choices.count(space.menu),
        "decisions": len(choices.names(space.menu)),
        "menu": notation.options(space.menu),
        "blocks": len(space.blocks),
        "supernet_parameters": supernet_parameters(space),
        "random": {"samples": samples, "seed": seed},
        **{
            name: {
                "smallest": int(ends[name][0]),
                "largest": int(ends[name][1]),
                **{f"p{q:.0%}"[:-1]: int(np.quantile(cost(host), q)) for q in QUANTILES},
            }
            for name, cost in costs_of.items()
        },
    }


def count(space: Space, archs: Sequence[Arch], table: Table | None = None) -> list[dict[str, Any]]:
    """The notation, MACs and parameters of archs as JSON values; of a space that leaves some out,
    those too; with a table their milliseconds, and it need not know other sizes than the archs'.
    """
    several = choices.stack(archs)
    macs, parameters = costs.macs(space)(several), costs.parameters(space)(several)
    rows: list[dict[str, Any]] = [
        {"arch": notation.to_notation(space.menu, arch), "macs": int(m), "parameters": int(p)}
        for arch, m, p in zip(archs, macs, parameters, strict=True)
    ]
    if space.uncounted:
        for row, rest in zip(rows, left_out(space)(several), strict=True):
            row["parameters_left_out"] = int(rest)
    if table is not None:
        used = np.unique(space.which_size(several))
        cost = costs.latency(space, table, sizes=[space.sizes[i] for i in used])
        for row, milliseconds in zip(rows, cost(several), strict=True):
            row["latency"] = round(float(milliseconds), 6)
    return rows
