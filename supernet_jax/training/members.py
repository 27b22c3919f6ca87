"""The members of a training step: each one's loss and gradient on the same images, and their sum.

Shape letters: `B` images of a step, `K` classes, `M` random members, `G` parts of a batch (usually
one).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.elastic import choices, strategies
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.runtime import sharding
from supernet_jax.training.losses.loss import Feature
from supernet_jax.training.recipe import Metrics, Recipe, State
from supernet_jax.training.samplers import roles


class Taught(NamedTuple):
    """What a member puts out that others may learn from: constants for them."""

    logits: Array  # [B, K]
    features: dict[str, Array]  # [B, ...]


class Members(NamedTuple):
    """The members of one step, run one after another on the same images."""

    recipe: Recipe
    mesh: jax.sharding.Mesh | None
    where: Tree | None  # shardings of the parameters, and so of their gradients
    state: State
    images: Array
    labels: Array
    dropout_key: Array

    def fixed(
        self, place: int, resolution: int, teacher: Taught | None, carry: Any
    ) -> tuple[Any, Taught | None, Metrics]:
        """A concrete arch, at its own cost.

        Args:
            place: which of the sampler's fixed members it is.
            resolution: of its input.
            teacher: what it learns from, if there is something yet.
            carry: of the members before it, None for the first.

        Returns:
            The new carry, what the members after it learn from, and metrics.
        """
        recipe = self.recipe
        arch, role = recipe.sampler.fixed[place], roles(recipe.sampler)[place]

        def run(members: Members, _: None, teacher: Taught | None) -> Any:
            return members.gradient(strategies.sliced, arch, role, resolution, teacher)

        (loss, output), gradients = self.in_parts(recipe.norm_shards, run, None, teacher)
        carry = recipe.combine.add(self.begun(carry), gradients, role, self.state.step)
        # of mixed labels, the one with the larger share
        wanted = self.labels if self.labels.ndim == 1 else jnp.argmax(self.labels, -1)
        right = jnp.argmax(output.logits, -1) == wanted
        metrics = {f"loss/{role}": loss, f"accuracy/{role}": jnp.mean(right.astype(jnp.float32))}
        if role == "largest":
            logits = output.logits if teacher is None else teacher.logits
            teacher = jax.lax.stop_gradient(Taught(logits, output.features))
        return carry, teacher, metrics

    def random(
        self, key: Array, resolutions: tuple[int, ...], teacher: Taught | None, carry: Any
    ) -> tuple[Any, Arch, Metrics]:
        """All random members: traced archs, one program for each run with equal resolution.

        Args:
            key: that decides which archs.
            resolutions: of their inputs, one for each.
            teacher: as in `fixed`.
            carry: as in `fixed`.

        Returns:
            The new carry, the archs `[M]` or `[M, G]`, and metrics.
        """
        carry, archs = self.begun(carry), self.draw(key, teacher, resolutions)
        losses = []
        start = 0
        for size, members in itertools.groupby(resolutions):
            stop = start + len(list(members))
            part = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], archs)

            def body(carry: Any, arch: Arch, size: int = size) -> tuple[Any, Array]:
                loss, grads = self.random_gradient(arch, size, teacher)
                return self.recipe.combine.add(carry, grads, "random", self.state.step), loss

            carry, part_losses = jax.lax.scan(body, carry, part)
            losses.append(part_losses)
            start = stop
        each = enumerate(jnp.concatenate(losses))
        return carry, archs, {f"loss/random_{i + 1}": loss for i, loss in each}

    def begun(self, carry: Any) -> Any:
        """The carry of the members before; that of none, where there are none."""
        return self.recipe.combine.init(self.state.params) if carry is None else carry

    def random_gradient(
        self, arch: Arch, resolution: int, teacher: Taught | None
    ) -> tuple[Array, Tree]:
        """Loss and gradient of a random member: `[]`, or `[G]` with an arch for each part."""
        recipe = self.recipe
        count = max(recipe.arch_shards, recipe.norm_shards)
        if recipe.arch_shards < count:
            arch = jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), arch)

        def run(members: Members, arch: Arch, teacher: Taught | None) -> Any:
            return members.gradient(recipe.strategy, arch, "random", resolution, teacher)

        (loss, _), gradients = self.in_parts(count, run, arch, teacher)
        return loss, gradients

    def in_parts(
        self,
        count: int,
        run: Callable[["Members", Any, Taught | None], Any],
        archs: Arch | None,
        teacher: Taught | None,
    ) -> tuple[tuple[Array, Taught], Tree]:
        """Mean loss and gradient over parts of the batch that know nothing of each other.

        Args:
            count: G, parts; 1 for the whole batch, over all devices.
            run: `(members of a part, its arch, its teacher) -> ((loss, output), gradient)`.
            archs: `[G]`, `[]` where G is 1, or None.
            teacher: of the whole batch.
        """
        if count == 1:
            return run(self, archs, teacher)
        parts = jax.tree.map(
            lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]),
            (self.images, self.labels, teacher),
        )

        def total(params: Tree, places: Array, archs: Any, parts: Any) -> Any:
            """Summed over the parts of a device; and their outputs, one after the other."""
            state = self.state.replace(params=params)  # type: ignore[attr-defined]

            def add(carry: Any, part: Any) -> tuple[Any, Taught]:
                place, arch, (images, labels, teacher) = part
                key = jax.random.fold_in(self.dropout_key, place)
                alone = self._replace(where=None, state=state, images=images, labels=labels)
                (loss, output), grads = run(alone._replace(dropout_key=key), arch, teacher)
                return optax.tree.add(carry, (loss, grads)), output

            zero = (jnp.zeros(()), optax.tree.zeros_like(params))
            return jax.lax.scan(add, zero, (places, archs, parts))

        summed, outputs = sharding.over_devices(total, self.mesh)(
            self.state.params, jnp.arange(count), archs, parts
        )
        loss, gradients = jax.tree.map(lambda x: x / count, summed)
        output = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
        return (loss, output), sharding.scattered(gradients, self.where)

    def draw(self, key: Array, teacher: Taught | None, resolutions: tuple[int, ...]) -> Arch:
        """The step's random archs, with the resolutions that the host drew."""
        space, sampler = self.recipe.space, self.recipe.sampler

        def score(arch: Arch) -> Array:
            return jax.lax.stop_gradient(self.mean_loss(arch, resolutions[0], teacher))

        sample = functools.partial(sampler.sample, self.state.sampler)
        options = choices.get(space.menu, space.resolution).values
        chosen = jnp.asarray([options.index(r) for r in resolutions], jnp.int32)
        if self.recipe.arch_shards == 1:
            archs = sample(key, self.state.step, score)
        else:
            keys = jax.random.split(key, self.recipe.arch_shards)
            draws = jax.vmap(lambda k: sample(k, self.state.step, score), out_axes=1)
            archs, chosen = draws(keys), jnp.repeat(chosen[:, None], len(keys), axis=1)
        archs = jax.tree.map(lambda leaf: leaf[: len(resolutions)], archs)
        return choices.replace(archs, space.resolution, chosen)

    def mean_loss(self, arch: Arch, resolution: int, teacher: Taught | None) -> Array:
        """Loss of a random member without gradient, a mean over micro-batches."""

        def one(part: Any) -> Array:
            images, labels, teacher = part
            alone, params = self._replace(images=images, labels=labels), self.state.params
            return alone.loss(params, self.recipe.strategy, arch, "random", resolution, teacher)[0]

        whole, count = (self.images, self.labels, teacher), self.recipe.accumulate
        if count == 1:
            return one(whole)
        return jnp.mean(jax.lax.map(one, jax.tree.map(lambda x: _dealt(x, count), whole)))

    def gradient(
        self, strategy: Strategy, arch: Arch, role: str, resolution: int, teacher: Taught | None
    ) -> tuple[tuple[Array, Taught], Tree]:
        """((loss, output), gradient), means over micro-batches."""
        count = self.recipe.accumulate
        if count == 1:
            return self.at_once(strategy, arch, role, resolution, teacher)

        def add(total: Any, part: Any) -> tuple[Any, Taught]:
            place, images, labels, teacher = part
            key = jax.random.fold_in(self.dropout_key, place)
            alone = self._replace(images=images, labels=labels, dropout_key=key)
            (loss, output), gradients = alone.at_once(strategy, arch, role, resolution, teacher)
            return optax.tree.add(total, (loss, gradients)), output

        zero = (jnp.zeros(()), optax.tree.zeros_like(self.state.params))
        parts = jax.tree.map(lambda x: _dealt(x, count), (self.images, self.labels, teacher))
        total, output = jax.lax.scan(add, zero, (jnp.arange(count), *parts))
        loss, gradients = jax.tree.map(lambda x: x / count, total)
        return (loss, jax.tree.map(_gathered_in, output)), gradients

    def at_once(
        self, strategy: Strategy, arch: Arch, role: str, resolution: int, teacher: Taught | None
    ) -> tuple[tuple[Array, Taught], Tree]:
        """The same over all images of this object."""
        loss = functools.partial(
            self.loss,
            strategy=strategy,
            arch=arch,
            role=role,
            resolution=resolution,
            teacher=teacher,
        )
        return jax.value_and_grad(loss, has_aux=True)(self.state.params)

    def loss(
        self,
        params: Tree,
        strategy: Strategy,
        arch: Arch,
        role: str,
        resolution: int,
        teacher: Taught | None,
    ) -> tuple[Array, Taught]:
        """Loss of one member in training mode; regularisation is for the largest alone."""
        recipe = self.recipe
        output = strategy(
            recipe.space,
            sharding.gathered(params, self.where),
            arch,
            self.images,
            resolution=resolution,
            dropout_key=self.dropout_key if role == "largest" else None,
            features=recipe.features,
            dtype=recipe.dtype,
            remat=recipe.remat,
        )
        features = {
            name: Feature(value, None if teacher is None else teacher.features.get(name))
            for name, value in output.features.items()
        }
        logits = None if teacher is None else teacher.logits
        loss = recipe.loss(output.logits, logits, features, self.labels, role)
        return loss, Taught(output.logits, output.features)


def _dealt(x: Array, count: int) -> Array:
    """`[B, ...]` as `[count, B / count, ...]`, dealt like cards: no image changes its device."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)


def _gathered_in(x: Array) -> Array:
    """The inverse of `_dealt`."""
    return jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])
