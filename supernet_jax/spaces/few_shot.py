"""A space whose subnets share less: sub-supernets with parameters of their own (few-shot NAS)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from supernet_jax.elastic import choices, code_names
from supernet_jax.elastic.choices import Lookup, Path
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.errors import UserError, near, require
from supernet_jax.spaces.checks import built
from supernet_jax.spaces.mobilenet import Digits
from supernet_jax.tasks import Task

MOST_COMBINATIONS = 1_000_000  # of options of the decisions that rows ask for

Options = Mapping[Path, tuple[int, ...]]  # of decisions, those that a sub-supernet has


@dataclasses.dataclass(frozen=True)
class FewShot:
    """A space in sub-supernets, each with parameters of its own for its subnets (few-shot NAS)."""

    space: Any = dataclasses.field(default_factory=Digits)
    """the space that is split: its own part of a configuration"""
    rows: tuple[str, ...] = ()
    """sub-supernets, each by options that its subnets have, as "edge/0=skip|none; edge/1=pool";
    every subnet must be of one; `supernet info RUN --splits` proposes some"""
    groups: tuple[str, ...] = ()
    """blocks whose parameters each sub-supernet has for itself, while all share the others'; empty
    for all blocks"""

    def build(self, *, task: Task) -> Space:
        """The space for a task."""
        return split(built(self.space, task), self.rows, self.groups)


def split(space: Space, rows: Sequence[str], groups: Sequence[str] = ()) -> Space:
    """The space with a bank, a row for each sub-supernet.

    Few-shot NAS (Zhao et al. 2021, arXiv 2006.06863, section 3.2) splits a supernet by the
    operations of one or more edges, one for each of them; here a sub-supernet may keep several, as
    gradient matching wants it (Hu et al. 2022, arXiv 2203.15207, section 3.2).

    Args:
        space: without a bank.
        rows: as `FewShot.rows`; none for the space as it is.
        groups: of parameters that have rows; none for all.

    Raises:
        UserError: a decision or option is unknown or static; a subnet is of no row or of several;
            the space has a bank.
    """
    if not rows:
        return space
    require(
        space.bank is None,
        f"the space {space.name} has a bank already; give its rows in one place",
    )
    parsed = [parse(space, text) for text in rows]
    paths = sorted({path for row in parsed for path in row}, key=str)
    shape = [len(choices.get(space.menu, path)) for path in paths]
    require(
        math.prod(shape) <= MOST_COMBINATIONS,
        f"space.rows ask for {len(paths)} decisions with {math.prod(shape):,} combinations of "
        f"options; split fewer, up to {MOST_COMBINATIONS:,}",
    )
    inside = np.zeros((len(rows), *shape), bool)
    for own, options in zip(inside, parsed, strict=True):
        every = [options.get(path, range(n)) for path, n in zip(paths, shape, strict=True)]
        own[np.ix_(*every)] = True
    counts = inside.sum(0)
    if (counts != 1).any():
        where = tuple(int(i) for i in np.argwhere(counts != 1)[0])
        example = {path: (option,) for path, option in zip(paths, where, strict=True)}
        of = [repr(text) for text, own in zip(rows, inside, strict=True) if own[where]]
        raise UserError(
            f"subnets with {written(space, example)} are in {' and '.join(of) or 'none'} of "
            "space.rows, but each must be in one; name every option of a decision in one row"
        )
    bank = Bank(len(rows), Lookup(tuple(paths), inside.argmax(0)), tuple(groups) or None)
    return dataclasses.replace(space, bank=bank)


def parse(space: Space, text: str) -> Options:
    """The options of a sub-supernet, as `FewShot.rows` has them, by place.

    Raises:
        UserError: a decision or option is unknown, a decision is static, or named twice.
    """
    known = dict(zip(choices.names(space.menu), choices.paths(space.menu), strict=True))
    found: dict[Path, tuple[int, ...]] = {}
    for part in text.split(";"):
        name, equals, listed = (word.strip() for word in part.partition("="))
        require(
            bool(equals and listed),
            f"space.rows has {part.strip()!r}; write DECISION=OPTION|OPTION; DECISION=OPTION",
        )
        if name not in known:
            raise UserError(
                f"space.rows names {name!r}, which is no decision of the space {space.name}"
                f", only {', '.join(known)}{near(name, known)}"
            )
        path = known[name]
        require(path not in space.static, f"space.rows splits {name}, a shape that networks share")
        require(path not in found, f"space.rows names {name} twice in {text!r}; give it once")
        names = code_names.option_names(space, path)
        options = [word.strip() for word in listed.split("|")]
        for option in options:
            if option not in names:
                raise UserError(
                    f"space.rows names {option!r} for {name}, whose options are "
                    f"{' | '.join(names)}{near(option, names)}"
                )
        found[path] = tuple(sorted({names.index(option) for option in options}))
    return found


def written(space: Space, options: Options) -> str:
    """The inverse of `parse`."""
    return "; ".join(
        f"{'/'.join(map(str, path))}="
        + "|".join(code_names.option_names(space, path)[place] for place in places)
        for path, places in options.items()
    )
