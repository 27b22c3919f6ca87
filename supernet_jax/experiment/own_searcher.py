"""The searcher of a part that may be the user's own, whose mistakes are said with their place."""

import functools
from typing import Any

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.errors import UserError, require
from supernet_jax.experiment import build as experiment_build
from supernet_jax.experiment.run import Run
from supernet_jax.searching import CodeLoss, Costs, HeldOut, Searcher, code_loss
from supernet_jax.storage import user_code


def build(part: Any, run: Run, costs: Costs) -> Searcher:
    """The searcher of a part.

    Args:
        part: with `build(space, costs)`, or `build(space, costs, losses)` where it goes by what the
            supernet loses under codes.
        run: that is searched.
        costs: with their budgets.

    Raises:
        UserError: the user's own `build` fails or returns something else; of calls of what it
            returns, they fail, or ask for something that is no archs of the space.
    """
    kind = type(part).__name__
    space = run.space
    more = user_code.taken(part, losses=functools.partial(losses, run))
    with user_code.blamed(part, f"{kind}.build(space, costs)"):
        made = part.build(space, costs, **more)
    require(
        isinstance(made, Searcher),
        f"{kind}.build(space, costs) returns a {type(made).__name__}; it must return a Searcher",
    )
    if not user_code.is_own(part):
        return made
    init = user_code.watched(part, f"init of {kind}", made.init)
    tell = user_code.watched(part, f"tell of {kind}", made.tell)

    def ask(state: Any) -> tuple[Arch, Any]:
        with user_code.blamed(part, f"ask of {kind}"):
            archs, after = made.ask(state)
            archs = jax.tree.map(np.asarray, archs)
        _check(archs, space, kind)
        return archs, after

    return Searcher(init, ask, tell)


def losses(run: Run, strategy: Strategy) -> CodeLoss:
    """What the supernet of a run loses under codes on its held-out examples, which a search scores
    on, too.

    Args:
        run: a trained run.
        strategy: that runs codes, `mixed` or `masked`.
    """
    about, data = (
        experiment_build.evaluation_how(run.experiment),
        experiment_build.evaluation_data(run.experiment, "held-out"),
    )
    each = (data.inputs, data.targets, data.real)
    batches = [
        HeldOut(*jax.tree.map(lambda leaf, i=i: leaf[i], each)) for i in range(len(data.real))
    ]
    how: dict[str, Any] = {"prepare": about.prepare, "dtype": about.dtype}
    return code_loss(run.space, run.params, batches, strategy=strategy, **how)


def _check(archs: Any, space: Space, kind: str) -> None:
    """Raises a `UserError` unless these are archs `[N]` of a space."""
    wanted = "option indices for each decision of space.menu, whole numbers of the same shape [N]"
    menu: Any = jax.tree.structure(space.menu)
    leaves = jax.tree.leaves(archs)
    shapes = {leaf.shape for leaf in leaves}
    if jax.tree.structure(archs) != menu or len(shapes) != 1 or len(shapes.pop()) != 1:
        raise UserError(f"ask of {kind} gives something that is no archs; it must give {wanted}")
    for name, choice, leaf in zip(
        choices.names(space.menu), jax.tree.leaves(space.menu), leaves, strict=True
    ):
        if leaf.dtype.kind not in "iu":
            raise UserError(f"ask of {kind} gives {leaf.dtype} for {name}; it must give {wanted}")
        wrong = leaf[(leaf < 0) | (leaf >= len(choice))]
        if len(wrong):
            raise UserError(
                f"ask of {kind} gives option {wrong[0]} for {name}, which has options 0 to "
                f"{len(choice) - 1}"
            )
