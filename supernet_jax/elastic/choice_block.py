"""Elastic blocks that are one of several modules, as the operations of a cell are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Menu, Path
from supernet_jax.elastic.elastic_block import ElasticBlock, Spec, elastic
from supernet_jax.errors import UserError
from supernet_jax.nn import block_shapes
from supernet_jax.nn.blocks.choice import ChoiceBlock, ChoiceSpec, Option, gate_name

Options = Mapping[str, tuple[type[nn.Module], Spec]]


def choice_block(
    options: Options,
    *,
    menu: Menu,
    decision: Path,
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
        channels: as there.
        inputs: as there.
        **more: as there.

    Raises:
        UserError: options put out different shapes.
    """
    made = {name: Option(name, module, spec) for name, (module, spec) in options.items()}
    _check_outputs(list(made.values()), ", ".join(map(_written, decisions)), inputs)
    return elastic(
        ChoiceBlock,
        lambda *values: ChoiceSpec((made[pick(*values)],)),
        menu=menu,
        decisions=decisions,
        union=ChoiceSpec(tuple(made.values())),
        channels=lambda spec: tuple(channels),
        gated=True,
        gates=lambda spec: {gate_name(o): float(o in spec.options) for o in made.values()},
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
