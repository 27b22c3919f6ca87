"""Versions of other packages that do not fit together, reported before one of them fails."""

import importlib.metadata
import re

from supernet_jax.errors import UserError

# The first from some version on needs the second from some version on. `pyproject.toml` says so
# too, but whoever installs one package by itself is not asked.
NEEDED = (("jax", (0, 11), "flax", (0, 12, 7)),)


def check() -> None:
    """Makes sure that the installed versions fit together.

    Raises:
        UserError: two of them do not; the message says which, and what to install.
    """
    for name, since, other, least in NEEDED:
        if _numbers(name) >= since and _numbers(other) < least:
            wanted = f"{other}>={'.'.join(map(str, least))}"
            raise UserError(
                f"{name} {importlib.metadata.version(name)} does not work with {other} "
                f"{importlib.metadata.version(other)}, which is too old for it; "
                f'install another one: pip install "{wanted}"'
            )


def _numbers(package: str) -> tuple[int, ...]:
    """The numbers of an installed version: (0, 12, 7) of 0.12.7rc1."""
    version = importlib.metadata.version(package)
    return tuple(map(int, re.findall(r"\d+", re.split(r"[a-z+]", version)[0])))
