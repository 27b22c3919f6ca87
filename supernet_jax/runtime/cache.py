"""Compiled programs kept on disk between processes, by JAX's own cache.

They lie in `~/.cache/supernet_jax/compiled`, or in the folder that the environment variable
`JAX_COMPILATION_CACHE_DIR` names. `JAX_ENABLE_COMPILATION_CACHE=false` keeps none.
"""

import functools
import os
import pathlib
import sys
import tempfile
import warnings
from typing import Any

import jax

MIN_SECONDS = 0.05  # a program that compiles in less time is not worth a file


def cache_folder() -> pathlib.Path | None:
    """Where files that can be made again are kept between runs.

    None where that is not known: without HOME and XDG_CACHE_HOME, for a user without a name.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(root):  # others are to be ignored
        return pathlib.Path(root) / "supernet_jax"
    try:
        return pathlib.Path.home() / ".cache" / "supernet_jax"
    except RuntimeError:
        return None


@functools.cache
def enable() -> None:
    """Keeps this process's compiled programs on disk, if they can be kept; once in a process.

    Where the user has named a folder (`jax_compilation_cache_dir`, or the environment variable
    `JAX_COMPILATION_CACHE_DIR`), that one is used, with the user's other settings of it. Else they
    lie in the user's cache folder, small programs too. Where that cannot be written, one line on
    stderr says so, and what is in it is used all the same.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    # JAX says of each program in two lines that it could not be read or written.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache entry")
    where: str | None = config.jax_compilation_cache_dir
    if where is None:
        own = cache_folder()
        if own is None:
            _not_kept("HOME is not set")
            return
        where = str(own / "compiled")
        if config.jax_persistent_cache_min_compile_time_secs == 1.0:  # JAX's default
            config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    if "://" in where:  # a bucket is JAX's affair
        return
    folder = pathlib.Path(where)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        _not_kept(f"{folder} cannot be written ({error.strerror})")
        if not os.path.isdir(folder):  # JAX would try to make it for each program
            config.update("jax_compilation_cache_dir", None)
            return
    config.update("jax_compilation_cache_dir", where)


def _not_kept(why: str) -> None:
    print(
        f"supernet: compiled programs are not kept, so each start takes longer: {why}; another "
        "folder can be named in the environment variable XDG_CACHE_HOME",
        file=sys.stderr,
    )
