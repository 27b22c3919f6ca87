"""What every call of the library needs of this process before it works."""

from supernet_jax.runtime import program_cache


def ready() -> None:
    """Keeps compiled programs on disk, so that the next process starts sooner."""
    program_cache.keep_programs()
