"""Architecture parameters: what samplers that search by gradients have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic.choices import Arch, Array, Code, Menu
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.errors import require
from supernet_jax.training.samplers.sampler import CodeScore, Learn, Sampler, Score

SPREAD = 1e-3  # deviation of the first parameters, as in DARTS' published code


class AlphaState(NamedTuple):
    """What a sampler that searches by gradients carries from step to step.

    Attributes:
        alpha: logits of each option of each decision, `[O]`.
        optimizer: state of theirs.
    """

    alpha: Code
    optimizer: Any


def searching(
    menu: Menu,
    optimizer: optax.GradientTransformation,
    *,
    sample: Callable[[AlphaState, Array, Array, Score], Arch | Code],
    learn: Callable[[AlphaState, Array, Array, CodeScore], tuple[AlphaState, Array]],
    role: str = "mixture",
) -> Sampler:
    """A sampler of one member whose state is alpha, and whose code is `softmax(alpha)`.

    Args:
        menu: what may be chosen.
        optimizer: of alpha.
        sample: as `Sampler.sample`, of one arch or code, `[1]`.
        learn: as `Learn.update`.
        role: of the member.
    """

    def code(state: AlphaState, params: Tree) -> Code:
        return probabilities(state.alpha)

    return Sampler(
        (),
        1,
        init=lambda key: begun(menu, optimizer, key),
        sample=sample,
        update=lambda state, metrics: state,
        roles=(role,),
        regularised=(),
        learn=Learn(learn, code),
    )


def begun(menu: Menu, optimizer: optax.GradientTransformation, key: Array) -> AlphaState:
    """Nearly equal options, by small random logits that break ties."""
    leaves = jax.tree.leaves(menu)
    drawn = SPREAD * jax.random.normal(key, (sum(map(len, leaves)),))
    parts = jnp.split(drawn, np.cumsum([len(choice) for choice in leaves])[:-1])
    alpha = jax.tree.unflatten(jax.tree.structure(menu), parts)
    return AlphaState(alpha, optimizer.init(alpha))


def probabilities(alpha: Code) -> Code:
    """How likely each option is: the softmax of each decision's logits."""
    return jax.tree.map(jax.nn.softmax, alpha)


def gumbel(key: Array, alpha: Code, temperature: float | Array) -> Code:
    """A relaxed sample: `softmax((alpha + g) / temperature)` with Gumbel noise g (FBNet, arXiv
    1812.03443, equation 6). At low temperatures it is nearly one-hot.

    Args:
        key: consumed.
        alpha: logits.
        temperature: above 0.
    """
    return each(
        key, alpha, lambda k, z: jax.nn.softmax((z + jax.random.gumbel(k, z.shape)) / temperature)
    )


def each(key: Array, tree: Any, draw: Callable[[Array, Array], Array]) -> Any:
    """`draw(key, leaf)` of each decision, with a key of its own."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, list(map(draw, keys, leaves)))


def descended(
    state: AlphaState,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Code], Array],
) -> tuple[AlphaState, Array]:
    """The state after a step of the optimiser on `loss(alpha)`, and that loss."""
    value, gradients = jax.value_and_grad(loss)(state.alpha)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.alpha)
    return AlphaState(optax.apply_updates(state.alpha, updates), optimizer_state), value


def stacked(code: Code) -> Code:
    """One code as the random members of a step, `[1, O]`."""
    return jax.tree.map(lambda leaf: leaf[None], code)


def argmax(code: Code) -> Any:
    """The arch of the likeliest options (NumPy, no batch axes)."""
    return jax.tree.map(lambda leaf: np.int32(np.argmax(leaf)), code)


def drawn(key: Array, code: Code, shape: tuple[int, ...] = ()) -> Any:
    """Archs whose decisions are drawn by a code's probabilities, independently."""

    def one(key: Array, likely: Array) -> Array:
        return jax.random.categorical(key, jnp.log(likely), shape=shape).astype(jnp.int32)

    return each(key, code, one)


def require_positive(name: str, value: float) -> None:
    """Raises a `UserError` unless a setting of the sampler is above 0 and finite."""
    require(0 < value < float("inf"), f"sampler.{name} is {value}, but must be above 0 and finite")
