"""The command line: `supernet COMMAND`, and what commands there are."""

import importlib
import itertools
import keyword
import logging
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

import supernet_jax
from supernet_jax import commands, compilation, machine
from supernet_jax.config import Config, load_file
from supernet_jax.errors import UserError, near

# Each is a module of `commands`, imported when it is asked for: some need much that others do not.
COMMANDS = {
    "info": "draw a space, or count the MACs and parameters of archs",
    "train": "train a supernet from a config file",
    "evaluate": "calibrate and evaluate subnets of a run",
    "search": "search a run's space under a budget",
    "table": "the archs of a space over MACs, or the best by a score, for samplers",
    "latency": "measure how long the blocks of a space take on this machine",
    "extract": "take subnets out as ordinary networks",
    "import": "make a run of weights that were trained elsewhere",
    "report": "one HTML file about a run: training, front, networks",
    "native": "build faster kernels for this machine's CPU (optional)",
    "quickstart": "all of it on 8x8 digits, in three minutes",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `supernet` command. Exit status 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(arguments)
        sys.stdout.flush()  # here, where a reader that has gone is no surprise
    except UserError as error:
        print(f"supernet: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("supernet: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


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
    machine.collect_rarely()
    command = module(name)
    own = {"train": _train, "import": _import}.get(name)
    parsed = own(command, rest) if own is not None else _parse(command, rest, name)
    _quiet()
    command.run(parsed)


def module(name: str) -> Any:
    """The module of a command: its `Arguments`, its `EXAMPLES`, and `run`."""
    own = f"{name}_" if keyword.iskeyword(name) else name
    return importlib.import_module(f"{commands.__name__}.{own}")


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
    spelt = [part for a in arguments for part in re.split(r"(?<=^--config)=", a, maxsplit=1)]
    paths = [value for option, value in itertools.pairwise(spelt) if option == "--config"]
    settings = load_file(paths[-1])[0] if paths else Config()
    missing: Any = tyro.MISSING
    return _parse(
        import_, arguments, "import", default=import_.Arguments(missing, missing, settings)
    )


def _parse(command: Any, arguments: list[str], name: str, **options: Any) -> Any:
    return tyro.cli(
        command.Arguments,
        args=arguments,
        prog=f"supernet {name}",
        description=f"{command.Arguments.__doc__}\n\n{_examples(command.EXAMPLES)}",
        **options,
    )


def _examples(text: str) -> str:
    """Commands on a line each, which tyro leaves alone if they are indented, and then the words."""
    lines = text.strip().splitlines()
    commands = [f"  {line}" for line in lines if line.startswith("supernet ")]
    words = [line for line in lines if not line.startswith("supernet ")]
    return "\n".join(["Examples:", *commands, "", *words])


def _overview() -> str:
    lines = "\n".join(f"  {name:<12}{what}" for name, what in COMMANDS.items())
    return (
        f"supernet {supernet_jax.__version__}: train a supernet once, search it, take "
        f"any subnet away\n\n{lines}\n\n"
        "supernet COMMAND --help explains each. To begin with: supernet quickstart"
    )


def _quiet() -> None:
    """Keeps other libraries' chatter off the terminal, and compiled programs on disk."""
    for name in ("absl", "orbax", "asyncio"):  # a failed write is reported by its UserError
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    compilation.keep_programs()
