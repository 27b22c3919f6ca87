"""One training step of a supernet: sampled members, gradients, combination, update.

Everything random in a step is a function of (seed, step, rollbacks): archs, dropout, augmentation.
Nothing but the `State` carries anything from one step to the next.

Shape letters: `B` images of a step, `M` random members, `G` parts of a batch (usually one).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax import choices, network, ordering, sharding
from supernet_jax.choices import Arch, Array
from supernet_jax.combine import Combine as Combine
from supernet_jax.combine import unit_sum as unit_sum
from supernet_jax.elastic import Tree
from supernet_jax.losses import Feature, Loss
from supernet_jax.network import Space, Strategy
from supernet_jax.sampling import Sampler, SamplerState, active, roles

Metrics = dict[str, Array]
Augment = Callable[[Array, Array, Array], Array]  # (uint8 images, key, example ids) -> float images
# (float images, labels [B], key, example ids) -> (float images, labels [B, K] that sum to 1)
Mix = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
COLLAPSE = 10.0  # times the loss of guessing: no healthy step of the largest subnet is above it


class Batch(NamedTuple):
    """Images and labels of a step.

    Attributes:
        images: uint8 `[B, H, W, C]`.
        labels: int32 `[B]`.
        ids: int32 `[B]`, which example of the training data each is; augmentation depends on it.
    """

    images: Array | np.ndarray
    labels: Array | np.ndarray
    ids: Array | np.ndarray


@flax.struct.dataclass
class State:
    """All that training carries from step to step, and all that a checkpoint holds.

    Attributes:
        step: int32, number of finished steps.
        params: shared parameters.
        opt_state: of the optimiser.
        sampler: state of the sampler.
        ema: exponential moving average of `params`, or None.
        refused: int32, number of steps in a row that the guard did not apply.
        rollbacks: int32, how often training went back; a part of every random key, so that a
            repeated step is not the same step again.
    """

    step: Array
    params: Tree
    opt_state: Any
    sampler: SamplerState
    ema: Tree | None
    refused: Array
    rollbacks: Array


class Recipe(NamedTuple):
    """Everything static about training. Functions and plain numbers; never traced.

    Attributes:
        space: what is trained.
        sampler: which subnets train in a step.
        loss: of one member.
        optimizer: an optax chain.
        combine: of the members' gradients.
        augment: makes the network's input of the batch's images.
        strategy: how random members run; `network.masked` or `network.switched`.
        seed: of everything random.
        dtype: of weights and activations in the forward and backward passes.
        ema_decay: of the average of the parameters; 0 keeps none.
        features: blocks whose outputs the loss wants.
        remat: whether gradients keep only what goes from block to block and compute the insides
            of blocks again: less memory, a forward pass more time. XLA undoes it on CPU.
        arch_shards: parts of a batch, `G`, on each of which a random member is another subnet, so
            that a step trains `M * G` of them at the cost of `M`. A subnet's BatchNorm sees the
            `B / G` images of its part; its gradient is the mean over the parts. A multiple of the
            number of devices, each of which runs its parts one after the other.
        mix: images with each other, and their labels; None for labels as they are.
        teacher: `float images -> logits`, of a network that is no part of the supernet and is not
            trained. It runs once per step, at the images as augmented; its logits are what the
            loss gets for every member, the largest too. None lets the largest teach the others.
        accumulate: micro-batches, `k`, whose gradients are averaged before members are combined:
            only `B / k` images are in memory at a time, and BatchNorm sees only those. Without
            BatchNorm and dropout the step is that of the whole batch. With `arch_shards`, each
            part is split so.
    """

    space: Space
    sampler: Sampler
    loss: Loss
    optimizer: optax.GradientTransformation
    augment: Augment
    combine: Combine = unit_sum()
    strategy: Strategy = network.masked
    seed: int = 0
    dtype: Any = jnp.float32
    ema_decay: float = 0.0
    features: tuple[str, ...] = ()
    remat: bool = False
    arch_shards: int = 1
    mix: Mix | None = None
    teacher: Callable[[Array], Array] | None = None
    accumulate: int = 1


def create(recipe: Recipe) -> State:
    """The state before the first step."""
    params_key, sampler_key = jax.random.split(jax.random.key(recipe.seed))
    params = network.init(recipe.space, params_key)
    return State(
        step=jnp.int32(0),
        params=params,
        opt_state=recipe.optimizer.init(params),
        sampler=recipe.sampler.init(sampler_key),
        ema=jax.tree.map(jnp.copy, params) if recipe.ema_decay else None,
        refused=jnp.int32(0),
        rollbacks=jnp.int32(0),
    )


def step_resolutions(recipe: Recipe, *, step: int, rollbacks: int = 0) -> tuple[int, ...]:
    """Input resolution of each member of a step: fixed ones their own, random ones share one.

    Drawn on the host, because a resolution is a shape. First the fixed members, then the random;
    only those that train in this step.
    """
    space, sampler = recipe.space, recipe.sampler
    options = choices.get(space.menu, space.resolution).values
    own = tuple(options[int(choices.get(arch, space.resolution))] for arch in sampler.fixed)
    drawn = shared_resolution(len(options), seed=recipe.seed, step=step, rollbacks=rollbacks)
    return (*own, *(options[drawn],) * sampler.n_random)[: active(sampler, step)]


def shared_resolution(options: int, *, seed: int, step: int, rollbacks: int = 0) -> int:
    """Which of the resolutions on offer the random members of a step share: its place."""
    return int(np.random.default_rng([seed, rollbacks, step]).integers(options))


def step_keys(seed: int, step: Array, rollbacks: Array) -> tuple[Array, Array, Array]:
    """The keys of a step: for augmentation, for archs, for dropout."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    augment, archs, dropout = jax.random.split(jax.random.fold_in(key, rollbacks), 3)
    return augment, archs, dropout


def places(recipe: Recipe, mesh: jax.sharding.Mesh, rules: sharding.Rules) -> State:
    """Where each array of the state lives: a `State` of shardings."""
    shapes = jax.eval_shape(functools.partial(create, recipe))
    return sharding.place(mesh, shapes, rules=rules)


def make_step(
    recipe: Recipe,
    *,
    mesh: jax.sharding.Mesh | None = None,
    rules: sharding.Rules = sharding.REPLICATED,
) -> Callable[..., tuple[State, Metrics]]:
    """The jitted step `(state, batch, *, resolutions) -> (state, metrics)`; it donates the state.

    `resolutions` is static, one for each member that trains, fixed ones first: any tuple is
    accepted, each distinct one is traced once. Metrics are scalars: `loss/largest`,
    `loss/smallest`, `loss/random_1` ..., `accuracy/largest` and `accuracy/smallest` on the batch,
    `gradient_norm` before clipping, `applied` (1, or 0 where the guard refused the step) and
    `refused`, how many in a row were.

    Args:
        recipe: what to train and how.
        mesh: over which the batch is sharded.
        rules: which arrays of the state are split over it, and how. Those that are get gathered
            where the networks use them; gradients, optimiser and average stay split.
    """
    where = None if mesh is None else places(recipe, mesh, rules)
    whole = None if mesh is None else sharding.replicated(mesh)
    return jax.jit(
        functools.partial(_step, recipe, mesh, None if where is None else where.params),
        static_argnames=("resolutions",),
        donate_argnames=("state",),
        out_shardings=None if where is None else (where, whole),
    )


def _step(
    recipe: Recipe,
    mesh: jax.sharding.Mesh | None,
    where: Tree | None,
    state: State,
    batch: Batch,
    *,
    resolutions: tuple[int, ...],
) -> tuple[State, Metrics]:
    augment_key, arch_key, dropout_key = step_keys(recipe.seed, state.step, state.rollbacks)
    state = _reordered(recipe, state)
    images, labels, ids = (jnp.asarray(part) for part in batch)
    inputs = recipe.augment(images, augment_key, ids)
    if recipe.mix is not None:
        inputs, labels = recipe.mix(inputs, labels, jax.random.fold_in(augment_key, 2**31), ids)
    members = _Members(recipe, mesh, where, state, inputs, labels, dropout_key)
    gradients, metrics, archs = members.run(arch_key, resolutions)
    metrics["gradient_norm"] = optax.tree.norm(gradients)
    applied = _healthy(recipe, metrics)
    metrics["applied"] = applied.astype(jnp.float32)
    fixed = recipe.sampler.fixed[: len(resolutions)]
    state = _update(recipe, state, gradients, metrics, (fixed, archs), applied)
    return state, {**metrics, "refused": state.refused}


class _Taught(NamedTuple):
    """What a member puts out that others may learn from: constants for them."""

    logits: Array  # [B, K]
    features: dict[str, Array]  # [B, ...]


class _Members(NamedTuple):
    """The members of one step, run one after another on the same images."""

    recipe: Recipe
    mesh: jax.sharding.Mesh | None
    where: Tree | None  # shardings of the parameters, and so of their gradients
    state: State
    images: Array
    labels: Array
    dropout_key: Array

    def run(self, key: Array, resolutions: tuple[int, ...]) -> tuple[Tree, Metrics, Arch | None]:
        """Combined gradients, metrics per role, and the random archs, `[M]` or `[M, G]`."""
        recipe, n_fixed = self.recipe, len(self.recipe.sampler.fixed)
        every = n_fixed + recipe.sampler.n_random
        some = recipe.sampler.members is not None and 0 < len(resolutions) < every
        if not some and len(resolutions) != every:
            raise ValueError(f"a step of {recipe.sampler} needs a resolution for each member")
        carry = recipe.combine.init(self.state.params)
        metrics: Metrics = {}
        teacher = None
        if recipe.teacher is not None:
            teacher = jax.lax.stop_gradient(_Taught(recipe.teacher(self.images), {}))
        # of mixed labels, the one with the larger share
        wanted = self.labels if self.labels.ndim == 1 else jnp.argmax(self.labels, -1)
        members = zip(
            recipe.sampler.fixed, roles(recipe.sampler), resolutions[:n_fixed], strict=not some
        )
        for arch, role, size in members:
            loss, output, carry = self.fixed(arch, role, size, teacher, carry)
            metrics[f"loss/{role}"] = loss
            right = jnp.argmax(output.logits, -1) == wanted
            metrics[f"accuracy/{role}"] = jnp.mean(right.astype(jnp.float32))
            if role == "largest":
                logits = output.logits if teacher is None else teacher.logits
                teacher = jax.lax.stop_gradient(_Taught(logits, output.features))
        if len(resolutions) <= n_fixed:
            return recipe.combine.finish(carry), metrics, None
        archs = self.draw(key, teacher, resolutions[n_fixed:])  # of those that train
        losses, carry = self.random(archs, resolutions[n_fixed:], teacher, carry)
        metrics |= {f"loss/random_{i + 1}": loss for i, loss in enumerate(losses)}
        return recipe.combine.finish(carry), metrics, archs

    def fixed(
        self, arch: Arch, role: str, resolution: int, teacher: _Taught | None, carry: Any
    ) -> tuple[Array, _Taught, Any]:
        """A concrete arch, at its own cost."""
        (loss, output), gradients = self.gradient(network.sliced, arch, role, resolution, teacher)
        carry = self.recipe.combine.add(carry, gradients, role, self.state.step)
        return loss, output, carry

    def random(
        self, archs: Arch, resolutions: tuple[int, ...], teacher: _Taught | None, carry: Any
    ) -> tuple[Array, Any]:
        """Traced archs, one program for each run of members with equal resolution."""
        losses = []
        start = 0
        for size, members in itertools.groupby(resolutions):
            stop = start + len(list(members))
            part = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], archs)

            def body(carry: Any, arch: Arch, size: int = size) -> tuple[Any, Array]:
                if self.recipe.arch_shards > 1:
                    loss, grads = self.on_shards(arch, size, teacher)
                else:
                    strategy = self.recipe.strategy
                    (loss, _), grads = self.gradient(strategy, arch, "random", size, teacher)
                return self.recipe.combine.add(carry, grads, "random", self.state.step), loss

            carry, part_losses = jax.lax.scan(body, carry, part)
            losses.append(part_losses)
            start = stop
        return jnp.concatenate(losses), carry

    def on_shards(
        self, archs: Arch, resolution: int, teacher: _Taught | None
    ) -> tuple[Array, Tree]:
        """Mean loss and gradient of one random member that is `archs[g]` on part g of the batch."""
        count = self.recipe.arch_shards
        parts = jax.tree.map(
            lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]),
            (self.images, self.labels, teacher),
        )

        def total(params: Tree, archs: Arch, parts: Any) -> tuple[Array, Tree]:
            """Summed over the parts of a device."""
            state = self.state.replace(params=params)  # type: ignore[attr-defined]

            def add(carry: Any, part: Any) -> tuple[Any, None]:
                arch, (images, labels, teacher) = part
                alone = self._replace(where=None, state=state, images=images, labels=labels)
                strategy = self.recipe.strategy
                (loss, _), grads = alone.gradient(strategy, arch, "random", resolution, teacher)
                return optax.tree.add(carry, (loss, grads)), None

            zero = (jnp.zeros(()), optax.tree.zeros_like(params))
            return jax.lax.scan(add, zero, (archs, parts))[0]

        summed = sharding.over_devices(total, self.mesh)(self.state.params, archs, parts)
        loss, gradients = jax.tree.map(lambda x: x / count, summed)
        return loss, sharding.scattered(gradients, self.where)

    def draw(self, key: Array, teacher: _Taught | None, resolutions: tuple[int, ...]) -> Arch:
        """The step's random archs, with the resolutions that the host drew."""
        space, sampler = self.recipe.space, self.recipe.sampler

        def score(arch: Arch) -> Array:
            loss, _ = self.loss(
                self.state.params, self.recipe.strategy, arch, "random", resolutions[0], teacher
            )
            return jax.lax.stop_gradient(loss)

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

    def gradient(
        self, strategy: Strategy, arch: Arch, role: str, resolution: int, teacher: _Taught | None
    ) -> tuple[tuple[Array, _Taught], Tree]:
        """((loss, output), gradient with respect to the shared parameters), over micro-batches."""
        count = self.recipe.accumulate
        if count == 1:
            return self.at_once(strategy, arch, role, resolution, teacher)

        def add(total: Any, part: Any) -> tuple[Any, _Taught]:
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
        self, strategy: Strategy, arch: Arch, role: str, resolution: int, teacher: _Taught | None
    ) -> tuple[tuple[Array, _Taught], Tree]:
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
        teacher: _Taught | None,
    ) -> tuple[Array, _Taught]:
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
        return loss, _Taught(output.logits, output.features)


def _dealt(x: Array, count: int) -> Array:
    """`[B, ...]` as `[count, B / count, ...]`, dealt like cards: no image changes its device."""
    return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)


def _gathered_in(x: Array) -> Array:
    """The inverse of `_dealt`."""
    return jnp.swapaxes(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _reordered(recipe: Recipe, state: State) -> State:
    """The state with shared channels in another order, at the step where the sampler wants it."""
    reorder = recipe.sampler.reorder
    if reorder is None:
        return state

    def moved(state: State) -> State:
        orders = reorder.orders(state.params)
        trees = (state.params, state.opt_state, state.ema)
        params, opt_state, ema = ordering.reordered(trees, orders)
        return state.replace(params=params, opt_state=opt_state, ema=ema)  # type: ignore[attr-defined]

    return jax.lax.cond(state.step == reorder.step, moved, lambda state: state, state)


def _healthy(recipe: Recipe, metrics: Metrics) -> Array:
    """Whether a step may be applied: everything finite, and the largest subnet not collapsed."""
    finite = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values()))))
    if "loss/largest" not in metrics:
        return finite
    return finite & (metrics["loss/largest"] < COLLAPSE * np.log(recipe.space.classes))


def _update(
    recipe: Recipe,
    state: State,
    gradients: Tree,
    metrics: Metrics,
    archs: tuple[tuple[Arch, ...], Arch | None],
    applied: Array,
) -> State:
    """The next state; where the guard refused the step, only the counters move."""
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if recipe.space.bank is not None:
        touched = _touched_rows(recipe, *archs)
        params = _keep_rows(touched, params, state.params)
        opt_state = _keep_rows(touched, opt_state, state.opt_state)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, 1.0 - recipe.ema_decay)
    new = (params, opt_state, recipe.sampler.update(state.sampler, metrics), ema)
    old = (state.params, state.opt_state, state.sampler, state.ema)
    kept = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)
    params, opt_state, sampler, ema = kept
    return State(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        sampler=sampler,
        ema=ema,
        refused=jnp.where(applied, 0, state.refused + 1),
        rollbacks=state.rollbacks,
    )


def _touched_rows(recipe: Recipe, fixed: tuple[Arch, ...], archs: Arch | None) -> Array:
    """Which rows of the parameter bank the members of a step used: bool `[rows]`."""
    bank = recipe.space.bank
    assert bank is not None
    used = [jnp.atleast_1d(jnp.asarray(bank.row(arch))) for arch in fixed]
    if archs is not None:
        used.append(jnp.asarray(bank.row(archs)).ravel())
    return jnp.zeros(bank.rows, bool).at[jnp.concatenate(used)].set(True)


def _keep_rows(touched: Array, new: Tree, old: Tree) -> Tree:
    """The new values in touched rows and the old ones elsewhere, counters aside.

    Every leaf of the parameters, and of optimiser state shaped like them, leads with the bank axis.
    """

    def one(n: Array, o: Array) -> Array:
        if n.ndim == 0:
            return n
        return jnp.where(touched.reshape((-1,) + (1,) * (n.ndim - 1)), n, o)

    return jax.tree.map(one, new, old)
