"""What settings of spaces may be, and the space that another one wraps."""

import dataclasses
from typing import Any

from supernet_jax.elastic.choices import Choice, Menu
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError, require
from supernet_jax.storage import user_code
from supernet_jax.tasks import OfTokens, Task, offered


def require_resolutions(resolutions: tuple[int, ...], low: int) -> None:
    """Raises a `UserError` unless there are sizes and each has at least `low` pixels."""
    require(
        bool(resolutions) and min(resolutions) >= low,
        f"space.resolutions is {resolutions}; give sizes of at least {low} pixels",
    )


def require_resolution(resolution: int, low: int) -> None:
    """Raises a `UserError` unless a size has at least `low` pixels."""
    require(
        resolution >= low, f"space.resolution is {resolution}; give a size of at least {low} pixels"
    )


def require_rates(dropout: float, drop_path: float = 0.0) -> None:
    """Raises a `UserError` unless both are at least 0 and below 1."""
    for name, rate in (("dropout", dropout), ("drop-path", drop_path)):
        require(0 <= rate < 1, f"space.{name} is {rate}, but must be in [0, 1)")


def require_sizes(**sizes: int) -> None:
    """Raises a `UserError` unless each is above 0."""
    for name, size in sizes.items():
        shown = name.replace("_", "-")
        require(size > 0, f"space.{shown} is {size}, but must be at least 1")


def of_tokens(name: str, task: Task) -> OfTokens:
    """The task of a space of this name, if it is of tokens.

    Raises:
        UserError: it is not.
    """
    if not isinstance(task, OfTokens):
        raise UserError(
            f"the space {name} is for text, but the task of the data is {task.name}; give text, as "
            "--data.name source:stdlib, or choose another space"
        )
    return task


def require_tokens(name: str, task: OfTokens, longest: int) -> None:
    """Raises a `UserError` unless a task's sequences are no longer than a space takes."""
    require(
        task.length <= longest,
        f"examples have {task.length} bytes, but the space {name} takes at most {longest}; lower "
        "--data.length, or raise --space.longest",
    )


def ascending(**lists: tuple[float, ...]) -> dict[str, Any]:
    """What a space offers, by name, ascending and without repeats.

    Raises:
        UserError: a list is empty, or has a number that is not above 0.
    """
    for name, values in lists.items():
        shown = name.replace("_", "-")
        require(
            bool(values) and min(values) > 0, f"space.{shown} is {values}; give numbers above 0"
        )
    return {name: tuple(sorted({*values})) for name, values in lists.items()}


def transformer_menu(
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    hidden: tuple[int, ...],
) -> Menu:
    """Their menu: one width and depth, and heads and hidden channels of each block."""
    return {
        "width": Choice(widths),
        "depth": Choice(depths),
        "heads": [Choice(heads) for _ in range(depths[-1])],
        "hidden": [Choice(hidden) for _ in range(depths[-1])],
    }


def built(part: Any, task: Task) -> Space:
    """The space that a part of a configuration names as `space.space`, for a task."""
    require(
        dataclasses.is_dataclass(part),
        f"space.space is {part!r}; give a part that is a space, as Digits()",
    )
    made: Space = part.build(**user_code.taken(part, **offered(task)))
    return made
