"""What runs the programs that are timed for a latency table: JAX, or the runtime of a format."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Call = Callable[[], Any]


class Engine(NamedTuple):
    """What runs the programs that are timed.

    Attributes:
        name: as tables record it, with its version.
        program: `(module, variables, inputs)`, a call of which runs the module on the inputs.
        idle: of a number of arrays; a call of it does next to nothing with as many.
    """

    name: str
    program: Callable[[nn.Module, Any, Sequence[np.ndarray]], Call]
    idle: Callable[[int], Call]


def jitted(module: nn.Module, variables: Any, inputs: Sequence[np.ndarray]) -> Call:
    """The module under `jax.jit`, its arrays on the default device; a call waits for the result."""
    run = jax.jit(lambda variables, *inputs: module.apply(variables, *inputs))
    arrays = jax.device_put((variables, *inputs))
    return lambda: jax.block_until_ready(run(*arrays))


@functools.cache
def _idle(arrays: int) -> Call:
    """A program that is given so many arrays, and adds 1 to one of them.

    Not less: what computes nothing is never started, and on a CPU what computes hardly anything
    runs in the calling thread, without the wait for another one that every real program has.
    """
    run = jax.jit(lambda first, *_: first + 1.0, keep_unused=True)
    given = jax.device_put([jnp.ones(4096) for _ in range(arrays)])
    return lambda: jax.block_until_ready(run(*given))


JIT = Engine("jit", jitted, _idle)
