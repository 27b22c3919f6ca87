"""Results that live as long as the object they were made of."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def by(of: Callable[..., Any]) -> Callable[[Function], Function]:
    """As `functools.cache`, but results lie with an object, and go with it.

    A table that lives for ever would keep every space that a notebook ever made, with all that was
    compiled for it.

    Args:
        of: gives the object, of the function's arguments, which are hashable and positional. Its
            class has a `__dict__`.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def found(*args: Any) -> Any:
            made = of(*args).__dict__.setdefault("_made", {})
            key = (function, args)
            if key not in made:
                made[key] = function(*args)
            return made[key]

        return found  # type: ignore[return-value]

    return decorate


def first(owner: Any, *_: Any) -> Any:
    """The first argument, for `by`."""
    return owner
