"""Architecture parameters: what samplers that search by gradients have in common."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic.choices import Array, Code, Menu
from supernet_jax.errors import require

SPREAD = 1e-3  # deviation of the first parameters, as in DARTS' published code


class AlphaState(NamedTuple):
    """What a sampler that searches by gradients carries from step to step.

    Attributes:
        alpha: logits of each option of each decision, `[O]`.
        optimizer: state of theirs.
    """

    alpha: Code
    optimizer: Any


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
    leaves, treedef = jax.tree.flatten(alpha)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            jax.nn.softmax((leaf + jax.random.gumbel(k, leaf.shape)) / temperature)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )


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
    leaves, treedef = jax.tree.flatten(code)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef,
        [
            jax.random.categorical(k, jnp.log(leaf), shape=shape).astype(jnp.int32)
            for k, leaf in zip(keys, leaves, strict=True)
        ],
    )


def require_positive(name: str, value: float) -> None:
    """Raises a `UserError` unless a setting of the sampler is above 0 and finite."""
    require(0 < value < float("inf"), f"sampler.{name} is {value}, but must be above 0 and finite")
