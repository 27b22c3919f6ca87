"""The members of a training step: the loss and gradient of each one on the same examples.

Here each member is one program, to be traced. `blockwise_members` has many small ones instead.

Shape letters: `B` examples of a step, `M` random members, `G` parts of a batch (usually one).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from supernet_jax.elastic import blockwise, choices, strategies
from supernet_jax.elastic.choices import Arch, Array, Code, Lookup
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.strategies import Strategy
from supernet_jax.runtime import path_rules, sharding
from supernet_jax.tasks.task import Size, Task, trained_logits
from supernet_jax.training.losses.loss import Feature
from supernet_jax.training.recipe import Metrics, Recipe, State
from supernet_jax.training.samplers import SamplerState, Score, names, roles
from supernet_jax.training.teachers.teacher import Taught


class Given(NamedTuple):
    """What the members of a step have in common.

    Attributes:
        inputs: what the task takes, `[B, ...]`.
        targets: `[B, ...]`, or mixtures of them.
        arch_key: decides the random archs.
        dropout_key: decides what is dropped.
        teacher: what the teacher says, if it is no member.
        second: inputs and targets of the second batch, if there is one.
    """

    inputs: Tree
    targets: Tree
    arch_key: Array
    dropout_key: Array
    teacher: Taught | None
    second: tuple[Tree, Tree] | None = None


class Member(NamedTuple):
    """One subnet of a step, and how it runs.

    Attributes:
        strategy: that runs it.
        arch: concrete for a fixed member. For a random one it is traced, `[]`, or `[G]` with an
            arch for each of several parts of the batch.
        role: of it.
        size: of its inputs.
        teacher: what it learns from, if there is something yet.
        regularised: whether it has dropout and drop path.
    """

    strategy: Strategy
    arch: Arch
    role: str
    size: Size
    teacher: Taught | None
    regularised: bool = False


class Members(NamedTuple):
    """The members of one step, run one after another on the same examples."""

    recipe: Recipe
    mesh: jax.sharding.Mesh | None
    where: Tree | None  # shardings of the parameters, and so of their gradients
    state: State
    inputs: Tree
    targets: Tree
    dropout_key: Array

    def fixed(
        self, place: int, size: Size, teacher: Taught | None, carry: Any
    ) -> tuple[Any, Taught | None, Metrics]:
        """A concrete arch, at its own cost.

        Args:
            place: which of the sampler's fixed members it is.
            size: of its inputs.
            teacher: what it learns from, if there is something yet.
            carry: of the members before it.

        Returns:
            The new carry, what the members after it learn from, and metrics.
        """
        recipe = self.recipe
        arch, role = recipe.sampler.fixed[place], roles(recipe.sampler)[place]
        dropped = role in recipe.sampler.regularised
        member = Member(strategies.sliced, arch, role, size, teacher, dropped)
        own = self
        if dropped and place:
            own = self._replace(dropout_key=member_key(self.dropout_key, place))
        (loss, output), gradients = own.gradient(member, recipe.norm_shards)
        carry = recipe.combine.add(carry, gradients, role, self.state.step)
        name, task = names(recipe.sampler)[place], recipe.space.task
        value = metric_of(task, output.logits, self.targets)
        metrics = {f"loss/{name}": loss, f"{task.metric.name}/{name}": value}
        if role == recipe.teacher.role:
            teacher = taught_by(output, teacher)
        return carry, teacher, metrics

    def random(
        self,
        archs: Arch,
        place: Array,
        size: Size,
        teacher: Taught | None,
        carry: Any,
        role: str = "random",
    ) -> tuple[Any, Metrics]:
        """A traced arch. Returns the new carry, and the member's loss and metric by these words.

        Of a member in the role "random" there is no metric.

        Args:
            archs: `[M]` or `[M, G]`, of all random members.
            place: which of them it is.
            size: of its inputs.
            teacher: as in `fixed`.
            carry: as in `fixed`.
            role: of it.
        """
        recipe = self.recipe
        parts = max(recipe.arch_shards, recipe.norm_shards)
        arch = jax.tree.map(lambda leaf: leaf[place], archs)
        if recipe.arch_shards < parts:
            arch = jax.tree.map(lambda x: jnp.repeat(x[None], parts, axis=0), arch)
        dropped = role in recipe.sampler.regularised
        strategy = blockwise.traceable(recipe.strategy)
        member = Member(strategy, arch, role, size, teacher, dropped)
        own = self
        if dropped:
            key = member_key(self.dropout_key, len(recipe.sampler.fixed) + place)
            own = self._replace(dropout_key=key)
        (loss, output), gradients = own.gradient(member, parts, per_part=True)
        carry = recipe.combine.add(carry, gradients, role, self.state.step)
        if role == "random":
            return carry, {"loss": loss}
        task = recipe.space.task
        value = metric_of(task, output.logits, self.targets)
        return carry, {"loss": loss, task.metric.name: value}

    def draw(self, key: Array, teacher: Taught | None, sizes: tuple[Size, ...]) -> Arch:
        """The step's random archs, with the sizes that the host drew."""

        def score(arch: Arch) -> Array:
            strategy = blockwise.traceable(self.recipe.strategy)
            member = Member(strategy, arch, "random", sizes[0], teacher)
            return jax.lax.stop_gradient(self.mean_loss(member))

        state = self.state
        return drawn(self.recipe, state.sampler, key, state.step, sizes, score)

    def mean_loss(self, member: Member) -> Array:
        """Loss of a member alone, a mean over micro-batches."""

        def one(part: Any) -> Array:
            inputs, targets, teacher = part
            alone = self._replace(inputs=inputs, targets=targets)
            return alone.loss(self.state.params, member._replace(teacher=teacher))[0]

        whole, count = (self.inputs, self.targets, member.teacher), self.recipe.accumulate
        if count == 1:
            return one(whole)
        return jnp.mean(jax.lax.map(one, jax.tree.map(lambda x: dealt(x, count), whole)))

    # From a member to its gradient, in three functions: over parts of the batch that know nothing
    # of each other, over the micro-batches of a part, and the loss on one micro-batch.

    def gradient(
        self, member: Member, parts: int, *, per_part: bool = False
    ) -> tuple[tuple[Array, Taught], Tree]:
        """((loss, output), gradient), means over parts of the batch.

        Args:
            member: which.
            parts: G; 1 for the whole batch, over all devices.
            per_part: whether the arch has an axis G: one for each part.
        """
        params, recipe = self.state.params, self.recipe
        if parts == 1:
            return self.gradient_of_part(params, member)
        examples = jax.tree.map(
            lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]),
            (self.inputs, self.targets, member.teacher),
        )
        archs = member.arch if per_part else None

        def total(params: Tree, places: Array, archs: Any, examples: Any) -> Any:
            """Summed over the parts of a device; and their outputs, one after the other."""

            def add(carry: Any, part: Any) -> tuple[Any, Taught]:
                place, arch, (inputs, targets, teacher) = part
                key = jax.random.fold_in(self.dropout_key, place)
                alone = self._replace(where=None, inputs=inputs, targets=targets, dropout_key=key)
                arch = member.arch if archs is None else arch
                own = member._replace(arch=arch, teacher=teacher)
                (loss, output), gradients = alone.gradient_of_part(params, own)
                return optax.tree.add(carry, (loss, gradients)), output

            zero = (jnp.zeros(()), optax.tree.zeros_like(trained(recipe, params)))
            return jax.lax.scan(add, zero, (places, archs, examples))

        summed, outputs = sharding.over_devices(total, self.mesh)(
            params, jnp.arange(parts), archs, examples
        )
        loss, gradients = jax.tree.map(lambda x: x / parts, summed)
        output = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)
        where = None if self.where is None else trained(recipe, self.where)
        return (loss, output), sharding.scattered(gradients, where)

    def gradient_of_part(self, params: Tree, member: Member) -> tuple[tuple[Array, Taught], Tree]:
        """((loss, output), gradient), means over the micro-batches of this object's examples."""
        count, learned = self.recipe.accumulate, trained(self.recipe, params)

        def graded(alone: Members, member: Member) -> Any:
            """The gradient by what is trained alone; nothing is computed for the rest."""

            def loss(learned: Tree) -> tuple[Array, Taught]:
                return alone.loss(path_rules.laid_over(params, learned), member)

            return jax.value_and_grad(loss, has_aux=True)(learned)

        if count == 1:
            return graded(self, member)

        def add(total: Any, part: Any) -> tuple[Any, Taught]:
            place, inputs, targets, teacher = part
            key = jax.random.fold_in(self.dropout_key, place)
            alone = self._replace(inputs=inputs, targets=targets, dropout_key=key)
            (loss, output), gradients = graded(alone, member._replace(teacher=teacher))
            return optax.tree.add(total, (loss, gradients)), output

        zero = (jnp.zeros(()), optax.tree.zeros_like(learned))
        whole = (self.inputs, self.targets, member.teacher)
        parts = jax.tree.map(lambda x: dealt(x, count), whole)
        total, outputs = jax.lax.scan(add, zero, (jnp.arange(count), *parts))
        loss, gradients = jax.tree.map(lambda x: x / count, total)
        # Back in the order of the examples: the inverse of `dealt`.
        output = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), outputs)
        return (loss, output), gradients

    def loss(self, params: Tree, member: Member) -> tuple[Array, Taught]:
        """Loss of one member in training mode."""
        recipe = self.recipe
        output = member.strategy(
            recipe.space,
            params,
            member.arch,
            self.inputs,
            size=member.size,
            dropout_key=self.dropout_key if member.regularised else None,
            features=recipe.features,
            dtype=recipe.dtype,
            remat=recipe.remat,
            where=self.where if sharding.any_split(self.where) else None,
        )
        taught = Taught(output.logits, output.features)
        there: dict[str, Array] = {}
        if member.strategy is not strategies.sliced:
            there = inside_of(recipe, member.arch)
        loss = loss_of(recipe, taught, member.teacher, self.targets, member.role, there)
        if recipe.penalty is not None:
            loss = loss + recipe.penalty(params, member.arch)
        return loss, taught


def trained(recipe: Recipe, params: Tree) -> Tree:
    """The part of the parameters, or of what has their tree, that is trained."""
    return path_rules.chosen(params, recipe.space.trained)


def step_keys(key: Array, step: Array, rollbacks: Array) -> tuple[Array, Array, Array]:
    """The keys of a step: for augmentation, for archs, for dropout; of the run's own key."""
    key = jax.random.fold_in(key, step)
    augment, archs, dropout = jax.random.split(jax.random.fold_in(key, rollbacks), 3)
    return augment, archs, dropout


def member_key(dropout_key: Array, place: int | Array) -> Array:
    """What decides what is dropped in a member: nothing that another one drops for that.

    Args:
        dropout_key: of the step, which the first fixed member has itself.
        place: among all members, fixed ones first.
    """
    return jax.random.fold_in(dropout_key, jnp.uint32(2**31) + jnp.uint32(place))


def drawn(
    recipe: Recipe,
    sampler_state: SamplerState,
    key: Array,
    step: Array,
    sizes: tuple[Size, ...],
    score: Score,
) -> Arch:
    """The random archs of a step, `[M]` or `[M, G]`.

    Args:
        recipe: what is trained.
        sampler_state: before the step.
        key: that decides which archs.
        step: traced.
        sizes: of the members' inputs.
        score: mini-batch loss of an arch.
    """
    space, shards = recipe.space, recipe.arch_shards

    def sample(key: Array) -> Arch:
        return recipe.sampler.sample(sampler_state, key, step, score)

    chosen = jnp.asarray([space.sizes.index(size) for size in sizes], jnp.int32)
    if shards == 1:
        archs = sample(key)
    else:
        archs = jax.vmap(sample, out_axes=1)(jax.random.split(key, shards))
        chosen = jnp.repeat(chosen[:, None], shards, axis=1)
    archs = jax.tree.map(lambda leaf: leaf[: len(sizes)], archs)
    return space.at_size(archs, chosen)


def inside_of(recipe: Recipe, arch: Arch) -> dict[str, Array]:
    """Of each tap of a block that can be skipped, whether a traced arch has the block."""
    pairs = [(name, recipe.space.blocks[name.partition("/")[0]]) for name in recipe.features]
    return {
        name: alive_in(block.alive, arch)
        for name, block in pairs
        if "/" in name and block.alive is not None
    }


def alive_in(alive: Lookup, arch: Arch | Code) -> Array:
    """Whether a traced arch, or any that a code may be, has a block."""
    if choices.is_code(arch):
        return alive.probabilities(arch, 2)[1] > 0
    return jnp.asarray(alive(arch) > 0)


def loss_of(
    recipe: Recipe,
    student: Taught,
    teacher: Taught | None,
    targets: Tree,
    role: str,
    there: Mapping[str, Array] | None = None,
) -> Array:
    """Loss of a member, by what it puts out; `there` as `inside_of` has it, for traced archs."""
    skipped = [name for name in recipe.features if name not in student.features]
    features = {
        name: Feature(
            student.features.get(name),
            None if teacher is None else teacher.features.get(name),
            (there or {}).get(name),
        )
        for name in (*student.features, *skipped)
    }
    task = recipe.space.task
    logits = None if teacher is None else trained_logits(task, teacher.logits, targets)
    own = trained_logits(task, student.logits, targets)
    return recipe.loss(own, logits, features, targets, role)


def metric_of(task: Task, outputs: Array, targets: Tree) -> Array:
    """The task's metric on a batch: float32 `[]`."""
    return jnp.asarray(task.value(task.score(outputs, targets)), jnp.float32)


def taught_by(member: Taught, teacher: Taught | None) -> Taught:
    """What members learn after one that teaches: what it puts out, unless the teacher said it."""
    if teacher is not None:
        member = Taught(teacher.logits, {**member.features, **teacher.features})
    return jax.lax.stop_gradient(member)


def dealt(x: Array, count: int) -> Array:
    """`[B, ...]` as `[count, B / count, ...]`, dealt like cards: no example changes its device."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
