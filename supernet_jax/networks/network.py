"""An ordinary network: blocks at their own sizes, one after another."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.runtime import hardware
from supernet_jax.tasks import Size, Task

Array = jax.Array
Variables = dict[str, Any]  # {"params": ..., "stats": ...}, each {block: {layer: ...}}
Runner = Callable[[np.ndarray], np.ndarray]  # inputs [B, ...] -> float32 logits [B, ..., K]
LIMIT = 1e-5  # of what differs between logits of one network: float32 sums in another order


@dataclasses.dataclass(frozen=True)
class Block:
    """One block of a network: `module(spec)` under the name of its variables."""

    name: str
    module: type[nn.Module]
    spec: Any


class Network(nn.Module):
    """The blocks of one subnet, at their own sizes.

    Attributes:
        blocks: those that the subnet has, in order.
        size: to which the task brings inputs, as the length of sequences.
        task: what the network is for.
        forward: None runs the blocks one after another. Otherwise `forward(run, x)`, in which
            `run(name, *inputs)` runs one block. Where there is none, it returns its first input,
            or `otherwise` of `run(name, *inputs, otherwise=value)`.
    """

    blocks: tuple[Block, ...]
    size: Size
    task: Task
    forward: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, inputs: Any) -> Array:
        """What the task takes -> logits, float32 `[B, ..., K]`."""
        x = self.task.fit(inputs, self.size)
        modules = {b.name: b.module(b.spec, name=b.name) for b in self.blocks}
        if self.forward is not None:
            return self.forward(_Run(modules), x).astype(jnp.float32)
        for module in modules.values():
            x = module(x)
        return x.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Run:
    modules: Mapping[str, nn.Module]

    def __call__(self, name: str, *inputs: Array, otherwise: Array | None = None) -> Array:
        module: Any = self.modules.get(name)
        if module is None:
            return inputs[0] if otherwise is None else otherwise
        return module(*inputs)


@functools.lru_cache(maxsize=2)
def compiled_quickly(network: Network) -> Callable[[Variables, Any], Array]:
    """`(variables, inputs) -> logits`, compiled for a few runs rather than for many."""
    return jax.jit(network.apply, compiler_options=hardware.runs_once())


def flax_runner(network: Network, variables: Variables) -> Runner:
    """Runs a Flax network on CPU, float32 at highest precision."""
    held = jax.device_get(variables)

    def run(inputs: np.ndarray) -> np.ndarray:
        with on_cpu(), jax.default_matmul_precision("highest"):
            return np.asarray(compiled_quickly(network)(held, inputs))

    return run


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """What is called meanwhile runs on CPU, whatever else there is."""
    if jax.default_backend() == "cpu":  # changing nothing compiles nothing again
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of logits `[B, ..., K]` from others, relative to the largest of those.

    Not a number where any of them is not.
    """
    return float(np.max(np.abs(ours - theirs)) / (np.max(np.abs(theirs)) or 1.0))
