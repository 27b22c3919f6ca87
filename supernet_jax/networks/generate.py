"""Text that an extracted decoder writes, byte by byte.

    module, variables = sj.load("network")
    print(sj.generate(module, variables, "def main(", tokens=200, temperature=0.8))

Shape letters: `T` ids that the network sees at once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError, at_least
from supernet_jax.networks.network import Network, Variables
from supernet_jax.tasks import NextToken

Array = jax.Array
START = 0  # what stands before a document, and so before an empty prompt


def generate(
    module: Network,
    variables: Variables,
    prompt: str,
    *,
    tokens: int = 200,
    temperature: float = 1.0,
    key: Array | None = None,
) -> str:
    """Goes on with a text.

    The network sees the end of the text: as much as it was trained on, or as its size says. Each
    byte is a pass over all of that: nothing is kept from one to the next.

    Args:
        module: an extracted network whose task is the next of 256 bytes.
        variables: of it.
        prompt: what it goes on with; it may be empty.
        tokens: bytes that are added.
        temperature: by which logits are divided before a byte is drawn; 0 takes the likeliest.
        key: of the draws; None for `jax.random.key(0)`.

    Returns:
        What was added. Bytes that are not UTF-8 are shown as U+FFFD.

    Raises:
        UserError: the network is for another task; no byte is wanted; a temperature below 0.
    """
    task = module.task
    if not isinstance(task, NextToken) or task.vocabulary != 256:
        raise UserError(
            f"the network is for {task.name}, but only one that says the next of 256 bytes can "
            "write; extract one of a decoder that was trained on text"
        )
    at_least("tokens", tokens, 1)
    at_least("temperature", temperature, 0.0)
    length = task.inputs(module.size).shape[1]
    given = [START, *prompt.encode()][-length:]
    seen = np.zeros(length, np.int32)
    seen[: len(given)] = given
    made = _written(
        variables,
        jnp.asarray(seen),
        jnp.int32(len(given)),
        jax.random.key(0) if key is None else key,
        jnp.float32(temperature),
        module=module,
        tokens=tokens,
    )
    return bytes(np.asarray(made, np.uint8)).decode(errors="replace")


@functools.partial(jax.jit, static_argnames=("module", "tokens"))
def _written(
    variables: Variables,
    seen: Array,
    count: Array,
    key: Array,
    temperature: Array,
    *,
    module: Network,
    tokens: int,
) -> Array:
    """Ids that are added, int32 `[tokens]`.

    Args:
        variables: of the module.
        seen: ids `[T]`; what stands behind the first `count` no token before it sees.
        count: at least 1.
        key: of the draws.
        temperature: 0 takes the likeliest.
        module: the network.
        tokens: how many are added.
    """

    def one(state: tuple[Array, Array], place: Array) -> tuple[tuple[Array, Array], Array]:
        seen, count = state
        logits = jnp.asarray(module.apply(variables, seen.reshape(1, -1)))[0, count - 1]
        warm = jnp.maximum(temperature, jnp.finfo(jnp.float32).tiny)
        drawn = jax.random.categorical(jax.random.fold_in(key, place), logits / warm)
        new = jnp.where(temperature > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)
        is_full = count == len(seen)
        moved = jnp.where(is_full, jnp.roll(seen, -1), seen)
        count = jnp.where(is_full, count, count + 1)
        return (moved.at[count - 1].set(new), count), new

    _, made = jax.lax.scan(one, (seen, count), jnp.arange(tokens))
    return made
