"""One training step of a supernet: sampled members, their gradients, combination, update.

What a single member does, its loss and its gradient, is in `members`.

Everything random in a step is a function of (seed, step, rollbacks): archs, dropout, augmentation.
Nothing but the `State` carries anything from one step to the next.

Shape letters: `B` examples of a step, `M` random members, `G` parts of a batch (usually one).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from supernet_jax.elastic import channel_order, choices, shared_params
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.elastic.space import geometry
from supernet_jax.errors import UserError
from supernet_jax.runtime import hardware, path_rules, sharding
from supernet_jax.tasks.task import Size
from supernet_jax.training import architecture_step, bank_rows, blockwise_members, members, samplers
from supernet_jax.training.known_archs import Clock, KnownArchs, Moment
from supernet_jax.training.members import Given, Members
from supernet_jax.training.recipe import Batch, Metrics, Recipe, State
from supernet_jax.training.samplers import SamplerState, active
from supernet_jax.training.teachers.teacher import Taught

AHEAD = 4  # steps after the present one whose programs threads compile
COLLAPSE = 10.0  # times the loss of guessing: no healthy step of the largest subnet is above it


def check_parts(recipe: Recipe, batch: int, mesh: jax.sharding.Mesh) -> None:
    """Raises a `UserError` unless a batch splits into the recipe's parts on these devices."""
    sharding.check_parts(
        batch,
        mesh,
        arch_shards=recipe.arch_shards,
        norm_shards=recipe.norm_shards,
        accumulate=recipe.accumulate,
    )


def create(recipe: Recipe, key: Array | None = None, params: Tree | None = None) -> State:
    """The state before the first step.

    Args:
        recipe: what to train.
        key: data of the random key of everything; None for the key of the recipe's seed.
        params: to begin with, all or a part of them; the others are random. None for random ones.
    """
    key = jax.random.key(recipe.seed) if key is None else jax.random.wrap_key_data(key)
    params_key, sampler_key = jax.random.split(key)
    params = {} if params is None else params
    every = path_rules.named_leaves(shared_params.parameter_shapes(recipe.space))
    if path_rules.named_leaves(params).keys() != every.keys():
        params = path_rules.laid_over(shared_params.init(recipe.space, params_key), params)
    return State(
        step=jnp.int32(0),
        params=params,
        opt_state=recipe.optimizer.init(members.trained(recipe, params)),
        sampler=recipe.sampler.init(sampler_key),
        ema=jax.tree.map(jnp.copy, params) if recipe.ema_decay else None,
        refused=jnp.int32(0),
        rollbacks=jnp.int32(0),
        key=jax.random.key_data(key),
        teacher=recipe.teacher.init(params),
    )


def starters(recipe: Recipe, key: Array, where: Tree) -> list[shared_params.Starter]:
    """The programs that make the parameters of `create`, group by group; `where` they will lie."""
    params_key, _ = jax.random.split(jax.random.wrap_key_data(key))
    return shared_params.starters(recipe.space, params_key, where)


def step_sizes(recipe: Recipe, *, step: int, rollbacks: int = 0) -> tuple[Size, ...]:
    """Size of each member's inputs in a step: fixed ones their own, random ones share one.

    Drawn on the host, because a size is a shape. First the fixed members, then the random;
    only those that train in this step.
    """
    space, sampler = recipe.space, recipe.sampler
    own = tuple(map(space.size_of, sampler.fixed))
    drawn = shared_size(len(space.sizes), seed=recipe.seed, step=step, rollbacks=rollbacks)
    return (*own, *(space.sizes[drawn],) * sampler.n_random)[: active(sampler, step)]


def shared_size(options: int, *, seed: int, step: int, rollbacks: int = 0) -> int:
    """Which of the sizes on offer the random members of a step share: its place."""
    return int(np.random.default_rng([seed, rollbacks, step]).integers(options))


def shapes(recipe: Recipe) -> State:
    """The state of a recipe with `jax.ShapeDtypeStruct` leaves; nothing is computed."""
    params = shared_params.parameter_shapes(recipe.space)
    return jax.eval_shape(functools.partial(create, recipe), None, params)


def places(recipe: Recipe, mesh: jax.sharding.Mesh, rules: sharding.Rules) -> State:
    """Where each array of the state lives: a `State` of shardings."""
    return sharding.place(mesh, shapes(recipe), rules=rules)


class Step:
    """A training step, `step(state, batch, sizes=...)`.

    It is a chain of compiled programs: what all members need, then each member's gradient, then
    the update. A member is one program, or with the strategy `blockwise` many small ones; then the
    step cannot be traced itself, and threads compile ahead what coming steps will need.

    Attributes:
        recipe: what it trains.
        is_blockwise: whether members run block by block.
        blockwise: what runs them then.
        reorder: `state -> state`, where the sampler wants channels in another order.
        begin: `(state, batch) -> given`.
        start: `params -> carry`.
        fixed: `(state, given, teacher, carry, *, place, size)`; see `Members.fixed`.
        draw: `(state, given, teacher, *, sizes) -> archs`.
        random: `(state, given, teacher, carry, archs, place, *, size, role)`; see
            `Members.random`.
        learn: `(state, given, *, size) -> (state of the sampler, metrics)`, where it learns.
        finish: `(state, carry, metrics, archs, learned, *, members) -> (state, metrics)`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        mesh: jax.sharding.Mesh | None = None,
        rules: sharding.Rules = sharding.REPLICATED,
        steps: int = 0,
    ) -> None:
        """Compiles nothing yet.

        Args:
            recipe: what to train and how.
            mesh: over which the batch is sharded.
            rules: which arrays of the state are split over it, and how. Those that are get gathered
                where the networks use them; gradients, optimiser and average stay split.
            steps: of the run. Block by block, threads compile ahead what is needed before then.

        Raises:
            UserError: roles of the sampler do not name its members.
        """
        samplers.check(recipe.sampler)
        where = None if mesh is None else places(recipe, mesh, rules)
        split, remembered = (None, None) if where is None else (where.params, where.teacher)
        self.recipe = recipe
        self.is_blockwise = blockwise_members.fits(recipe, mesh)
        self._devices = 1 if mesh is None else mesh.size

        self.reorder = jax.jit(
            functools.partial(_reordered, recipe), donate_argnums=0, out_shardings=where
        )
        self.begin = jax.jit(functools.partial(_begin, recipe, remembered))
        # Options are for outermost programs; a step whose members are programs may be inside one.
        quickly = hardware.runs_once() if self.is_blockwise else None
        self.start = jax.jit(
            lambda params: recipe.combine.init(members.trained(recipe, params)),
            compiler_options=quickly,
        )
        who = recipe, mesh, split
        self.fixed = jax.jit(
            functools.partial(_fixed, who),
            static_argnames=("place", "size"),
            donate_argnums=3,
        )
        self.draw = jax.jit(functools.partial(_draw, who), static_argnames="sizes")
        self.random = jax.jit(
            functools.partial(_random, who),
            static_argnames=("size", "role"),
            donate_argnums=3,
        )
        learn = functools.partial(architecture_step.learned, *who)
        self.learn = jax.jit(learn, static_argnames="size")
        self.finish = jax.jit(
            functools.partial(_finish, recipe),
            static_argnames="members",
            donate_argnums=0,
            out_shardings=None if mesh is None else (where, sharding.replicated(mesh)),
        )
        if self.is_blockwise:
            self.blockwise = blockwise_members.BlockwiseMembers(recipe, mesh, split)
            self._known, self._clock, self._steps = KnownArchs(recipe), Clock(), steps
            self._looked = range(0)  # steps whose programs are known to the threads

    def __call__(
        self, state: State, batch: Batch, *, sizes: tuple[Size, ...]
    ) -> tuple[State, Metrics]:
        """Takes one step; the state is donated.

        Args:
            state: before the step.
            batch: of the data.
            sizes: one for each member that trains, fixed ones first; any will do, each is
                compiled once.

        Returns:
            The state, and scalars: those of members (`samplers.metric_names`), as `loss/largest`,
            `loss/smallest`, `loss/random_1` and the task's metric as `accuracy/largest`,
            `gradient_norm` before clipping, `applied` (1, or 0 where the guard refused the step)
            and `refused`, how many in a row were.
        """
        sampler, count = self.recipe.sampler, len(sizes)
        n_fixed, every = len(sampler.fixed), len(sampler.fixed) + sampler.n_random
        if count != every and (sampler.members is None or not 0 < count < every):
            raise ValueError(f"a step of {sampler} needs a size for each member")
        now = self._clock.read(state) if self.is_blockwise else None
        if sampler.reorder is not None:
            state = self.reorder(state)
        shared = dataclasses.replace(state, opt_state=None, ema=None)
        if now is not None:
            self._look_ahead(now, state, sizes, len(batch.ids))
        given = self.begin(shared, batch)
        shared = dataclasses.replace(shared, teacher=())
        metrics: Metrics = {}
        learned = None
        if samplers.learns_apart(sampler):
            learned, metrics = self.learn(shared, given, size=sizes[-1])
            shared = dataclasses.replace(shared, sampler=learned)
        teacher, carry, archs = given.teacher, self.start(state.params), None
        roles, names = samplers.roles(sampler), samplers.names(sampler)
        fixed = self.blockwise.fixed if self.is_blockwise else self.fixed
        for place, size in enumerate(sizes[:n_fixed]):
            carry, teacher, own = fixed(shared, given, teacher, carry, place=place, size=size)
            metrics |= own
        drawn = sizes[n_fixed:]
        if drawn:
            archs = self._archs(now, shared, given, teacher, sizes, len(batch.ids))
        for i, size in enumerate(drawn):
            learning = shared, given, teacher, carry
            if now is None:
                how: Any = {"size": size, "role": roles[n_fixed + i]}
                carry, own = self.random(*learning, archs, np.int32(i), **how)
            else:
                arch = choices.unstack(archs)[i]
                carry, own = self.blockwise.random(*learning, arch=arch, place=i, size=size)
            metrics |= {f"{what}/{names[n_fixed + i]}": value for what, value in own.items()}
        if now is None:
            return self.finish(state, carry, metrics, archs, learned, members=count)
        operands = state, carry, metrics, archs
        finish = self.blockwise.run.programs.get(
            ("finish", count), lambda: self.finish.lower(*operands, members=count).compile()
        )
        state, metrics = finish(*operands)
        self._clock.tick(state)
        return state, metrics

    def _archs(
        self,
        now: Moment | None,
        shared: State,
        given: Given,
        teacher: Taught | None,
        sizes: tuple[Size, ...],
        examples: int,
    ) -> Arch:
        """The random archs of a step; on the host where members run block by block."""
        fixed = self.recipe.sampler.fixed
        drawn = sizes[len(fixed) :]
        if now is not None and self._known.possible:
            return self._known.of(now, drawn)
        archs = self.draw(shared, given, teacher, sizes=drawn)
        if now is None:
            return archs
        archs = jax.device_get(archs)
        self.blockwise.ahead([*fixed, *choices.unstack(archs)], sizes, examples)
        return archs

    def _look_ahead(self, now: Moment, state: State, own: tuple[Size, ...], examples: int) -> None:
        """Lets threads compile what this step needs, and then what the next ones will."""
        fixed = self.recipe.sampler.fixed
        coming = range(now.step, max(now.step + 1, min(now.step + 1 + AHEAD, self._steps)))
        for step in coming:
            if step in self._looked and now.step in self._looked:
                continue
            sizes = own
            if step > now.step:
                sizes = step_sizes(self.recipe, step=step, rollbacks=now.rollbacks)
            random: list[Arch] = []
            if self._known.possible and len(sizes) > len(fixed):
                moment = dataclasses.replace(now, step=step)
                random = choices.unstack(self._known.of(moment, sizes[len(fixed) :]))
            self.blockwise.ahead([*fixed, *random], sizes, examples)
            if step == now.step:
                self._finish_ahead(state, own)
        self._looked = coming

    def _finish_ahead(self, state: State, sizes: tuple[Size, ...]) -> None:
        """Lets a thread compile the update, where all that it takes is known beforehand."""
        recipe, count = self.recipe, len(sizes)
        if not recipe.combine.is_sum or self._devices > 1:
            return
        random = range(count - len(recipe.sampler.fixed))
        metrics = samplers.metric_names(recipe.sampler, count, recipe.space.task.metric.name)
        one = jax.ShapeDtypeStruct((), jnp.float32)
        shape = (len(random),) if recipe.arch_shards == 1 else (len(random), recipe.arch_shards)
        arch = jax.tree.map(lambda _: jax.ShapeDtypeStruct(shape, jnp.int32), recipe.space.menu)
        shapes = jax.tree.map(_shape, state)
        carry = members.trained(recipe, shapes.params)
        operands = shapes, carry, dict.fromkeys(metrics, one), arch if random else None
        self.blockwise.run.programs.ahead(
            [(("finish", count), lambda: self.finish.lower(*operands, members=count).compile())]
        )


_Who = tuple[Recipe, jax.sharding.Mesh | None, Tree | None]  # recipe, mesh, places of parameters


def _members(who: _Who, state: State, given: Given) -> Members:
    return Members(*who, state, given.inputs, given.targets, given.dropout_key)


def _fixed(
    who: _Who,
    state: State,
    given: Given,
    teacher: Taught | None,
    carry: Any,
    *,
    place: int,
    size: Size,
) -> tuple[Any, Taught | None, Metrics]:
    return _members(who, state, given).fixed(place, size, teacher, carry)


def _draw(
    who: _Who,
    state: State,
    given: Given,
    teacher: Taught | None,
    *,
    sizes: tuple[Size, ...],
) -> Arch:
    return _members(who, state, given).draw(given.arch_key, teacher, sizes)


def _random(
    who: _Who,
    state: State,
    given: Given,
    teacher: Taught | None,
    carry: Any,
    archs: Arch,
    place: Array,
    *,
    size: Size,
    role: str = "random",
) -> tuple[Any, Metrics]:
    return _members(who, state, given).random(archs, place, size, teacher, carry, role)


def _shape(x: Array | np.ndarray) -> jax.ShapeDtypeStruct:
    where = x.sharding if isinstance(x, jax.Array) else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def _begin(recipe: Recipe, where: Tree | None, state: State, batch: Batch) -> Given:
    """The inputs of a step, augmented, and what the teacher says of them.

    Args:
        recipe: what is trained.
        where: shardings of the teacher's memory; None for one device.
        state: before the step.
        batch: of the step.

    Raises:
        UserError: the teacher puts out something else than the space.
    """
    key = jax.random.wrap_key_data(state.key)
    augment_key, arch_key, dropout_key = members.step_keys(key, state.step, state.rollbacks)
    inputs, targets, ids, other = jax.tree.map(jnp.asarray, batch)
    inputs = recipe.augment(inputs, augment_key, ids)
    second = None
    if other is not None:
        key = jax.random.fold_in(augment_key, 2**31 + 1)
        second = recipe.augment(other.inputs, key, other.ids), other.targets
    if recipe.mix is not None:
        inputs, targets = recipe.mix(inputs, targets, jax.random.fold_in(augment_key, 2**31), ids)
    memory = state.teacher if where is None else sharding.gathered(state.teacher, where)
    teacher = recipe.teacher.teach(memory, inputs)
    if teacher is not None:
        teacher = jax.lax.stop_gradient(_fitting(recipe, teacher, inputs))
    return Given(inputs, targets, arch_key, dropout_key, teacher, second)


def _fitting(recipe: Recipe, teacher: Taught, inputs: Tree) -> Taught:
    """What a teacher says, if it has the form of what the space puts out."""
    space, size = recipe.space, recipe.space.sizes[0]
    ends = list(geometry(space, size).values())[-1].shapes.output.shape[1:]
    wanted = (len(jax.tree.leaves(inputs)[0]), *ends)
    found = teacher.logits.shape
    if (len(found), found[0], found[-1]) != (len(wanted), wanted[0], wanted[-1]):
        raise UserError(
            f"the teacher puts out logits {list(found)}, but a step of the space {space.name} has "
            f"{list(wanted)}; give one for the same task"
        )
    return teacher


def _finish(
    recipe: Recipe,
    state: State,
    carry: Any,
    metrics: Metrics,
    archs: Arch | None,
    learned: SamplerState | None = None,
    *,
    members: int,
) -> tuple[State, Metrics]:
    """The update by the members' gradients, unless the guard refuses it; what the sampler learned
    is kept under the same condition.
    """
    gradients = recipe.combine.finish(carry)
    metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
    applied = _healthy(recipe, metrics) & architecture_step.finite(learned)
    metrics["applied"] = applied.astype(jnp.float32)
    fixed = recipe.sampler.fixed[:members]
    sampler = state.sampler if learned is None else learned
    moved = recipe.sampler.update(sampler, metrics)
    state = _update(recipe, state, gradients, moved, (fixed, archs), applied)
    return state, {**metrics, "refused": state.refused}


def _reordered(recipe: Recipe, state: State) -> State:
    """The state with shared channels in another order, at the step where the sampler wants it."""
    reorder = recipe.sampler.reorder
    assert reorder is not None

    def moved(state: State) -> State:
        orders = reorder.orders(state.params)
        names = ["params", "opt_state", "ema", *["teacher"] * recipe.teacher.of_params]
        trees = {name: vars(state)[name] for name in names}
        return state.replace(**channel_order.reordered(trees, orders))  # type: ignore[attr-defined]

    return jax.lax.cond(state.step == reorder.step, moved, lambda state: state, state)


def _healthy(recipe: Recipe, metrics: Metrics) -> Array:
    """Whether a step may be applied: everything finite, and the largest subnet not collapsed."""
    collapsed = COLLAPSE * recipe.space.task.guess
    limits = [collapsed if name == "loss/largest" else np.inf for name in metrics]
    values = jnp.stack(list(metrics.values()))
    return jnp.all(jnp.isfinite(values) & (values < jnp.array(limits)))


def _update(
    recipe: Recipe,
    state: State,
    gradients: Tree,
    sampler: SamplerState,
    archs: tuple[tuple[Arch, ...], Arch | None],
    applied: Array,
) -> State:
    """The next state; where the guard refused the step, only the counters move."""
    part = members.trained(recipe, state.params)
    updates, opt_state = recipe.optimizer.update(gradients, state.opt_state, part)
    params = path_rules.laid_over(state.params, optax.apply_updates(part, updates))
    ema = state.ema
    if ema is not None:
        # An average of what does not change would round it.
        average, now = (members.trained(recipe, tree) for tree in (ema, params))
        moved = optax.incremental_update(now, average, 1.0 - recipe.ema_decay)
        ema = path_rules.laid_over(ema, moved)
    if recipe.space.bank is not None:
        touched = bank_rows.touched(recipe.space.bank, *archs)
        params, opt_state, ema = bank_rows.kept(
            recipe.space,
            touched,
            (params, opt_state, ema),
            (state.params, state.opt_state, state.ema),
        )
    teacher = recipe.teacher.update(state.teacher, params, state.step + 1)
    new = (params, opt_state, sampler, ema, teacher)
    old = (state.params, state.opt_state, state.sampler, state.ema, state.teacher)
    kept = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)
    params, opt_state, sampler, ema, teacher = kept
    return State(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        sampler=sampler,
        ema=ema,
        refused=jnp.where(applied, 0, state.refused + 1),
        rollbacks=state.rollbacks,
        key=state.key,
        teacher=teacher,
    )
