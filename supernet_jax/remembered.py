"""What was found out once about the library's own code, kept on disk for later processes.

It lies beside JAX's compiled programs, if those are kept (`jax_compilation_cache_dir`; commands set
it): one file of JSON lines, appended as they come. The hash of the package's sources and the
versions of JAX and Flax are in the file's name, so nothing in it can be out of date. A line that
cannot be read, as of a process that was killed, is as good as none.
"""

import contextlib
import functools
import json
import os
import pathlib
from typing import Any

import jax

from supernet_jax import digest


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
    line = json.dumps([key, value]).encode() + b"\n"
    # JAX itself says what is wrong with the folder, when it keeps programs in it.
    with contextlib.suppress(OSError):
        where.parent.mkdir(parents=True, exist_ok=True)
        # One write at the end of the file: processes do not mix their lines.
        file = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)


def folder() -> pathlib.Path | None:
    """Where things are kept for later processes, None where nothing is."""
    config: Any = jax.config
    where: str | None = config.jax_compilation_cache_dir
    if where is None or not config.jax_enable_compilation_cache:
        return None
    return None if "://" in where else pathlib.Path(where)  # not in a bucket, as JAX's own


def _file() -> pathlib.Path | None:
    where = folder()
    return None if where is None else where / f"supernet-{digest.versions()}.jsonl"


@functools.cache
def _values(path: pathlib.Path) -> dict[str, Any]:
    """All values of a file by key; the last one counts."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, TypeError):
            key, value = json.loads(line)
            found[key] = value
    return found
