"""Python files of the user's: running one, and saying where in it something went wrong."""

import ast
import atexit
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import supernet_jax
from supernet_jax.errors import UserError
from supernet_jax.storage import files

# Of public names.
ROOMS = (
    "spaces",
    "samplers",
    "losses",
    "teachers",
    "gradients",
    "optimizers",
    "tasks",
    "searching",
)

MODULE = "supernet_user_"  # how the names of modules begin that are run by their path


def run(path: pathlib.Path) -> Any:
    """Imports a Python file by its path, under a name of its own.

    Raises:
        UserError: it cannot be read, is not a Python file, does not run, or has a path that is not
            UTF-8.
    """
    files.check_utf8(path, "JAX needs of files that it compiles functions from")
    try:
        path.read_bytes()
    except (OSError, ValueError) as error:
        raise files.unreadable(path, error, kind="Python file") from error
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
    name = f"{MODULE}{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up while it runs
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} does not run: {told(error, path)}{_moved(error, path)}") from error
    return module


def run_sent(path: pathlib.Path, content: bytes) -> Any:
    """Imports a Python file of another machine, as `run` does.

    Args:
        path: where it is there; the same file here is run where it is.
        content: of it.

    Raises:
        UserError: it does not run.
    """
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return run(path)
    copy = pathlib.Path(_copies()) / hashlib.sha256(content).hexdigest()[:12] / path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(content)
    return run(copy)


@functools.cache
def _copies() -> str:
    """A folder for files of other machines, which is gone when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="supernet-files-")
    atexit.register(folder.cleanup)
    return folder.name


def is_from_file(kind: type) -> bool:
    """Whether a class is of a file that was run by its path, and is in no module to import."""
    return kind.__module__.startswith(MODULE)


def _moved(error: BaseException, path: pathlib.Path) -> str:
    """What to write in a file for an earlier version, whose imports fail: the end of a message."""
    if not isinstance(error, ImportError) or "supernet_jax" not in str(error):
        return ""
    imports = [
        node
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("supernet_jax")
    ]
    places = dict.fromkeys(_place(alias.name) for node in imports for alias in node.names)
    known = ", ".join(place for place in places if place)
    return (
        "; modules have other places since this file was written: use `import supernet_jax as sj`"
        f"{f' and {known}' if known else '; docs/design.md lists what is where'}"
    )


def _place(name: str) -> str:
    """How the public name of something is written now; "" if it has none."""
    for room in ("", *ROOMS):
        owner = getattr(supernet_jax, room) if room else supernet_jax
        if name in dir(owner):
            return f"sj.{room}.{name}" if room else f"sj.{name}"
    package = pathlib.Path(supernet_jax.__file__).parent
    found = [path.relative_to(package.parent) for path in package.rglob(f"{name}.py")]
    return ".".join(found[0].with_suffix("").parts) if len(found) == 1 else ""


def told(error: BaseException, path: pathlib.Path | None) -> str:
    """What an error says, and in which line of the user's file it happened."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if path is None or isinstance(error, SyntaxError):  # which says where itself
        return text
    here = str(path.resolve())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if str(pathlib.Path(f.filename).resolve()) == here]
    return f"{text} ({path}, line {lines[-1]})" if lines else text


@contextlib.contextmanager
def blamed(part: Any, what: str) -> Iterator[None]:
    """Says what goes wrong in a part of the user's own, and in which line of the user's file.

    What goes wrong in a part of the library is left as it is.

    Args:
        part: what is used.
        what: that fails, as the subject of a sentence.

    Raises:
        UserError: something goes wrong in a part of the user's own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_own(part):
            reason = told(error, source(type(part)))
            raise UserError(f"{what} fails: {reason}") from error
        raise


def watched(part: Any, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a part made, each call of which is `blamed`."""

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        with blamed(part, what):
            return function(*given, **named)

    return call if is_own(part) else function


def is_own(part: Any) -> bool:
    """Whether a part is the user's own, and not of the library."""
    return type(part).__module__.partition(".")[0] != supernet_jax.__name__


def source(kind: type) -> pathlib.Path | None:
    """The file that defines a class; None for one that no file does."""
    try:
        path = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return None
    return None if path is None else pathlib.Path(path).absolute()


def named(kind: type) -> str:
    """The file that defines a class, and its hash, as people read it.

    Raises:
        UserError: the file can no longer be read.
    """
    path = source(kind)
    if path is None:
        return "typed in, in no file"
    try:
        return f"{path}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise files.unreadable(path, error, kind="Python file") from error


def name_of(kind: Any) -> str:
    """What options and results call a part or its class: its `name`, else that of the class."""
    if hasattr(kind, "name"):
        return str(kind.name)
    return (kind if isinstance(kind, type) else type(kind)).__name__


def taken(part: Any, **offered: Any) -> dict[str, Any]:
    """What of the offered the `build` of a part takes, which may be the user's own."""
    try:
        names = inspect.signature(part.build).parameters
    except (AttributeError, TypeError, ValueError):  # it has none; the experiment says so
        return {}
    return {name: value for name, value in offered.items() if name in names}
