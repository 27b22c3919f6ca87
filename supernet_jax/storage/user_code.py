"""Python files of the user's: running one, and saying where in it something went wrong."""

import hashlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.storage import files


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
    name = f"supernet_user_{path.stem}_{digest}"
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
        raise UserError(f"{path} does not run: {told(error, path)}") from error
    return module


def told(error: BaseException, path: pathlib.Path | None) -> str:
    """What an error says, and in which line of the user's file it happened."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if path is None or isinstance(error, SyntaxError):  # which says where itself
        return text
    here = str(path.resolve())
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if str(pathlib.Path(f.filename).resolve()) == here]
    return f"{text} ({path}, line {lines[-1]})" if lines else text


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
