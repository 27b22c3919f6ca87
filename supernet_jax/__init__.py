"""Weight-sharing supernets in JAX: train once, search, and take any subnet away.

    import supernet_jax as sj

What this offers is listed in `__init__.pyi`, where type checkers look for it, and loaded when it is
first used, so that the import itself takes no time.
"""

import ast as _ast
import functools as _functools
import importlib as _importlib
import pathlib as _pathlib
import typing as _typing

__version__ = "0.1.0"


@_functools.cache
def _places() -> dict[str, tuple[str, str]]:
    """The module that each name comes from, and what it is called there."""
    stub = _pathlib.Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    nodes = [node for node in _ast.parse(stub).body if isinstance(node, _ast.ImportFrom)]
    return {str(a.asname): (str(node.module), a.name) for node in nodes for a in node.names}


def __getattr__(name: str) -> _typing.Any:
    if name not in _places():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _importlib.import_module("supernet_jax.runtime.versions").check()
    place, there = _places()[name]
    module = _importlib.import_module(place)
    if there not in vars(module):
        _importlib.import_module(f"{place}.{there}")
    return globals().setdefault(name, vars(module)[there])


def __dir__() -> list[str]:
    return sorted({*_places(), "__version__"})


__all__ = __dir__()
