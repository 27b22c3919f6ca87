"""The one exception that stands for a mistake of the user, not of the program."""

import difflib
from collections.abc import Iterable


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
