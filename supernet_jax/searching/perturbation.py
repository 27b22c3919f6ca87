"""Selection by perturbation: the arch of a trained code, by what the supernet loses without it.

The weight of an option says little of what it does for the supernet. Here the options of a decision
are taken away one at a time, and the one is kept without which the supernet is worst (DARTS-PT,
Wang et al. 2021, arXiv 2108.04392, section 4, algorithm 1).

Shape letters: `N` codes that are tried together, `B` examples of a batch, `O` options of one
decision.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Array, Code, Path
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, one_of
from supernet_jax.runtime import owned
from supernet_jax.searching.code_loss import HeldOut, scores_of_code
from supernet_jax.tasks.task import Scores, Size

CRITERIA = ("loss", "metric")
Criterion = Literal["loss", "metric"]
Tune = Callable[[Tree, Code], Tree]


class Keep(NamedTuple):
    """Decisions of which only some may be something: of the edges that lead to a node, two.

    Attributes:
        decisions: where they stand in the menu.
        none: place of the option that is nothing, the same in all. It is none of the candidates
            while their options are decided.
        kept: so many are.
    """

    decisions: tuple[Path, ...]
    none: int
    kept: int = 2


def perturbed(
    space: Space,
    params: Tree,
    code: Code,
    batches: Sequence[HeldOut],
    *,
    seed: int = 0,
    keeps: Sequence[Keep] = (),
    criterion: Criterion = "loss",
    size: Size | None = None,
    tune: Tune | None = None,
) -> Arch:
    """The arch whose options the supernet misses most.

    Decisions are made in random order. Of each, the supernet is evaluated under `mixed` without one
    option at a time, the weights of the others scaled up to a sum of 1; the option without which it
    is worst is kept, and the code has that one alone from then on. Then, of each of `keeps`, those
    decisions become nothing, one after the other, without which the supernet is best.

    Norms use the statistics of the batch, as the published code does. Programs are compiled once
    for a space and a shape of batches, however many decisions there are.

    Args:
        space: the space.
        params: shared parameters, trained.
        code: no batch axes. Options of weight 0 are no candidates.
        batches: held-out examples, at least one batch.
        seed: of the order of decisions.
        keeps: decisions that compete, as the edges of a node; see `Keep`.
        criterion: worst by the mean loss, or by the task's metric (among equal ones by the loss).
        size: of the inputs; None for the largest.
        tune: `(params, code) -> params`, called after each decision but the last: further training
            of the supernet under the code as it is then. The paper does that; None does not.

    Returns:
        An arch of NumPy integers.

    Raises:
        UserError: no batches; an unknown criterion; a code or size of another space; a decision
            without any weight; a loss that is not a number.
    """
    one_of("criterion", criterion, CRITERIA)
    if not batches:
        raise UserError("there are no batches to evaluate the supernet on; give at least one")
    if not choices.is_code(code):
        raise UserError("an arch was given, but a code is perturbed: weights of each option")
    trial = _Trial(space, params, _begun(space, code, size), batches, criterion, size, keeps)
    barred = {path: keep.none for keep in keeps for path in keep.decisions}
    rng = np.random.default_rng(seed)
    paths = [path for path in choices.paths(space.menu) if path not in space.static]
    steps: list[Callable[[], None]] = []
    for i in rng.permutation(len(paths)):
        steps.append(functools.partial(trial.decide, paths[i], barred.get(paths[i])))
    for i in rng.permutation(len(keeps)):
        spare = len(keeps[i].decisions) - keeps[i].kept
        steps += [functools.partial(trial.drop, keeps[i])] * spare
    for i, step in enumerate(steps):
        if i and tune is not None:
            trial.params = tune(trial.params, trial.code)
        step()
    return jax.tree.map(lambda weights: np.int32(np.argmax(weights)), trial.code)


def without(weights: Any, option: int) -> np.ndarray:
    """Weights `[O]` of a decision without one of its options, scaled up to a sum of 1; zeros where
    nothing is left.
    """
    rest = np.array(weights, np.float32)
    rest[option] = 0
    total = rest.sum()
    return rest / total if total > 0 else rest


class _Trial:
    """A supernet under a code that becomes an arch, decision by decision."""

    def __init__(
        self,
        space: Space,
        params: Tree,
        code: Code,
        batches: Sequence[HeldOut],
        criterion: Criterion,
        size: Size | None,
        keeps: Sequence[Keep],
    ) -> None:
        self.space, self.params, self.code = space, params, code
        self.batches, self.criterion = batches, criterion
        self.score = _scorer(space, space.sizes[-1] if size is None else size)
        options = map(len, jax.tree.leaves(space.menu))
        self.most = max([*options, *(len(keep.decisions) for keep in keeps)])

    def decide(self, path: Path, barred: int | None) -> None:
        """Keeps the option of a decision without which the supernet is worst."""
        weights = choices.get(self.code, path)
        candidates = [int(i) for i in np.flatnonzero(weights) if i != barred]
        if not candidates:
            raise UserError(
                f"the code gives no option of the decision {'/'.join(map(str, path))} that may be "
                "kept a weight above 0; give a code that does"
            )
        if len(candidates) > 1:
            tried = [choices.replace(self.code, path, without(weights, i)) for i in candidates]
            harm = self.harm(tried)
            candidates = [candidates[harm.index(max(harm))]]
        self._fix(path, candidates[0])

    def drop(self, keep: Keep) -> None:
        """Makes nothing of the decision without which the supernet is best."""
        left = [path for path in keep.decisions if choices.get(self.code, path)[keep.none] < 1]
        nothing = [self._fixed(path, keep.none) for path in left]
        if len(left) > keep.kept:
            harm = self.harm(nothing)
            self._fix(left[harm.index(min(harm))], keep.none)

    def harm(self, codes: Sequence[Code]) -> list[tuple[float, float]]:
        """How bad the supernet is under each code, larger for worse: what counts, and the loss."""
        filled = [*codes, *[codes[0]] * (self.most - len(codes))]
        together = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        found: list[dict[str, np.ndarray]] = []
        for batch in self.batches:
            scores = self.score(self.params, together, len(codes), batch._replace(real=None))
            real = slice(None) if batch.real is None else np.asarray(batch.real)
            found.append({name: np.asarray(score)[:, real] for name, score in scores.items()})
        joint = {name: np.concatenate([one[name] for one in found], 1) for name in found[0]}
        return [
            self._worth({name: score[i] for name, score in joint.items()})
            for i in range(len(codes))
        ]

    def _worth(self, scores: Any) -> tuple[float, float]:
        loss = float(np.mean(scores["loss"], dtype=np.float64))
        if np.isnan(loss):
            raise UserError(
                "the loss of the supernet without an option is not a number; its weights have "
                "diverged: train it again, for example at a lower learning rate"
            )
        if self.criterion == "loss":
            return loss, loss
        task = self.space.task
        return -task.metric.score(float(task.value(scores))), loss

    def _fix(self, path: Path, option: int) -> None:
        self.code = self._fixed(path, option)

    def _fixed(self, path: Path, option: int) -> Code:
        weights = choices.get(self.code, path)
        return choices.replace(self.code, path, np.eye(len(weights), dtype=np.float32)[option])


def _begun(space: Space, code: Code, size: Size | None) -> Code:
    """The code on the host, at one size."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(code)]
    if shapes != [(len(choice),) for choice in jax.tree.leaves(space.menu)]:
        raise UserError(
            f"the code is not of the space {space.name}: give a weight for each option of each of "
            f"its {len(jax.tree.leaves(space.menu))} decisions, without batch axes"
        )
    if size is not None and size not in space.sizes:
        raise UserError(f"the size is {size}, but must be one of {list(space.sizes)}")
    which = len(space.sizes) - 1 if size is None else space.sizes.index(size)
    return jax.tree.map(lambda leaf: np.array(leaf, np.float32), space.at_size(code, which))


@owned.by(owned.first)
def _scorer(space: Space, size: Size) -> Callable[..., Scores]:
    """`(params, codes [N], count, batch) -> scores [N, B, ...]` of the first codes."""
    one = functools.partial(scores_of_code, space, size=size, strategy=mixed)

    @jax.jit
    def scores(params: Tree, codes: Code, count: Array, batch: HeldOut) -> Scores:
        at = lambda i: jax.tree.map(lambda leaf: leaf[i], codes)  # noqa: E731
        shapes = jax.eval_shape(one, params, at(0), batch)
        several = len(jax.tree.leaves(codes)[0])
        empty = jax.tree.map(lambda s: jnp.zeros((several, *s.shape), s.dtype), shapes)

        def add(i: Array, found: Scores) -> Scores:
            own = one(params, at(i), batch)
            return jax.tree.map(lambda all, own: all.at[i].set(own), found, own)

        # A loop, not vmap: it ends at a traced count, and holds what one code needs.
        return jax.lax.fori_loop(0, count, add, empty)

    return scores
