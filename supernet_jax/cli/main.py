"""The command line: `supernet COMMAND`, and what commands there are."""

import contextlib
import dataclasses
import errno
import importlib
import inspect
import io
import itertools
import keyword
import logging
import os
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax
import tyro

import supernet_jax
from supernet_jax.errors import LOG, UserError, near
from supernet_jax.experiment.config import Config, load_file
from supernet_jax.runtime import cache, hardware, peers, sharding, stopping
from supernet_jax.runtime.farm import NoWorkers
from supernet_jax.storage import files
from supernet_jax.storage.paths import check_url, expanded

# Each is a module of this room, imported when it is asked for: some need much that others do not.
COMMANDS = {
    "info": "draw a space, count costs of archs, or show what a sampler has learned",
    "init": "look at your images, and write a config file to begin with",
    "train": "train a supernet from a config file",
    "launch": "train on a cluster: TPU, GKE, Kubernetes, SLURM, SkyPilot",
    "evaluate": "calibrate and evaluate subnets of a run",
    "search": "find the best subnets of a run under a budget",
    "table": "write what some samplers need: archs over MACs, or the best by a score",
    "latency": "measure how long the blocks of a space take on this machine",
    "extract": "take subnets out as ordinary networks",
    "publish": "put networks on the Hugging Face Hub, with a model card",
    "import": "make a run of weights that were trained elsewhere",
    "report": "write one HTML file about a run: training, front, networks",
    "quickstart": "do all of it on 8x8 digits, in three minutes",
}

# When started again, these go on.
RESUMES = ("train", "evaluate", "search", "latency", "extract", "publish", "quickstart")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit status: 0 finished; 2 a user's mistake, or what the machine refuses,
    said in one line; 75 stopped by a signal, the same command goes on; 130 the same by Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    with stopping.listening(), _told_on_stderr():
        try:
            _dispatch(arguments)
            sys.stdout.flush()  # here, where a reader that has gone is no surprise
        except BaseException as error:  # raised again if it is none of those that have a status
            status = _told(error)
            _flush()
            if status:
                sys.exit(status)


class _Stderr(logging.Handler):
    """What users should know, in a line that names the program."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes to what is stderr now: a live bar has it otherwise for a while."""
        print(f"supernet: {record.getMessage()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _told_on_stderr() -> Iterator[None]:
    handler = _Stderr()
    LOG.addHandler(handler)
    LOG.propagate = False  # libraries give the root logger a handler, which would say it again
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = True


def _nowhere() -> TextIO:
    """A stream in place of one that was closed before Python began, as by a daemon."""
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _flush() -> None:
    """Writes what is left to be written, where somebody reads it; Python would fail on it later."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _told(error: BaseException) -> int:
    """Says in one line what ended a command, and returns its exit status. Raises a bug again."""
    stopped = error if isinstance(error, stopping.Stopped) else stopping.thrown()
    if stopped is not None:  # others may have made another error of it on its way
        print(f"supernet: {stopped}; {stopping.what_next}", file=sys.stderr)
        if stopping.thrown():
            stopping.leave(stopped.status)
        return stopped.status
    if isinstance(error, UserError) and not peers.is_lost(error):
        print(f"supernet: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    if isinstance(error, NoWorkers):
        print(f"supernet: {error}; {stopping.what_next}", file=sys.stderr)
        return stopping.UNFINISHED
    if isinstance(error, KeyboardInterrupt):
        print(f"supernet: interrupted; {stopping.what_next}", file=sys.stderr)
        return stopping.INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # as Rich has it
    if isinstance(error, BrokenPipeError):  # the reader, e.g. `head`, has seen enough
        return stopping.Stopped(stopping.asked()).status if stopping.asked() else 0
    # TensorStore raises ValueErrors; the UserErrors that are left are of a process that is lost.
    if isinstance(
        error, MemoryError | OSError | jax.errors.JaxRuntimeError | ValueError | UserError
    ):
        status, said = _refusal(error)
        if said:
            print(f"supernet: {said}", file=sys.stderr)
            return status
    raise error


def _refusal(error: Exception) -> tuple[int, str]:
    """Exit status and what to tell of an error with which the machine, not the program, refuses;
    "" for others. Most are said where they come from, with more that helps; these are the rest.
    """
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        remedy = files.REMEDIES.get(error.errno or 0)
        what = error.filename if error.filename is not None else "a file"
        return 2, f"this machine refuses {what} ({error.strerror}); {remedy}" if remedy else ""
    text = " ".join(str(error).split())
    memory = isinstance(error, MemoryError | OSError)
    if memory or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return 2, (
            f"out of memory ({text[-160:] or 'of this machine'}); ask for less at once: lower "
            "--train.batch, --evaluation.batch or --evaluation.chunk, raise --train.accumulate, or "
            "let XLA have more of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION=0.95)"
        )
    if peers.is_lost(error):
        return stopping.UNFINISHED, (
            "another process of this job has ended, its own line says why; what was saved stays, "
            "start all of them again"
        )
    return 2, ""


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] in (["--version"], ["version"]):
        print(supernet_jax.__version__)
        return
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(_overview())
        return
    known = ", ".join(COMMANDS)
    if not arguments:
        raise UserError(f"say which command: {known}; supernet --help explains them")
    name, *rest = arguments
    if name not in COMMANDS:
        hint = near(name, [*COMMANDS, "--help", "--version"])
        raise UserError(f"there is no command {name!r}, only {known}{hint}")
    farm = _value(rest, "--farm")  # no path, and says itself what it may be
    for text in rest:
        word = text.partition("=")[2] if text.startswith("--") else text
        if word != farm:
            check_url(word)
    hardware.collect_rarely()
    _quiet()
    if name not in RESUMES or "--dry-run" in rest:
        stopping.what_next = stopping.ANEW
    command = module(name)
    command.run(_parsed(command, rest, name))


def _parsed(command: Any, arguments: list[str], name: str) -> Any:
    """Arguments of a command; of some, what can be set depends on files that are named there."""
    kinds = {"train": _train, "import": _import, "launch": _launch, "search": _search}
    own = {**kinds, "info": _info}.get(name)
    return _parse(command, arguments, name) if own is None else own(command, arguments)


def module(name: str) -> Any:
    """The module of a command: its `Arguments`, its `EXAMPLES`, and `run`."""
    own = f"{name}_" if keyword.iskeyword(name) else name
    return importlib.import_module(f"supernet_jax.cli.{own}")


def _train(train: Any, arguments: list[str]) -> Any:
    """Arguments of `train`, with the config file's values as defaults."""
    first = [a for a in arguments[:1] if not a.startswith("-")]
    later = [a for a in arguments if a.endswith(".py") and not a.startswith("-")]
    there = [a for a in later if pathlib.Path(a).is_file()]  # not the value of an option
    path = next(iter(first or there or later), None)
    if path is None and not {"-h", "--help"} & set(arguments):
        raise UserError(
            "train needs a config file: supernet train configs/digits.py --out runs/digits"
        )
    settings = Config() if path is None else load_file(path)[0]
    default = train.Arguments(config=settings)
    rest = list(arguments)
    if path is not None:
        rest.remove(path)
    return _parse(train, rest, "train CONFIG", default=default)


def _import(import_: Any, arguments: list[str]) -> Any:
    """Arguments of `import`, with the values of the file of `--config` as defaults."""
    path = _value(arguments, "--config")
    settings = load_file(path)[0] if path else Config()
    missing: Any = tyro.MISSING
    return _parse(
        import_, arguments, "import", default=import_.Arguments(missing, missing, settings)
    )


def _search(search: Any, arguments: list[str]) -> Any:
    """Arguments of `search`, with the settings of the searcher that is named, or of the run's."""
    words = [word for word in arguments if not word.startswith("-")]
    name, file = _value(arguments, "--searcher"), _value(arguments, "--config")
    searcher = search.searcher(name, file, words)
    missing: Any = tyro.MISSING
    default = search.Arguments(missing, part=searcher)
    return _parse(search, arguments, "search", default=default)


def _info(info: Any, arguments: list[str]) -> Any:
    """Arguments of `info`, with the settings of the space that is named or in the config file."""
    missing: Any = tyro.MISSING
    default = info.Arguments(missing, part=info.part(arguments))
    return _parse(info, arguments, "info", default=default)


def _value(arguments: Sequence[str], option: str) -> str | None:
    """The last value of an option, before the arguments are parsed; None if it is not given."""
    spelt = [part for a in arguments for part in re.split(f"(?<=^{option})=", a, maxsplit=1)]
    found = [value for word, value in itertools.pairwise(spelt) if word == option]
    return found[-1] if found else None


def _launch(launch: Any, arguments: list[str]) -> Any:
    """Arguments of `launch SYSTEM`; what follows -- is looked at as by the command that gets it."""
    if {"-h", "--help"} & set(arguments[:1]):
        print(launch.overview())
        sys.exit(0)
    how = launch.system(arguments)
    name, *rest = arguments
    at = rest.index("--") if "--" in rest else len(rest)
    astray = [word for word in rest[:at] if re.match(r"--(train|data|evaluation|space)\.", word)]
    if astray:
        raise UserError(f"{astray[0]} is an option of train; put it behind --: ... -- {astray[0]}")
    parsed = _parse(
        types.SimpleNamespace(Arguments=launch.Arguments[how], EXAMPLES=how.EXAMPLES),
        rest[:at],
        f"launch {name}",
        about=f"{inspect.getdoc(how)}\n\n{inspect.getdoc(launch.Arguments)}",
    )
    job = dataclasses.replace(parsed.job, overrides=tuple(rest[at + 1 :]))
    if job.task == "train":
        with contextlib.redirect_stdout(sys.stderr):  # what a config file prints is no script
            asked = _train(module("train"), [job.config, "--out", job.out, *job.overrides])
        sharding.check_divides("train.batch", asked.config.train.batch, job.devices)
        sharding.check_divides("evaluation.batch", asked.config.evaluation.batch, job.devices)
    else:
        _parsed(module(job.task), [job.out, *job.overrides], job.task)
    return dataclasses.replace(parsed, job=job)


def _parse(
    command: Any, arguments: list[str], name: str, *, about: str | None = None, **options: Any
) -> Any:
    about = about or inspect.getdoc(command.Arguments)
    parsed = tyro.cli(
        command.Arguments,
        args=arguments,
        prog=f"supernet {name}",
        description=f"{about}\n\n{_examples(command.EXAMPLES)}",
        **options,
    )
    given = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    whole = {name: expanded(p) for name, p in given.items() if isinstance(p, pathlib.Path)}
    return dataclasses.replace(parsed, **whole)


def _examples(text: str) -> str:
    """Commands on a line each, which tyro leaves alone if they are indented, and then the words."""
    lines = text.strip().splitlines()
    commands = [line for line in lines if re.match(r"([A-Z_]+=\S+ )?supernet ", line)]
    words = [line for line in lines if line not in commands]
    return "\n".join(["Examples:", *(f"  {line}" for line in commands), "", *words])


def _overview() -> str:
    lines = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
    return (
        f"supernet {supernet_jax.__version__}: train a supernet once, search it, take "
        f"any subnet away\n\n{lines}\n\n"
        "supernet COMMAND --help explains each. To begin with: supernet quickstart"
    )


def _quiet() -> None:
    """Keeps other libraries' chatter off the terminal, and compiled programs on disk."""
    # A failed write is reported by its UserError.
    for name in ("absl", "orbax", "asyncio", "matplotlib"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    cache.enable()
