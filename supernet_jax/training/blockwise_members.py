"""The members of a training step, run block by block; archs are known on the host.

Shape letters: `B` examples of a step, `M` random members, `G` parts of a batch (usually one).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import blockwise, choices
from supernet_jax.elastic.blockwise import Blockwise, Mode, Plan
from supernet_jax.elastic.choices import Arch, Array
from supernet_jax.elastic.elastic_block import Tree
from supernet_jax.tasks.task import Size
from supernet_jax.training import members
from supernet_jax.training.members import Given
from supernet_jax.training.recipe import Metrics, Recipe, State
from supernet_jax.training.samplers import names, roles
from supernet_jax.training.teachers.teacher import Taught


class Piece(NamedTuple):
    """Examples that one pass takes: a part of the batch, or a micro-batch of it."""

    inputs: Tree
    targets: Tree
    teacher: Taught | None
    key: Array


def fits(recipe: Recipe, mesh: jax.sharding.Mesh | None) -> bool:
    """Whether a recipe's members run block by block.

    Parts of a batch that know nothing of each other do so on one device only: on several, each
    device has another part, which has to be said inside one program. Nor do they where there is a
    penalty: it is a function of all parameters, not of what the network puts out.
    """
    parts = max(recipe.arch_shards, recipe.norm_shards)
    asked = recipe.strategy is blockwise.blockwise and recipe.penalty is None
    return asked and (parts == 1 or mesh is None or mesh.size == 1)


class BlockwiseMembers:
    """Adds members' gradients to a step's carry, block by block.

    Args:
        recipe: what to train and how.
        mesh: of the devices; None for one.
        where: shardings of the parameters; None for one device.

    Attributes:
        run: what runs the members.
    """

    def __init__(self, recipe: Recipe, mesh: jax.sharding.Mesh | None, where: Tree | None) -> None:
        self._recipe = recipe
        how = {"dtype": recipe.dtype, "remat": recipe.remat, "mesh": mesh, "where": where}
        self.run = Blockwise(recipe.space, **how)
        self._loss = jax.jit(functools.partial(_loss, recipe), static_argnames=("role", "share"))
        self._split = jax.jit(functools.partial(_split, recipe.accumulate), static_argnames="parts")
        self._join = jax.jit(functools.partial(_join, recipe), static_argnames="parts")
        self._zeros = jax.jit(
            lambda params: jax.tree.map(jnp.zeros_like, params), out_shardings=where
        )
        self._add = jax.jit(recipe.combine.add, static_argnums=2, donate_argnums=0)

    def ahead(self, archs: list[Arch], sizes: tuple[Size, ...], examples: int) -> None:
        """Lets threads compile what members will need.

        Args:
            archs: of members, the fixed ones first; each `[]` or `[G]`.
            sizes: of their inputs.
            examples: B.
        """
        sampler = self._recipe.sampler
        plans: list[Plan] = []
        for place, (arch, size) in enumerate(zip(archs, sizes, strict=False)):
            role = roles(sampler)[place]
            parts = self._parts(is_random=place >= len(sampler.fixed))
            mode = self._mode(size, examples // (parts * self._recipe.accumulate), role)
            plans += [self.run.plan(one, mode) for one in _each(arch, parts)]
        self.run.ahead(plans)

    def fixed(
        self,
        state: State,
        given: Given,
        teacher: Taught | None,
        carry: Any,
        *,
        place: int,
        size: Size,
    ) -> tuple[Any, Taught | None, Metrics]:
        """As `Members.fixed`."""
        recipe, sampler = self._recipe, self._recipe.sampler
        arch, role, name = sampler.fixed[place], roles(sampler)[place], names(sampler)[place]
        carry, loss, output, value = self._member(state, given, teacher, carry, arch, place, size)
        if role == recipe.teacher.role:
            teacher = members.taught_by(output, given.teacher)
        metric = recipe.space.task.metric.name
        return carry, teacher, {f"loss/{name}": loss, f"{metric}/{name}": value}

    def random(
        self,
        state: State,
        given: Given,
        teacher: Taught | None,
        carry: Any,
        *,
        arch: Arch,
        place: int,
        size: Size,
    ) -> tuple[Any, Metrics]:
        """As `Members.random`, with the concrete arch `[]` or `[G]` of one member."""
        recipe, sampler = self._recipe, self._recipe.sampler
        place += len(sampler.fixed)
        carry, loss, _, value = self._member(state, given, teacher, carry, arch, place, size)
        if roles(sampler)[place] == "random":
            return carry, {"loss": loss}
        return carry, {"loss": loss, recipe.space.task.metric.name: value}

    def _parts(self, *, is_random: bool) -> int:
        recipe = self._recipe
        return max(recipe.arch_shards, recipe.norm_shards) if is_random else recipe.norm_shards

    def _mode(self, size: Size, examples: int, role: str) -> Mode:
        recipe = self._recipe
        drops = role in recipe.sampler.regularised
        return Mode(size, examples, dropout=drops, features=recipe.features)

    def _member(
        self,
        state: State,
        given: Given,
        teacher: Taught | None,
        carry: Any,
        arch: Arch,
        place: int,
        size: Size,
    ) -> tuple[Any, Array, Taught, Array]:
        """The new carry, and the loss, output and metric of a member by its place among all."""
        recipe, run, key = self._recipe, self.run, given.dropout_key
        role, n_fixed = roles(recipe.sampler)[place], len(recipe.sampler.fixed)
        parts = self._parts(is_random=place >= n_fixed)
        if role in recipe.sampler.regularised and (place or not n_fixed):
            key = members.member_key(key, place)
        params = run.leaves(state.params)
        plain = recipe.combine.is_sum and recipe.space.trained is None
        sums = run.leaves(carry if plain else self._zeros(state.params))
        whole = Piece(given.inputs, given.targets, teacher, key)
        count = parts * recipe.accumulate
        pieces = [whole] if count == 1 else self._split(whole, parts=parts)
        archs = [one for one in _each(arch, parts) for _ in range(recipe.accumulate)]
        results = []
        for piece, one in zip(pieces, archs, strict=True):
            mode = self._mode(size, len(jax.tree.leaves(piece.inputs)[0]), role)
            passed = run.forward(
                run.plan(one, mode),
                params,
                blockwise.prepare(piece.inputs, recipe.space.task, size, recipe.dtype),
                key=piece.key if mode.dropout else None,
            )
            student = Taught(passed.logits, passed.features)
            result, (of_logits, of_features) = self._loss(
                student, piece.teacher, piece.targets, role=role, share=1 / count
            )
            sums = run.backward(passed, of_logits, of_features, sums)
            results.append(result)
        loss, output, value = results[0]
        if count > 1:
            loss, output, value = self._join(results, given.targets, parts=parts)
        gradients = members.trained(recipe, run.tree(sums))
        carry = gradients if plain else self._add(carry, gradients, role, state.step)
        return carry, loss, output, value


def _each(arch: Arch, parts: int) -> list[Arch]:
    """The arch of each part: its own, or one for all."""
    is_batched = np.ndim(jax.tree.leaves(arch)[0]) > 0
    return choices.unstack(arch) if is_batched else [arch] * parts


def _loss(
    recipe: Recipe,
    student: Taught,
    teacher: Taught | None,
    targets: Tree,
    *,
    role: str,
    share: float,
) -> Any:
    """`(loss, output, metric)` of a piece, and the gradient of its share of the loss."""

    def total(student: Taught) -> tuple[Array, Any]:
        student = student._replace(logits=student.logits.astype(jnp.float32))
        loss = members.loss_of(recipe, student, teacher, targets, role)
        return loss * share, (
            loss,
            student,
            members.metric_of(recipe.space.task, student.logits, targets),
        )

    (_, results), gradient = jax.value_and_grad(total, has_aux=True)(student)
    return results, gradient


def _split(accumulate: int, whole: Piece, *, parts: int) -> list[Piece]:
    """The pieces of a batch: parts one after the other, micro-batches of each."""
    arrays, key = whole[:-1], whole.key
    pieces = []
    for place in range(parts):
        part = jax.tree.map(
            lambda x, p=place: x.reshape(parts, x.shape[0] // parts, *x.shape[1:])[p], arrays
        )
        part_key = key if parts == 1 else jax.random.fold_in(key, place)
        for i in range(accumulate):
            micro = jax.tree.map(lambda x, i=i: members.dealt(x, accumulate)[i], part)
            micro_key = part_key if accumulate == 1 else jax.random.fold_in(part_key, i)
            inputs, targets, teacher = micro
            pieces.append(Piece(inputs, targets, teacher, micro_key))
    return pieces


def _join(recipe: Recipe, results: list[Any], targets: Tree, *, parts: int) -> Any:
    """Mean loss, outputs in the order of the examples, and their metric; inverse of `_split`."""

    def joined(*pieces: Array) -> Array:
        shape = pieces[0].shape
        stacked = jnp.stack(pieces).reshape(parts, recipe.accumulate, *shape)
        return jnp.swapaxes(stacked, 1, 2).reshape(-1, *shape[1:])

    losses, outputs, _ = zip(*results, strict=True)
    output = jax.tree.map(joined, *outputs)
    value = members.metric_of(recipe.space.task, output.logits, targets)
    return jnp.mean(jnp.stack(losses)), output, value
