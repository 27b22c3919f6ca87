"""What the strategies must agree on, for any space; a space of your own joins by one line."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices, elastic, network
from supernet_jax.network import Space


def random_params(space: Space) -> Any:
    """Initial parameters with noise on every leaf: zero scales would hide blocks' interiors."""
    params = jax.jit(functools.partial(network.init, space))(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


class Check:
    """One space with parameters and images, and its programs, each compiled once."""

    def __init__(self, space: Space, *, resolution: int, batch: int = 4):
        self.space, self.resolution = space, resolution
        self.params = random_params(space)
        shape = (batch, resolution, resolution, space.input_channels)
        self.images = jax.random.normal(jax.random.key(2), shape)
        self.weights = jax.random.normal(jax.random.key(3), (batch, space.classes))
        self.key = jax.random.key(4)
        self.traces: dict[str, int] = {}
        self.programs = {
            name: self.program(strategy) for name, strategy in STRATEGIES.items() if strategy
        }

    def program(self, strategy: Any, fixed: Any = None) -> Any:
        """`(params, arch, stats, key) -> ((loss, output), gradients)`, jitted."""

        def run(params: Any, arch: Any, stats: Any, key: Any) -> Any:
            name = getattr(strategy, "__name__", "")
            self.traces[name] = self.traces.get(name, 0) + 1

            def loss(params: Any) -> Any:
                output = strategy(
                    self.space,
                    params,
                    arch if fixed is None else fixed,
                    self.images,
                    resolution=self.resolution,
                    stats=stats,
                    dropout_key=key,
                )
                return jnp.sum(output.logits * self.weights), output

            return jax.value_and_grad(loss, has_aux=True)(params)

        return jax.jit(run)

    def forward(self, strategy: Any) -> Any:
        """`(params, arch) -> output`, jitted, without gradients."""
        return jax.jit(
            lambda params, arch: strategy(
                self.space, params, arch, self.images, resolution=self.resolution
            )
        )

    def run(self, name: str, arch: Any, *, stats: Any = None, key: Any = None) -> Any:
        """Output and gradients of a strategy."""
        if name == "sliced":
            program = self.program(network.sliced, arch)
            (_, output), gradients = program(self.params, None, stats, key)
        else:
            traced = jax.tree.map(jnp.asarray, arch)
            (_, output), gradients = self.programs[name](self.params, traced, stats, key)
        return output, gradients

    def boxes(self, arch: Any) -> Any:
        """1 inside what a concrete arch uses of the shared parameters, 0 outside."""
        boxes = {}
        for name, shape in network.geometry(self.space, self.resolution).items():
            block, union = self.space.blocks[name], shape.shapes.params
            spec = block.spec(arch)
            if spec is None:
                boxes[name] = jax.tree.map(lambda s: np.zeros(s.shape), union)
                continue
            own = elastic.shapes(block, spec, shape.inputs).params
            ones = jax.tree.map(lambda s: jnp.ones(s.shape), own)
            boxes[name] = elastic.fill(ones, union)
        return boxes


STRATEGIES: dict[str, Any] = {
    "sliced": None,  # one program for each arch
    "masked": network.masked,
    "switched": network.switched,
}


def archs_of(space: Space, count: int) -> list[Any]:
    """The smallest, the largest and random archs."""
    drawn = choices.unstack(choices.sample(space.menu, jax.random.key(5), (count,)))
    return [choices.smallest(space.menu), choices.largest(space.menu), *drawn]


def largest_difference(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value, over two trees."""
    x, y = flat(a), flat(b)
    return float(np.max(np.abs(x - y)) / np.max(np.abs(y)))


def global_difference(a: Any, b: Any) -> float:
    """Norm of the difference relative to the norm, over two trees."""
    x, y = flat(a), flat(b)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
