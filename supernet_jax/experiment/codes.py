"""What a run's sampler has learned: its code, and archs of it.

Shape letters: `O` options of one decision.
"""

import os
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic.choices import Arch, Code
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, at_least
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import dependence
from supernet_jax.storage import checkpoint
from supernet_jax.training import train_step
from supernet_jax.training.samplers import architecture

ARGMAX, SAMPLED = "argmax", "sampled:"  # names of archs of a code


def code_of(run: Run | str | os.PathLike[str]) -> Code:
    """How likely each option of each decision is at the run's checkpoint, as its sampler says.

    Only the state of the sampler is read, and the parameters where the code depends on them.

    Args:
        run: a trained run, or its folder.

    Returns:
        For each decision of the space float32 `[O]` (NumPy), from 0 to 1, in sum 1. Static
        decisions, which are shapes and drawn for each step, have not learned.

    Raises:
        UserError: no such run; its sampler learns no code; the checkpoint's is one of another space
            or sampler, or cannot be read.
    """
    run = experiment_run.opened(run, read=False)
    recipe, kept = run.experiment.recipe, run.folder / "checkpoints"
    if recipe.sampler.learn is None:
        raise UserError(
            f"the sampler of {run.folder}, {type(run.config.sampler).__name__}, learns no code; "
            "train with one that does, as sj.samplers.Darts()"
        )
    learned, shapes = recipe.sampler.learn.code, train_step.shapes(recipe)
    state = shapes.sampler
    if jax.tree.leaves(state):  # of an empty one, whose code is all in the parameters, none is kept
        state = checkpoint.restore(kept, state, step=run.step, subtree="sampler")
    if any(dependence.on_last(learned, shapes.sampler, shapes.params)):
        params = checkpoint.restore_params(kept, step=run.step)  # in training it saw no average
    else:  # zeros that take no memory
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes.params
        )
    code = jax.tree.map(np.asarray, learned(state, params))
    _check(run.space, code)
    return code


def is_name(text: str) -> bool:
    """Whether a text names an arch of a code, rightly or wrongly written."""
    return text == ARGMAX or text.startswith(SAMPLED)


def arch_of(run: Run, name: str) -> Arch:
    """The arch that a name stands for.

    Args:
        run: a trained run.
        name: `argmax`, the likeliest option of each decision, or `sampled:SEED`, drawn by their
            probabilities. Static decisions take their largest option.

    Raises:
        UserError: as of `code_of`; the seed is no whole number from 0.
    """
    if name == ARGMAX:
        return likeliest(run.space, code_of(run))
    given = name.removeprefix(SAMPLED)
    if not (given.isascii() and given.isdecimal()):
        raise UserError(
            f"the arch is {name!r}, but its seed must be a whole number of at least 0, as in "
            "sampled:3"
        )
    at_least("the seed of sampled:SEED", int(given), 0)
    return drawn(run.space, code_of(run), seed=int(given))


def likeliest(space: Space, code: Code) -> Arch:
    """The likeliest option of each decision of a code; static ones take their largest."""
    return _largest_size(space, architecture.argmax(code))


def drawn(space: Space, code: Code, *, seed: int) -> Arch:
    """An arch drawn by the probabilities of a code; static decisions take their largest option."""
    arch = architecture.drawn(jax.random.key(seed), code)
    return _largest_size(space, jax.tree.map(np.asarray, arch))


def _largest_size(space: Space, arch: Arch) -> Arch:
    found: Arch = space.at_size(arch, np.int32(len(space.sizes) - 1))
    return found


def _check(space: Space, code: Any) -> None:
    """Raises a `UserError` unless a code has a probability for each option of a space."""
    wanted = jax.tree.map(lambda choice: np.zeros(len(choice)), space.menu)
    own: Any = jax.tree.structure(wanted)
    there, here = (jax.tree.map(np.shape, tree) for tree in (code, wanted))
    if own != jax.tree.structure(code) or there != here:
        raise UserError(
            f"the sampler's code has the shapes {there}, but the space {space.name} has decisions "
            f"of {here}; let the sampler give a probability for each option"
        )
