"""What the benchmarks share: the machine, runs in turn, fresh processes, tables, JSON files.

Machines are noisy. Whatever is compared runs in turn within one process, on new archs in every
round (a constant arch would fold a switch away), and is reported as medians with their spread and
as ratios.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Choice
from supernet_jax.elastic.space import Space
from supernet_jax.experiment import config
from supernet_jax.runtime import hardware, native

CHILD = "--child"  # what a script is started with to be one of its own processes
SIZES = {"digits": 8, "cifar": 32, "attentivenas": 128}  # pixels, unless told otherwise


def space_of(name: str, *, pixels: int) -> Space:
    """A space of three channels and ten classes, whose only resolution is `pixels`."""
    return at_resolution(config.SPACES[name].build(classes=10, input_channels=3), pixels)


def at_resolution(space: Space, pixels: int) -> Space:
    """The same space with one resolution, whatever it had on offer."""
    menu = choices.replace(space.menu, *space.static, Choice((pixels,)))
    return dataclasses.replace(space, menu=menu)


class Timing(NamedTuple):
    """Times of one thing that was run several times.

    Attributes:
        first_s: seconds of the first call, compilation included.
        median_s, low_s, high_s: of the later ones.
        rounds: how many those were.
    """

    first_s: float
    median_s: float
    low_s: float
    high_s: float
    rounds: int


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    made.add_argument("--rounds", type=int, default=7, help="timed calls of each (default: 7)")
    made.add_argument("--quick", action="store_true", help="a small version, under a minute")
    return made


def in_turn(runs: Mapping[str, Callable[[int], Any]], rounds: int) -> dict[str, Timing]:
    """Times each of `runs` `rounds` times, one after the other in every round.

    Args:
        runs: by name, functions of the round's number (0 is the one that compiles).
        rounds: timed calls of each.
    """
    first = {name: timed(run, 0) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(1, rounds + 1):
        for name, run in runs.items():
            times[name].append(timed(run, i))
    return {
        name: Timing(first[name], statistics.median(t), min(t), max(t), rounds)
        for name, t in times.items()
    }


def timed(run: Callable[[int], Any], i: int) -> float:
    """Seconds of one call, its result waited for."""
    start = time.perf_counter()
    jax.block_until_ready(run(i))
    return time.perf_counter() - start


def rows(timings: Mapping[str, Timing], *, base: str, **about: Any) -> list[dict[str, Any]]:
    """One row of a report per timing, with the ratio of its median to that of `base`."""
    return [
        {**about, "name": name, **t._asdict(), "ratio": t.median_s / timings[base].median_s}
        for name, t in timings.items()
    ]


def is_child() -> bool:
    """Whether this process was started by `fresh`."""
    return sys.argv[1:2] == [CHILD]


def asked() -> Any:
    """What `fresh` asks of this process."""
    return json.loads(sys.argv[2])


def fresh(script: str, what: Any, **environment: str) -> Any:
    """What a fresh process of a benchmark prints last, read as JSON.

    Args:
        script: its file.
        what: it is asked, as JSON values.
        **environment: variables that differ from this process's.
    """
    command = [sys.executable, str(pathlib.Path(script).resolve()), CHILD, json.dumps(what)]
    surroundings = {**os.environ, **environment}
    ended = subprocess.run(command, env=surroundings, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def table(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Prints a table in Markdown; numbers to the right."""
    cells = [list(columns), *([_shown(value) for value in line] for line in lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(columns))]
    numeric = [all(isinstance(line[i], int | float) for line in lines) for i in range(len(columns))]
    rule = ["-" * (w - 1) + (":" if n else "-") for w, n in zip(widths, numeric, strict=True)]
    print()
    for line in [cells[0], rule, *cells[1:]]:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        print(f"| {' | '.join(padded)} |")
    print()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def timings_table(
    report: Sequence[Mapping[str, Any]],
    about: Sequence[str],
    *,
    also: Mapping[str, str] | None = None,
) -> None:
    """Prints the rows that `rows` made, and the columns of `also` (by key)."""
    also = also or {}
    columns = [*about, "", "first call, s", "median, s", "from", "to", "ratio", *also.values()]
    keys = [*about, "name", "first_s", "median_s", "low_s", "high_s", "ratio", *also]
    table(columns, [[row[key] for key in keys] for row in report])


def write(path: pathlib.Path | None, figures: Any) -> None:
    """Writes the figures and where they come from, if a file was asked for.

    Products of float32 matrices are whole float32 on CPU. On GPU and TPU their factors are rounded
    (on an NVIDIA GPU to TF32) unless JAX_DEFAULT_MATMUL_PRECISION says otherwise; it is noted.
    """
    if path is not None:
        flags = os.environ.get("XLA_FLAGS", "").strip()
        precision = jax.config.jax_default_matmul_precision or "default"
        has_kernels = jax.default_backend() == "cpu" and native.available()
        kernels = "native" if has_kernels else "xla"
        settings = {"flags": flags, "matmul_precision": precision, "kernels": kernels}
        noted = {"machine": hardware.describe(), "settings": settings, "figures": figures}
        path.write_text(json.dumps(noted, indent=1) + "\n", encoding="utf-8")
