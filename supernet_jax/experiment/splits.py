"""Where a run's supernet is best split in two: the options that should not share weights."""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices, code_names, shared_params
from supernet_jax.elastic.choices import Arch, Path
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.evaluation import gradient_matching
from supernet_jax.experiment import build
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import progress
from supernet_jax.spaces import FewShot, few_shot
from supernet_jax.spaces.few_shot import Options


class Split(NamedTuple):
    """A sub-supernet in two.

    Attributes:
        row: the sub-supernet, as `FewShot.rows` has it; empty where there is one supernet.
        decision: whose options part.
        parts: names of the options of each.
        distance: how much options of different parts disagree: one minus the cosine of their
            gradients, from 0 to 2, mean over pairs.
        rows: of the space after the split, for `FewShot(rows=...)`.
    """

    row: str
    decision: str
    parts: tuple[tuple[str, ...], tuple[str, ...]]
    distance: float
    rows: tuple[str, ...]


def splits(
    run: Run | str | os.PathLike[str],
    *,
    batches: int = 20,
    batch: int = 64,
    seed: int = 0,
) -> list[Split]:
    """Possible splits of a run's supernet, or of each of its sub-supernets, the best first.

    Gradient matching for few-shot NAS (Hu et al. 2022, arXiv 2203.15207). For each decision with
    several options the gradients of its options are compared, on random training examples and a
    random subnet for each batch; the options part where they disagree most.

    Args:
        run: a trained run, or its folder; of a warm-up, say.
        batches: over which distances are averaged; more make them steadier, and take longer.
        batch: training examples in each, at least 2.
        seed: of examples and subnets.

    Raises:
        UserError: no such run; a bank that is not of `FewShot`; no decision can be split.
    """
    at_least("--batches", batches, 1)
    at_least("--batch", batch, 2)
    at_least("--seed", seed, 0)
    run = experiment_run.opened(run)
    space, part = run.space, run.config.space
    rows: tuple[str, ...] = part.rows if isinstance(part, FewShot) else ()
    if space.bank is not None and not rows:
        raise UserError(
            f"the rows of the bank of {space.name} are not those of FewShot, so none can be "
            "written for a split; train with space=FewShot(space=...)"
        )
    kept: list[Options] = [few_shot.parse(space, row) for row in rows] or [{}]
    owners = set(shared_params.parameter_shapes(space))
    todo = [
        (place, path, options)
        for place, own in enumerate(kept)
        for path in choices.paths(space.menu)
        for options in [own.get(path, tuple(range(len(choices.get(space.menu, path)))))]
        if len(options) > 1
        and path not in space.static
        and owners - gradient_matching.decided(space, path)  # weights that all options share
    ]
    if not todo:
        raise UserError(
            f"no decision of {space.name} can be split: each has one option left, or determines "
            "all blocks"
        )
    examples = [build.random_examples(run.experiment, batch, seed=seed + i) for i in range(batches)]
    program = jax.jit(gradient_matching.distances(space, size=space.sizes[-1]))
    found = []
    with progress.bar("comparing gradients", len(todo) * batches) as advance:
        for place, path, options in todo:
            own = gradient_matching.decided(space, path)
            shared = {owner: np.bool_(owner not in own) for owner in owners}
            total = np.zeros((len(options), len(options)))
            for i, (inputs, targets) in enumerate(examples):
                key = jax.random.fold_in(jax.random.key(seed), i)
                archs = _archs(space, kept[place], key, path, options)
                total += np.asarray(program(run.params, inputs, targets, archs, shared))
                advance(1)
            found.append((place, path, options, gradient_matching.cut(total / batches)))
    found.sort(key=lambda each: -each[-1].distance)
    return [_told(space, rows, kept, *each) for each in found]


def _archs(space: Space, kept: Options, key: Any, path: Path, options: tuple[int, ...]) -> Arch:
    """A random subnet of a sub-supernet with each option of a decision in turn, `[O]`."""
    archs = choices.sample(space.menu, key, (1,))
    for i, (other, allowed) in enumerate(kept.items()):
        pick = jax.random.choice(jax.random.fold_in(key, i), jnp.asarray(allowed), (1,))
        archs = choices.replace(archs, other, pick.astype(jnp.int32))
    archs = space.at_size(archs, jnp.full(1, len(space.sizes) - 1, jnp.int32))
    archs = jax.tree.map(lambda leaf: jnp.repeat(leaf, len(options)), archs)
    return choices.replace(archs, path, jnp.asarray(options, jnp.int32))


def _told(
    space: Space,
    rows: tuple[str, ...],
    kept: list[Options],
    place: int,
    path: Path,
    options: tuple[int, ...],
    cut: gradient_matching.Cut,
) -> Split:
    parts = [tuple(options[i] for i in part) for part in cut.parts]
    names = code_names.option_names(space, path)
    one, other = (tuple(names[i] for i in part) for part in parts)
    new = [few_shot.written(space, {**kept[place], path: part}) for part in parts]
    return Split(
        rows[place] if rows else "",
        "/".join(map(str, path)),
        (one, other),
        cut.distance,
        (*rows[:place], *new, *rows[place + 1 :]),
    )
