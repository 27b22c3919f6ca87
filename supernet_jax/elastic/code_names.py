"""Codes as people and JSON write them: by the names of decisions and of their options."""

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Code, Path
from supernet_jax.elastic.space import Space
from supernet_jax.nn.blocks.choice import ChoiceSpec

DIGITS = 6  # after the point, of a probability


def option_names(space: Space, decision: Path) -> tuple[str, ...]:
    """What the options of a decision are called: as those of the choice block that it alone
    decides, else by their values.
    """
    for block in space.blocks.values():
        if block.index.paths == (decision,) and isinstance(block.union, ChoiceSpec):
            specs = [block.specs[int(place)] for place in block.index.table]
            return tuple(spec.options[0].name for spec in specs)
    return tuple(map(str, choices.get(space.menu, decision).values))


def named(space: Space, code: Code) -> dict[str, dict[str, float]]:
    """The probabilities of a code, as `{"edge/0": {"skip": 0.75, "conv3x3": 0.25}}`.

    Decisions of one option are left out, and static ones: they are shapes, drawn for each step, and
    do not learn.

    Args:
        space: whose code.
        code: no batch axes.
    """
    return {
        "/".join(map(str, path)): {
            option: round(float(probability), DIGITS)
            for option, probability in zip(
                option_names(space, path), choices.get(code, path), strict=True
            )
        }
        for path in choices.paths(space.menu)
        if path not in space.static and len(choices.get(space.menu, path)) > 1
    }
