"""What a value consists of, as a hash: down to numbers, and to code whose version is known.

Two values of one digest do the same in every process with the same `versions`. That is what allows
a program to be found again by what would be traced, without tracing it (see `compilation`).
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Their code is told by their versions.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))


class UnknownError(Exception):
    """A value of which something is not known, as code of a user's own."""


@functools.cache
def versions() -> str:
    """Of Python, of the packages that this one builds on, and of its own sources: 16 letters."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    folder = pathlib.Path(__file__).parent.parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def of(value: Any) -> str:
    """The digest of a value: 64 letters.

    Functions count with their code, their defaults and all that they close over; arrays with their
    numbers; objects with their attributes. Code has to be of this package, of Python or of
    `PACKAGES`, whose versions are known.

    Raises:
        UnknownError: some of it is something else, or refers to itself.
    """
    return _Walk().digest(value).hex()


class _Walk:
    """One value on its way to a digest. What occurs in several places is looked at once."""

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._within: set[int] = set()
        self._alive: list[Any] = []  # else another object may get the number of a former one

    def digest(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN):
            return _hash(type(value).__name__.encode(), repr(value).encode())
        if (name := _name(value)) is not None:
            return _hash(b"name", name.encode())
        place = id(value)
        if place in self._done:
            return self._done[place]
        if place in self._within:
            raise UnknownError(f"{type(value).__name__} that refers to itself")
        self._within.add(place)
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if not _is_known(kind) or "<locals>" in kind:
            raise UnknownError(kind)
        found = _hash(kind.encode(), *self._parts(value))
        self._within.remove(place)
        self._alive.append(value)
        self._done[place] = found
        return found

    def _parts(self, value: Any) -> Iterator[bytes]:
        """What a value of a known type is made of."""
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            host = np.asarray(value)
            if host.dtype.hasobject:
                raise UnknownError("an array of objects")
            weak = isinstance(value, jax.Array) and value.weak_type
            about = f"{host.dtype} {host.shape} {weak}"
            yield from (about.encode(), host.tobytes())
        elif isinstance(value, np.dtype):
            yield str(value).encode()
        elif isinstance(value, types.CodeType):
            yield from self._each(_of_code(value))
        elif isinstance(value, types.FunctionType):
            yield from self._each(_of_function(value))
        elif isinstance(value, types.MethodType):
            yield from self._each([value.__self__, value.__func__])
        elif isinstance(value, functools.partial):
            yield from self._each([value.func, value.args, value.keywords])
        elif isinstance(value, tuple | list):
            yield from self._each(value)
        elif isinstance(value, Mapping):
            yield from self._each(x for pair in value.items() for x in pair)
        elif isinstance(value, set | frozenset):
            yield from sorted(self._each(value))
        elif isinstance(value, types.CellType):
            yield self.digest(value.cell_contents)
        elif isinstance(value, jax.sharding.Mesh):
            devices = [device.id for device in value.devices.flat]
            axes = [str(kind) for kind in value.axis_types]
            yield from self._each([value.axis_names, value.devices.shape, devices, axes])
        elif isinstance(value, jax.sharding.NamedSharding):
            yield from self._each([value.mesh, str(value.spec), value.memory_kind])
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field.name for field in dataclasses.fields(value)]
            yield from self._each(x for name in fields for x in (name, getattr(value, name)))
        else:
            raise UnknownError(f"{type(value).__module__}.{type(value).__qualname__}")

    def _each(self, values: Any) -> Iterator[bytes]:
        return map(self.digest, values)


def _of_function(function: types.FunctionType) -> list[Any]:
    """What a function that has no name of its own is made of; its globals are those of its file."""
    if not _is_known(function.__module__):
        raise UnknownError(f"{function.__module__}.{function.__qualname__}")
    return [
        function.__module__,
        function.__qualname__,
        function.__code__,
        function.__defaults__,
        function.__kwdefaults__,
        function.__closure__,
    ]


def _of_code(code: types.CodeType) -> list[Any]:
    """Enough to tell two functions of one file apart: where it stands there."""
    return [code.co_name, code.co_firstlineno, code.co_code, code.co_names, code.co_consts]


def _name(value: Any) -> str | None:
    """The full name of what a known module holds under a name; None for all else."""
    if not (hasattr(value, "__module__") and hasattr(value, "__qualname__")):
        return None
    module, name = value.__module__, value.__qualname__
    if not isinstance(module, str) or not isinstance(name, str) or not _is_known(module):
        return None
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name}" if found is value else None


def _is_known(module: str) -> bool:
    package = module.partition(".")[0]
    return package in (*PACKAGES, "supernet_jax") or package in sys.stdlib_module_names


def _hash(*parts: bytes) -> bytes:
    """Of the parts, in their order; each by itself, so that no border can be mistaken."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.digest()
