"""Facts about the library's own code, such as descriptions of blocks, kept on disk as JSON.

Compiled programs are kept by `cache`. These facts lie beside them, if there are any: one file of
JSON lines, appended as they come. The hash of the package's sources and the versions of JAX and
Flax are in the file's name, so nothing in it can be out of date. A line that cannot be read, as of
a process that was killed, is as good as none.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any

import jax

from supernet_jax.errors import UserError
from supernet_jax.storage import files


@functools.cache
def versions() -> str:
    """Of JAX, of Flax and of this package's sources: 16 letters."""
    digest = hashlib.sha256()
    for package in ("jax", "flax"):
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    folder = pathlib.Path(__file__).parent.parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def recall(key: str) -> Any:
    """The JSON value kept under a key, None where there is none."""
    where = _file()
    return None if where is None else _values(where).get(key)


def keep(key: str, value: Any) -> None:
    """Keeps a JSON value; where it cannot be written it is computed again next time."""
    where = _file()
    if where is None:
        return
    _values(where)[key] = value
    with contextlib.suppress(OSError, UserError):  # `cache.enable` has said so
        where.parent.mkdir(parents=True, exist_ok=True)
        files.append_lines(where, [[key, value]])


def folder() -> pathlib.Path | None:
    """Where things are kept for later processes, None where nothing is."""
    config: Any = jax.config
    where: str | None = config.jax_compilation_cache_dir
    if where is None or not config.jax_enable_compilation_cache:
        return None
    return None if "://" in where else pathlib.Path(where)  # not in a bucket, as JAX's own


def _file() -> pathlib.Path | None:
    where = folder()
    return None if where is None else where / f"supernet-{versions()}.jsonl"


@functools.cache
def _values(path: pathlib.Path) -> dict[str, Any]:
    """All values of a file by key; the last one counts."""
    found: dict[str, Any] = {}
    lines: list[str] = []
    with contextlib.suppress(UserError):  # as good as none
        lines = files.lines(path)
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            key, value = json.loads(line)
            found[key] = value
    return found
