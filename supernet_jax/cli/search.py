"""`supernet search`: the best subnets under a budget, on images held out of training."""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import rich.console
import rich.table
import tyro

from supernet_jax.experiment import front, search
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.search import Search
from supernet_jax.runtime import distributed
from supernet_jax.tasks import Metric

EXAMPLES = """
supernet search runs/digits --high 300000
supernet search runs/digits --algorithm random --evaluations 500
supernet search runs/digits --cost parameters --high 50000
supernet search runs/digits --cost latency:latency.json --high 0.5
supernet search runs/digits --high 300000 --out small.json"""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search for the best subnets under a budget, on images held out of training."""

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    settings: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)
    out: pathlib.Path | None = None
    """JSON file of the front, a picture beside it; if not given, RUN/search.json and front.png"""
    config: pathlib.Path | None = None
    """config file that defines the run's parts, where some are your own"""
    place: Annotated[distributed.Place, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=distributed.Place
    )


def run(arguments: Arguments) -> None:
    """Searches, and prints the front."""
    with distributed.joined(arguments.place):
        _search(arguments)


def _search(arguments: Arguments) -> None:
    opened = experiment_run.open_run(arguments.run, arguments.config)
    found = search.search(opened, **vars(arguments.settings), out=arguments.out)
    if jax.process_index() != 0:
        return
    _print(found.result, opened.space.task.metric)
    out = arguments.out
    path = arguments.run / front.FILE if out is None else out
    picture = arguments.run / front.PICTURE if out is None else out.with_suffix(".png")
    print(f"wrote {path} and {picture}")
    which = "front:0 --out network" if out is None else f"{path} --out networks"
    print(f"next: supernet extract {shlex.quote(str(arguments.run))} --arch {which}")


def _print(result: Mapping[str, Any], metric: Metric) -> None:
    timed = result["cost"] == "latency"
    table = rich.table.Table("front", *["ms"] * timed, "MACs", "parameters", metric.name, box=None)
    for i, entry in enumerate(result["front"]):
        cells = [f"{entry['macs']:,}", f"{entry['parameters']:,}", metric.shown(entry[metric.name])]
        milliseconds = [str(entry["latency"])] if timed else []  # such that it can be a bound
        table.add_row(f"front:{i}", *milliseconds, *cells)
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['evaluations']} subnets scored on {result['images']} {metric.examples} held out "
        "of training"
    )
    if result["not_a_number"]:
        print(f"the loss of {result['not_a_number']} of them is not a number; they are on no front")
    if timed:
        source = result["latency_table"]
        print(f"milliseconds from {source['file']}: {source['measured']}")
