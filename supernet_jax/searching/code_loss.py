"""The door between a supernet and searches that go by gradients: what it loses under a code.

Shape letters: `B` examples of a batch, `O` options of one decision.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic.choices import Code
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.mixed import mixed
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.errors import UserError
from supernet_jax.tasks.task import Scores, Size


class HeldOut(NamedTuple):
    """A batch of examples that the supernet is evaluated on. All have one shape.

    Attributes:
        inputs: what the space's task takes, `[B, ...]`.
        targets: `[B, ...]`.
        real: bool `[B]`, False where the batch was filled up; None for all.
    """

    inputs: Tree
    targets: Tree
    real: Any = None


class CodeLoss(NamedTuple):
    """The loss of codes on batches of held-out examples, and its slope.

    Attributes:
        batches: how many there are.
        slope: `(code, i) -> (loss, gradient)` on batch `i`: the mean over its examples, and for
            each decision `[O]`, NumPy. The size of inputs is that of the code's static decisions,
            which are one-hot.
    """

    batches: int
    slope: Callable[[Code, int], tuple[float, Code]]


def scores_of_code(
    space: Space,
    params: Tree,
    code: Code,
    batch: HeldOut,
    *,
    size: Size,
    strategy: Strategy,
    **how: Any,
) -> Scores:
    """The task's scores of each example under a code; works inside jit.

    Norms use the statistics of the batch: no code has calibrated ones.

    Args:
        space: the space.
        params: shared parameters.
        code: no batch axes.
        batch: of examples.
        size: of the inputs; static.
        strategy: that runs codes.
        **how: further arguments of the strategy.
    """
    made = strategy(space, params, code, batch.inputs, size=size, **how)
    return space.task.score(made.logits, batch.targets)


def code_loss(
    space: Space,
    params: Tree,
    batches: Sequence[HeldOut],
    *,
    strategy: Strategy = mixed,
    prepare: Callable[[Tree], Tree] = lambda inputs: inputs,
    dtype: Any = jnp.float32,
) -> CodeLoss:
    """What a supernet loses under codes. One program is compiled for each size that is asked for.

    Args:
        space: the space.
        params: shared parameters, trained.
        batches: held-out examples, at least one batch.
        strategy: `mixed` or `masked`.
        prepare: makes the task's inputs of those of a batch.
        dtype: of weights and activations.

    Raises:
        UserError: there are no batches; of a call, the loss is not a number.
    """
    if not batches:
        raise UserError("there are no batches to evaluate the supernet on; give at least one")

    @functools.partial(jax.jit, static_argnames="size")
    def run(params: Tree, code: Code, batch: HeldOut, *, size: Size) -> tuple[Any, Code]:
        def loss(code: Code) -> Any:
            given = batch._replace(inputs=prepare(batch.inputs))
            how: dict[str, Any] = {"size": size, "strategy": strategy, "dtype": dtype}
            each = scores_of_code(space, params, code, given, **how)["loss"]
            if batch.real is None:
                return jnp.mean(each)
            return jnp.sum(jnp.where(batch.real, each, 0)) / jnp.sum(batch.real)

        return jax.value_and_grad(loss)(code)

    def slope(code: Code, i: int) -> tuple[float, Code]:
        arch = jax.tree.map(np.argmax, code)
        code = jax.tree.map(np.float32, code)
        loss, found = run(params, code, batches[i], size=space.size_of(arch))
        if not np.isfinite(loss):
            raise UserError(
                "the loss of the supernet under a code is not a number; its weights have diverged: "
                "train it again, for example at a lower learning rate"
            )
        return float(loss), jax.tree.map(np.asarray, found)

    return CodeLoss(len(batches), slope)
