"""The members of a training step: the loss and gradient of each one on the same images.

Shape letters: `B` images of a step, `K` classes, `M` random members, `G` parts of a batch (usually
one).
"""

import functools
import itertools
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


class Member(NamedTuple):
    """One subnet of a step, and how it runs.

    Attributes:
        strategy: that runs it.
        arch: concrete for a fixed member. For a random one it is traced, `[]`, or `[G]` with an
            arch for each of several parts of the batch.
        role: "largest", "smallest" or "random".
        resolution: of its input.
        teacher: what it learns from, if there is something yet.
    """

    strategy: Strategy
    arch: Arch
    role: str
    resolution: int
    teacher: Taught | None


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
        member = Member(strategies.sliced, arch, role, resolution, teacher)
        (loss, output), gradients = self.gradient(member, recipe.norm_shards)
        if carry is None:
            carry = recipe.combine.init(self.state.params)
        carry = recipe.combine.add(carry, gradients, role, self.state.step)
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
        recipe = self.recipe
        if carry is None:
            carry = recipe.combine.init(self.state.params)
        archs = self.draw(key, teacher, resolutions)
        parts = max(recipe.arch_shards, recipe.norm_shards)

        def add(carry: Any, arch: Arch, size: int) -> tuple[Any, Array]:
            if recipe.arch_shards < parts:
                arch = jax.tree.map(lambda x: jnp.repeat(x[None], parts, axis=0), arch)
            member = Member(recipe.strategy, arch, "random", size, teacher)
            (loss, _), gradients = self.gradient(member, parts)
            return recipe.combine.add(carry, gradients, "random", self.state.step), loss

        losses: list[Array] = []
        start = 0
        for size, run in itertools.groupby(resolutions):
            stop = start + len(list(run))
            alike = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], archs)
            carry, own = jax.lax.scan(functools.partial(add, size=size), carry, alike)
            losses.append(own)
            start = stop
        each = enumerate(jnp.concatenate(losses))
        return carry, archs, {f"loss/random_{i + 1}": loss for i, loss in each}

    def draw(self, key: Array, teacher: Taught | None, resolutions: tuple[int, ...]) -> Arch:
        """The step's random archs, with the resolutions that the host drew."""
        space, sampler, shards = self.recipe.space, self.recipe.sampler, self.recipe.arch_shards

        def score(arch: Arch) -> Array:
            member = Member(self.recipe.strategy, arch, "random", resolutions[0], teacher)
            return jax.lax.stop_gradient(self.mean_loss(member))

        def sample(key: Array) -> Arch:
            return sampler.sample(self.state.sampler, key, self.state.step, score)

        chosen = jnp.asarray([space.resolutions.index(r) for r in resolutions], jnp.int32)
        if shards == 1:
            archs = sample(key)
        else:
            archs = jax.vmap(sample, out_axes=1)(jax.random.split(key, shards))
            chosen = jnp.repeat(chosen[:, None], shards, axis=1)
        archs = jax.tree.map(lambda leaf: leaf[: len(resolutions)], archs)
        return choices.replace(archs, space.resolution, chosen)

    def mean_loss(self, member: Member) -> Array:
        """Loss of a member alone, a mean over micro-batches."""

        def one(part: Any) -> Array:
            images, labels, teacher = part
            alone = self._replace(images=images, labels=labels)
            return alone.loss(self.state.params, member._replace(teacher=teacher))[0]

        whole, count = (self.images, self.labels, member.teacher), self.recipe.accumulate
        if count == 1:
            return one(whole)
        return jnp.mean(jax.lax.map(one, jax.tree.map(lambda x: _dealt(x, count), whole)))

    # From a member to its gradient, in three functions: over parts of the batch that know nothing
    # of each other, over the micro-batches of a part, and the loss on one micro-batch.

    def gradient(self, member: Member, parts: int) -> tuple[tuple[Array, Taught], Tree]:
        """((loss, output), gradient), means over parts of the batch.

        Args:
            member: which; random ones have an arch for each part.
            parts: G; 1 for the whole batch, over all devices.
        """
        params = self.state.params
        if parts == 1:
            return self.gradient_of_part(params, member)
        examples = jax.tree.map(
            lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]),
            (self.images, self.labels, member.teacher),
        )
        archs = member.arch if member.role == "random" else None

        def total(params: Tree, places: Array, archs: Any, examples: Any) -> Any:
            """Summed over the parts of a device; and their outputs, one after the other."""

            def add(carry: Any, part: Any) -> tuple[Any, Taught]:
                place, arch, (images, labels, teacher) = part
                key = jax.random.fold_in(self.dropout_key, place)
                alone = self._replace(where=None, images=images, labels=labels, dropout_key=key)
                arch = member.arch if archs is None else arch
                own = member._replace(arch=arch, teacher=teacher)
                (loss, output), gradients = alone.gradient_of_part(params, own)
                return optax.tree.add(carry, (loss, gradients)), output

            zero = (jnp.zeros(()), optax.tree.zeros_like(params))
            return jax.lax.scan(add, zero, (places, archs, examples))

        summed, outputs = sharding.over_devices(total, self.mesh)(
            params, jnp.arange(parts), archs, examples
        )
        loss, gradients = jax.tree.map(lambda x: x / parts, summed)
        output = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
        return (loss, output), sharding.scattered(gradients, self.where)

    def gradient_of_part(self, params: Tree, member: Member) -> tuple[tuple[Array, Taught], Tree]:
        """((loss, output), gradient), means over the micro-batches of this object's images."""
        count = self.recipe.accumulate
        if count == 1:
            return jax.value_and_grad(self.loss, has_aux=True)(params, member)

        def add(total: Any, part: Any) -> tuple[Any, Taught]:
            place, images, labels, teacher = part
            key = jax.random.fold_in(self.dropout_key, place)
            alone = self._replace(images=images, labels=labels, dropout_key=key)
            graded = jax.value_and_grad(alone.loss, has_aux=True)
            (loss, output), gradients = graded(params, member._replace(teacher=teacher))
            return optax.tree.add(total, (loss, gradients)), output

        zero = (jnp.zeros(()), optax.tree.zeros_like(params))
        whole = (self.images, self.labels, member.teacher)
        parts = jax.tree.map(lambda x: _dealt(x, count), whole)
        total, outputs = jax.lax.scan(add, zero, (jnp.arange(count), *parts))
        loss, gradients = jax.tree.map(lambda x: x / count, total)
        # Back in the order of the images: the inverse of `_dealt`.
        output = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), outputs)
        return (loss, output), gradients

    def loss(self, params: Tree, member: Member) -> tuple[Array, Taught]:
        """Loss of one member in training mode; regularisation is for the largest alone."""
        recipe, teacher = self.recipe, member.teacher
        output = member.strategy(
            recipe.space,
            sharding.gathered(params, self.where),
            member.arch,
            self.images,
            resolution=member.resolution,
            dropout_key=self.dropout_key if member.role == "largest" else None,
            features=recipe.features,
            dtype=recipe.dtype,
            remat=recipe.remat,
        )
        features = {
            name: Feature(value, None if teacher is None else teacher.features.get(name))
            for name, value in output.features.items()
        }
        logits = None if teacher is None else teacher.logits
        loss = recipe.loss(output.logits, logits, features, self.labels, member.role)
        return loss, Taught(output.logits, output.features)


def _dealt(x: Array, count: int) -> Array:
    """`[B, ...]` as `[count, B / count, ...]`, dealt like cards: no image changes its device."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
