"""Elastic blocks that are one of several modules, as the operations of a cell are."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, elastic, union_spec
from supernet_jax.errors import UserError
from supernet_jax.nn import block_shapes
from supernet_jax.nn.blocks.choice import ChoiceBlock, ChoiceSpec, Option, gate_name

Options = Mapping[str, tuple[type[nn.Module], Spec]]


def choice_block(
    options: Options,
    *,
    menu: Menu,
    decision: Path,
    sizes: Sequence[Path] = (),
    channels: Sequence[int | None],
    inputs: Sequence[jax.ShapeDtypeStruct] = (),
    **more: Any,
) -> ElasticBlock:
    """A block that is one of several modules, each at its own cost.

    Under `sliced` and `switched` only the option that an arch takes runs; under `masked` all of
    them, gated, and a code mixes their outputs, as it does under `mixed`. An extracted network has
    the option itself.

    Args:
        options: by name the module's class, whose only field is its spec, and that spec; in the
            order of the decision's values.
        menu: the space's menu.
        decision: where the decision stands in the menu.
        sizes: where further decisions stand that sizes of options depend on. Then, in place of its
            spec, an option has a function `(*values) -> spec` of their values, and shares its
            weights among all of these specs. Under `masked` a code runs the largest of those that
            it weighs above 0; `mixed` mixes them.
        channels: of each of the block's inputs (last axis), the same for all options; None for one
            that has no such axis.
        inputs: shapes of the inputs, if they are known here: then options whose outputs differ in
            shape are refused at once, by name.
        **more: further fields of `ElasticBlock`, as `group`; also `depth` of `elastic`.

    Raises:
        UserError: the decision has another number of values; options put out different shapes.
    """
    values = choices.get(menu, decision).values
    where = _written(decision)
    if len(values) != len(options):
        raise UserError(
            f"the decision {where} has {len(values)} values, but {len(options)} options were "
            f"given: {', '.join(options)}; name one for each value"
        )
    by_value = dict(zip(values, options, strict=True))
    return picked_block(
        options,
        by_value.__getitem__,
        menu=menu,
        decisions=(decision,),
        sizes=sizes,
        channels=channels,
        inputs=inputs,
        **more,
    )


def picked_block(
    options: Options,
    pick: Callable[..., str],
    *,
    menu: Menu,
    decisions: Sequence[Path],
    sizes: Sequence[Path] = (),
    channels: Sequence[int | None],
    inputs: Sequence[jax.ShapeDtypeStruct] = (),
    **more: Any,
) -> ElasticBlock:
    """A `choice_block` whose option several decisions pick together.

    Args:
        options: as there.
        pick: `(*values) -> name` of the option that these values of the decisions take.
        menu: as there.
        decisions: where they stand in the menu.
        sizes: as there.
        channels: as there.
        inputs: as there.
        **more: as there.

    Raises:
        UserError: options put out different shapes.
    """

    def option(name: str, *values: Any) -> Option:
        module, spec = options[name]
        return Option(name, module, spec(*values) if sizes else spec)

    def largest(name: str) -> Option:
        every = choices.tabulate(menu, sizes, functools.partial(option, name)).reshape(-1)
        return dataclasses.replace(every[0], spec=union_spec([each.spec for each in every]))

    def spec(*values: Any) -> ChoiceSpec:
        picking = len(decisions)
        return ChoiceSpec((option(pick(*values[:picking]), *values[picking:]),))

    union = [largest(name) for name in options]
    _check_outputs(union, ", ".join(map(_written, decisions)), inputs)
    return elastic(
        ChoiceBlock,
        spec,
        menu=menu,
        decisions=(*decisions, *sizes),
        union=ChoiceSpec(tuple(union)),
        channels=lambda spec: tuple(channels),
        gated=True,
        gates=lambda spec: {
            gate_name(each): float(each.name in {own.name for own in spec.options})
            for each in union
        },
        **more,
    )


def _written(path: Path) -> str:
    return "/".join(map(str, path))


def _check_outputs(
    options: Sequence[Option], where: str, inputs: Sequence[jax.ShapeDtypeStruct]
) -> None:
    if not inputs:
        return
    shapes = {
        option.name: block_shapes.describe(option.module, option.spec, tuple(inputs)).output.shape
        for option in options
    }
    first, *others = shapes
    for name in others:
        if shapes[name] != shapes[first]:
            raise UserError(
                f"options of the decision {where} put out different shapes: {first} gives "
                f"{list(shapes[first])} and {name} {list(shapes[name])}; they must agree"
            )
