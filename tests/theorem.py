"""What the strategies must agree on, for any space; a space of your own joins by one line."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from supernet_jax.elastic import (
    blockwise,
    choices,
    elastic_block,
    shared_params,
    slicing,
    strategies,
)
from supernet_jax.elastic import space as elastic_space
from supernet_jax.elastic.space import Space


def random_params(space: Space) -> Any:
    """Initial parameters with noise on every leaf: zero scales would hide blocks' interiors."""
    params = jax.jit(functools.partial(shared_params.init, space))(jax.random.key(0))
    rng = np.random.default_rng(1)
    noise = jax.tree.map(lambda p: np.float32(0.2 * rng.normal(size=p.shape)), params)
    return jax.tree.map(lambda p, n: jnp.asarray(np.asarray(p) + n), params, noise)


def random_inputs(space: Space, size: Any, batch: int) -> jax.Array:
    """What the task takes: floats, or ids of the whole vocabulary."""
    one = space.task.inputs(size)
    shape = (batch, *one.shape[1:])
    if jnp.issubdtype(one.dtype, jnp.integer):
        return jax.random.randint(jax.random.key(2), shape, 0, space.task.vocabulary, one.dtype)
    return jax.random.normal(jax.random.key(2), shape)


class Check:
    """One space with parameters and inputs, and its programs, each compiled once.

    Args:
        space: the space.
        size: of inputs and archs.
        batch: how many inputs.
        forwards: strategies of traced archs that run without gradients, which `run` gives as None.
    """

    def __init__(self, space: Space, *, size: Any, batch: int = 4, forwards: tuple[str, ...] = ()):
        self.space, self.size = space, size
        self.params = random_params(space)
        self.images = random_inputs(space, size, batch)
        whole = choices.largest(space.menu)
        run = functools.partial(strategies.masked, space, arch=whole, size=size)
        logits = jax.eval_shape(lambda p, x: run(p, inputs=x).logits, self.params, self.images)
        self.weights = jax.random.normal(jax.random.key(3), logits.shape)
        self.key = jax.random.key(4)
        self.traces: dict[str, int] = {}
        self.known_boxes: dict[bytes, Any] = {}
        self.programs = {
            name: self.program(strategy, gradients=name not in forwards)
            for name, strategy in STRATEGIES.items()
            if strategy
        }
        self.blockwise = blockwise.Blockwise(space)
        self.weighted = jax.jit(jax.grad(lambda logits: jnp.sum(logits * self.weights)))

    def program(self, strategy: Any, fixed: Any = None, *, gradients: bool = True) -> Any:
        """`(params, arch, stats, key) -> ((loss, output), gradients or None)`, jitted."""

        def run(params: Any, arch: Any, stats: Any, key: Any) -> Any:
            name = getattr(strategy, "__name__", "")
            self.traces[name] = self.traces.get(name, 0) + 1

            def loss(params: Any) -> Any:
                output = strategy(
                    self.space,
                    params,
                    arch if fixed is None else fixed,
                    self.images,
                    size=self.size,
                    stats=stats,
                    dropout_key=key,
                )
                return jnp.sum(output.logits * self.weights), output

            if not gradients:
                return loss(params), None
            return jax.value_and_grad(loss, has_aux=True)(params)

        return jax.jit(run)

    def forward(self, strategy: Any) -> Any:
        """`(params, arch, stats=None) -> output`, jitted, without gradients."""
        return jax.jit(
            lambda params, arch, stats=None: strategy(
                self.space, params, arch, self.images, size=self.size, stats=stats
            )
        )

    def run(self, name: str, arch: Any, *, stats: Any = None, key: Any = None) -> Any:
        """Output and gradients of a strategy."""
        if name == "sliced":
            program = self.program(strategies.sliced, arch)
            (_, output), gradients = program(self.params, None, stats, key)
        elif name == "blockwise":
            return self.run_blockwise(arch, stats, key)
        else:
            traced = jax.tree.map(jnp.asarray, arch)
            (_, output), gradients = self.programs[name](self.params, traced, stats, key)
        return output, gradients

    def run_blockwise(self, arch: Any, stats: Any, key: Any) -> Any:
        """Output, of the strategy; gradients, of its object that has a backward pass."""
        run, how = self.blockwise, {"stats": stats, "dropout_key": key}
        output = blockwise.blockwise(
            self.space, self.params, arch, self.images, size=self.size, **how
        )
        mode = blockwise.Mode(
            self.size, len(self.images), dropout=key is not None, stats=stats is not None
        )
        leaves = run.leaves(self.params)
        images = blockwise.prepare(self.images, self.space.task, self.size, jnp.float32)
        passed = run.forward(run.plan(arch, mode), leaves, images, key=key, stats=stats)
        zero = jax.tree.map(jnp.zeros_like, leaves)
        sums = run.backward(passed, self.weighted(passed.logits), {}, zero)
        return output, run.tree(sums)

    def boxes(self, arch: Any) -> Any:
        """1 inside what a concrete arch uses of the shared parameters, 0 outside."""
        name = np.asarray(choices.pack(arch)).tobytes()
        if name not in self.known_boxes:
            self.known_boxes[name] = boxes_of_arch(self.space, arch, self.size)
        return self.known_boxes[name]


STRATEGIES: dict[str, Any] = {
    "sliced": None,  # one program for each arch
    "masked": strategies.masked,
    "switched": strategies.switched,
    "blockwise": None,  # one program for each kind of block
}


def check_of(make: Callable[[], Space], *, size: Any, forwards: tuple[str, ...] = ()) -> Check:
    """One check of a space for all tests of a process."""
    return _kept(make, size, forwards)


@functools.cache
def _kept(make: Callable[[], Space], size: Any, forwards: tuple[str, ...]) -> Check:
    return Check(make(), size=size, forwards=forwards)


def box(path: tuple[str, ...], full: tuple[int, ...], part: tuple[int, ...]) -> np.ndarray:
    """1 where a spec's leaf lies in the shared one: by hand, to check `cut`, `fill`, masks."""
    inside = np.zeros(full)
    convolves = path[-1] == "kernel" and len(full) == 4 and "attention" not in path
    over_time = path[-1] == "kernel" and path[0].startswith(("conv", "group")) and len(full) == 3
    if over_time:
        border = (full[0] - part[0]) // 2
        inside[border : border + part[0], : part[1], : part[2]] = 1
    elif convolves or path[-1] == "table":  # centred in height and width
        border = (full[0] - part[0]) // 2
        channels = (slice(n) for n in part[2:])
        inside[(slice(border, border + part[0]), slice(border, border + part[1]), *channels)] = 1
    else:
        inside[tuple(slice(n) for n in part)] = 1
    return inside


def boxes(own: Any, union: Any) -> dict[tuple[str, ...], np.ndarray]:
    """The box of each leaf of a union; empty where the spec lacks the leaf."""
    parts = flatten_dict(own)
    return {
        path: box(path, full.shape, parts[path].shape) if path in parts else np.zeros(full.shape)
        for path, full in flatten_dict(union).items()
    }


def boxes_of_arch(space: Space, arch: Any, size: Any) -> Any:
    """1 inside what an arch uses of the parameters of each group of blocks, 0 outside."""
    found: dict[str, Any] = {}
    for name, place in elastic_space.geometry(space, size).items():
        block, spec = place.block, place.block.spec(arch)
        own = {} if spec is None else elastic_block.shapes(block, spec, place.inputs).params
        uses = unflatten_dict(boxes(own, place.shapes.params))
        for where, transforms in slicing.by_leaf(block).items():
            part = None if spec is None else flatten_dict(own).get(where)
            full = flatten_dict(place.shapes.params)[where]
            _note_uses(uses, where, transforms, spec, part, slicing.spatial_axes(where, full))
        owner = elastic_space.group(space, name)
        before, now = (flatten_dict(tree) for tree in (found.get(owner, {}), uses))
        both = {path: np.maximum(before[path], now[path]) for path in before.keys() & now.keys()}
        found[owner] = unflatten_dict(before | now | both)
    return found


def _note_uses(
    found: Any,
    where: tuple[str, ...],
    transforms: tuple[elastic_block.Transform, ...],
    spec: Any,
    part: Any,
    spatial: tuple[int, ...],
) -> None:
    """Marks what a spec's weights depend on through transforms: their parameters, whole kernels.

    The transforms themselves tell, by the gradient at random values. `part` is the shape of the
    leaf in the spec, None where it lacks it; `spatial` are its axes that are no channels.
    """
    *way, last = where
    node = functools.reduce(lambda node, key: node[key], way, found)
    full = node[last].shape
    cut = (
        full if part is None else [full[i] if i in spatial else n for i, n in enumerate(part.shape)]
    )
    start = {t.key: t.init(jax.random.key(0), full) for t in transforms}

    def total(params: Any, weights: Any) -> Any:
        if part is None:
            return jnp.zeros(())
        sizes = tuple(transform.size(spec) for transform in transforms)
        made = slicing.transformed(transforms, params, weights, sizes)
        if made.shape == weights.shape and spatial:  # still to be cropped
            border = (full[0] - part.shape[0]) // 2
            made = made[border : full[0] - border, border : full[0] - border]
        return jnp.sum(jnp.square(made))

    rng = np.random.default_rng(1)  # jax.random would compile a program for each shape
    random = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), start)
    weights = jnp.float32(rng.normal(size=cut))
    compiled = jax.jit(jax.grad(total, (0, 1)))  # one program, not one for each operation
    gradients = jax.device_get(compiled(random, weights))
    own, whole = jax.tree.map(lambda g: np.asarray(g != 0, float), gradients)
    node[last] = np.pad(whole, [(0, n - m) for n, m in zip(full, cut, strict=True)])
    own = {name: tree for name, tree in own.items() if tree}
    if own:
        found.setdefault(elastic_block.TRANSFORMS, {}).update(own)


def archs_of(space: Space, count: int) -> list[Any]:
    """The smallest, the largest and random archs."""
    drawn = choices.unstack(choices.sample(space.menu, jax.random.key(5), (count,)))
    return [choices.smallest(space.menu), choices.largest(space.menu), *drawn]


def every_arch(menu: Any) -> list[Any]:
    """All archs of a menu, those of its last choice beside each other."""
    sizes = [len(choice) for choice in jax.tree.leaves(menu)]
    return [choices.unpack(menu, np.asarray(row, np.int32)) for row in np.ndindex(*sizes)]


def largest_difference(a: Any, b: Any) -> float:
    """Largest difference relative to the largest value, over two trees; of empty ones 0."""
    x, y = flat(a), flat(b)
    if not x.size and not y.size:
        return 0.0
    return float(np.max(np.abs(x - y)) / np.max(np.abs(y)))


def global_difference(a: Any, b: Any) -> float:
    """Norm of the difference relative to the norm, over two trees."""
    x, y = flat(a), flat(b)
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def flat(tree: Any) -> np.ndarray:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate([np.zeros(0), *leaves])
