"""What users see: a mistake of theirs raises `UserError`, the one exception meant for them.

Warnings go to the logger `supernet_jax`, which writes to stderr unless a program sets it up
otherwise.
"""

import difflib
import logging
import numbers
from collections.abc import Iterable
from typing import Any

LOG = logging.getLogger("supernet_jax")


class UserError(Exception):
    """Something the user can mend: bad input, a missing file, an impossible budget.

    The message says what was seen, what is allowed and what to do. The command line prints it in
    one line and exits with status 2; nobody else catches it.
    """


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a misspelt word, the end of a message; or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def require(condition: bool, message: str) -> None:
    """Raises a `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_of(option: str, value: Any, allowed: Iterable[str]) -> None:
    """Raises a `UserError` unless an option's value is among those allowed."""
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        hint = near(value, allowed) if isinstance(value, str) else ""
        raise UserError(f"{option} is {value!r}, allowed: {', '.join(allowed)}{hint}")


def at_least(option: str, value: Any, low: float) -> None:
    """Raises a `UserError` unless an option's number is large enough, and one of 32 bits; a whole
    number, if the lowest is one.
    """
    is_whole = isinstance(low, int)
    kind: Any = numbers.Integral if is_whole else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "whole number" if is_whole else "number"
        raise UserError(f"{option} is {value!r}, but must be a {wanted} of at least {low}")
    if not value >= low:
        raise UserError(f"{option} is {value}, but must be at least {low}")
    if value >= 2**32:  # JAX would take the last bits alone
        raise UserError(f"{option} is {value}, but must be at most {2**32 - 1}")
