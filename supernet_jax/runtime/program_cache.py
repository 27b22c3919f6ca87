"""Compiled programs that are found again by what they are made of, without being traced.

JAX keeps compiled programs too (`jax_compilation_cache_dir`), but finds one by its text: first it
has to be traced and lowered, which takes most of the time until a large supernet's first step. Here
a program is found by the digest of all that would be traced (see `digest`), of its arguments'
shapes and places, of JAX's settings and of the machine. They lie beside JAX's own, one file each.
What is made of code that `digest` does not know is traced as ever.
"""

import contextlib
import hashlib
import os
import pathlib
import pickle
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental import serialize_executable

from supernet_jax.errors import UserError
from supernet_jax.runtime import disk_cache, fingerprint, hardware, native
from supernet_jax.storage import files

PREFIX = "supernet-program-"  # of the files' names
CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Of JAX's settings, those that change no program. A setting not named here counts.
WITHOUT_EFFECT = ("jax_compilation_cache", "jax_persistent_cache", "jax_log")


def keep_programs() -> None:
    """Keeps the compiled programs of this process on disk, if they can be kept; for programs, not
    for libraries.

    They lie where JAX was told (`JAX_COMPILATION_CACHE_DIR`), or else in the user's cache folder.
    One line on stderr says so where it cannot be written; what is in it is used all the same.
    """
    config: Any = jax.config
    # JAX says of each program in two lines that it could not be read or written.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache entry")
    if config.jax_compilation_cache_dir is None:
        own = native.cache_folder()
        if own is None:
            _not_kept("HOME is not set")
            return
        config.update("jax_compilation_cache_dir", str(own / "compiled"))
        config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    where = disk_cache.folder()
    if where is None:
        return
    try:
        where.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=where).close()
    except OSError as error:
        _not_kept(f"{where} cannot be written ({error.strerror})")
        if not os.path.isdir(where):  # JAX would try to make it for each program
            config.update("jax_enable_compilation_cache", False)


def _not_kept(why: str) -> None:
    print(
        f"supernet: compiled programs are not kept, so each start takes longer: {why}; another "
        "folder can be named in the environment variable XDG_CACHE_HOME",
        file=sys.stderr,
    )


class Compiled(NamedTuple):
    """A program that is ready to run.

    Attributes:
        run: called with what is no static argument.
        trace_seconds: until it could be compiled; 0 if it was found.
        compile_seconds: spent compiling or loading it.
        found: whether this or an earlier process had kept it, here or in JAX's own cache.
    """

    run: Callable[..., Any]
    trace_seconds: float
    compile_seconds: float
    found: bool


def identity(*made_of: Any) -> str | None:
    """What tells functions apart that are made of other things; None if some of it is not known."""
    try:
        return fingerprint.of(made_of)
    except (fingerprint.UnknownError, AttributeError, ValueError, RecursionError):
        return None  # also of what is not finished, or too deep, to be looked through


class Kept:
    """A jitted function that looks for its programs on disk before it traces them.

    Called, it does as that function. It is traced as ever where programs are not kept, where
    several processes run, and where it is not known what it is made of.

    Attributes:
        made: the programs that it compiled or found so far.
    """

    def __init__(self, run: Any, identity: str | None):
        """See above.

        Args:
            run: jitted. Static arguments are given by keyword, all others by position.
            identity: of all that determines what it does with its arguments; see `identity`.
        """
        self.made: list[Compiled] = []
        self._run, self._identity = run, identity
        self._programs: dict[Any, Compiled] = {}
        self._last: dict[Any, Compiled] = {}  # by static arguments; looking at all others is slow
        self._folder = disk_cache.folder() if jax.process_count() == 1 else None

    def __call__(self, *args: Any, **static: Any) -> Any:
        """What the function returns."""
        fixed = tuple(sorted(static.items()))
        if (last := self._last.get(fixed)) is not None:
            with contextlib.suppress(TypeError, ValueError):  # it is for other shapes, or places
                return last.run(*args)
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(x, jax.core.Tracer) for x in leaves):  # within another jitted function
            return self._run(*args, **static)
        key = (structure, tuple(map(_kind, leaves)), fixed)
        if key not in self._programs:
            self._programs[key] = self.compiled(*args, **static)
            self.made.append(self._programs[key])
        self._last[fixed] = self._programs[key]
        return self._programs[key].run(*args)

    def compiled(self, *args: Any, **static: Any) -> Compiled:
        """The program for these arguments; it is not run."""
        path = self._path(args, static)
        begun = time.perf_counter()
        found = None if path is None else _read(path, _devices(jax.tree.leaves(args)))
        if found is not None:
            return Compiled(found, 0.0, time.perf_counter() - begun, True)
        lowered = self._run.lower(*args, **static)
        traced = time.perf_counter()
        with _cache_hits() as hits:
            run = lowered.compile()
        done = time.perf_counter()
        least = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
        # On CPU a program that JAX has read from its cache does not run when it is saved again.
        if path is not None and not hits and done - begun >= least:
            _write(path, run)
        return Compiled(run, traced - begun, done - traced, bool(hits))

    def _path(self, args: Any, static: Any) -> pathlib.Path | None:
        """Where the program lies, or would."""
        if self._folder is None or self._identity is None:
            return None
        kernels = native.available()  # programs that call them need them loaded
        leaves, structure = jax.tree.flatten(args)
        about = [str(_Argument.of(x)) for x in leaves]
        parts = [self._identity, str(structure), *about, sorted(static.items()), kernels]
        name = hashlib.sha256(repr([*parts, *_surroundings()]).encode()).hexdigest()
        return self._folder / f"{PREFIX}{fingerprint.versions()}-{name}"


class _Argument(NamedTuple):
    """What a program is compiled for, of one argument."""

    shape: tuple[int, ...]
    dtype: str
    weak: bool
    place: str
    devices: list[int]

    @classmethod
    def of(cls, x: Any) -> "_Argument":
        place = x.sharding if isinstance(x, jax.Array) else None
        devices = [] if place is None else [d.id for d in _in_order(place)]
        about = jax.typeof(x)
        return cls(about.shape, str(about.dtype), about.weak_type, str(place), devices)


def _kind(x: Any) -> Any:
    """What tells programs of one process apart, of one argument."""
    if isinstance(x, jax.Array):
        return x.shape, x.dtype, x.sharding
    return (x.shape, x.dtype) if hasattr(x, "dtype") else type(x)


def _in_order(place: jax.sharding.Sharding) -> list[jax.Device]:
    if isinstance(place, jax.sharding.NamedSharding):
        return list(place.mesh.devices.flat)
    return sorted(place.device_set, key=lambda device: device.id)


def _devices(leaves: list[Any]) -> list[jax.Device]:
    """Where a program runs: with its arguments, and on the first device if they are NumPy's."""
    places = [x.sharding for x in leaves if isinstance(x, jax.Array)]
    several = [devices for place in places if len(devices := _in_order(place)) > 1]
    return next(iter(several or map(_in_order, places)), jax.devices()[:1])


def _surroundings() -> list[Any]:
    """What changes a program though nobody hands it over."""
    client = jax.devices()[0].client
    kinds = [device.device_kind for device in jax.devices()]
    settings = {
        name: str(getattr(jax.config, name, value))  # as it is for this thread now
        for name, value in sorted(jax.config.values.items())
        if not name.startswith(WITHOUT_EFFECT)
    }
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return [
        client.platform,
        client.platform_version,
        kinds,
        settings,
        flags,
        hardware.instructions(),
    ]


def _read(path: pathlib.Path, devices: list[jax.Device]) -> Any:
    """The program of a file; None where there is none, or none that can be used."""
    try:
        program, given, returned = pickle.loads(zlib.decompress(path.read_bytes()))
        return serialize_executable.deserialize_and_load(
            program, given, returned, execution_devices=devices
        )
    except Exception:  # missing, cut off, or not for this machine after all: it is made again
        return None


def _write(path: pathlib.Path, compiled: Any) -> None:
    """Keeps a program; where it cannot be, it is traced again next time."""
    try:
        content = pickle.dumps(serialize_executable.serialize(compiled))
    except Exception:  # a backend that cannot save it, a type of a user's that has no name
        return
    with contextlib.suppress(UserError):  # `keep_programs` has said so
        files.write_bytes(path, lambda file: file.write(zlib.compress(content, 1)))


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """What JAX read from its cache of compiled programs inside, instead of compiling."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
