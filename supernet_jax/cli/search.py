"""`supernet search`: the best subnets under a budget, on images held out of training."""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import rich.console
import rich.table
import tyro

from supernet_jax import searching
from supernet_jax.errors import UserError
from supernet_jax.experiment import budgets, config, farm, front, measured, search
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.farm import FARM_HELP
from supernet_jax.experiment.front import Front
from supernet_jax.experiment.search import SEARCHERS, Search
from supernet_jax.reporting import loggers, search_goal
from supernet_jax.runtime import distributed
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import Metric

EXAMPLES = """
supernet search runs/digits --high 300000
supernet search runs/digits --cost latency:latency.json --high 0.5 --measure
supernet search runs/digits --budget macs:..300e3 --budget parameters:..50e3
supernet search runs/digits --searcher random --evaluations 500
supernet search runs/digits --searcher evolution --help     (lists its settings)
supernet search runs/digits --high 300000 --out small.json
supernet search runs/digits --race                          (fewer images)
supernet search runs/digits --farm 4                        (four workers on this machine)"""

SEARCHER_HELP = (
    f"{' | '.join(SEARCHERS)} | one of yours in the file of --config; each has settings of its "
    "own, below; if not given, that of the run's configuration"
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search for the best subnets under a budget, on images held out of training."""

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    settings: Annotated[Search, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Search)
    searcher: Annotated[str | None, tyro.conf.arg(help=SEARCHER_HELP)] = None
    part: Annotated[Any, tyro.conf.arg(name="searcher")] = dataclasses.field(
        default_factory=searching.Evolution
    )
    out: pathlib.Path | None = None
    """JSON file of the front, a picture beside it; if not given, RUN/search.json and front.png"""
    config: pathlib.Path | None = None
    """config file that defines the run's parts, a searcher or costs, where some are your own"""
    log: tuple[str, ...] = ()
    """also put pictures of the front and of all scores there: tensorboard | wandb | trackio |
    mlflow, or several of them"""
    farm: Annotated[str | None, tyro.conf.arg(help=FARM_HELP)] = None
    place: Annotated[distributed.Place, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=distributed.Place
    )

    def __post_init__(self) -> None:
        farm.check(self.farm, race=self.settings.race, joined=self.place.coordinator is not None)


def searcher(name: str | None, file: str | None, words: Sequence[str]) -> Any:
    """The searcher that is asked for, with the settings that it has unless others are given.

    Args:
        name: of the searcher, or None for that of a configuration.
        file: config file, or None for the configuration of the run.
        words: of the command line, one of which is the folder of the run.
    """
    settings, types = config.load_file(file) if file else (None, {})
    if name is not None:
        return search.named(name, types)
    if settings is not None:
        return settings.searcher
    for word in words:
        path = expanded(pathlib.Path(word)) / "config.json"
        try:
            return config.read(path).searcher
        except UserError:  # no run; if it should be one, that is said when it is opened
            continue
    return searching.Evolution()


def run(arguments: Arguments) -> None:
    """Searches, and prints the front."""
    with distributed.joined(arguments.place), loggers.opened(arguments.log, arguments.run) as log:
        _search(arguments, log)


def _search(arguments: Arguments, log: Sequence[loggers.Logger]) -> None:
    settings, path = arguments.settings, arguments.config
    own = () if path is None else config.load_file(path)[0].costs
    opened = experiment_run.open_run(arguments.run, path)
    found = search.search(
        opened,
        low=settings.low,
        high=settings.high,
        cost=settings.cost,
        budgets=budgets.read_budgets(settings.budget) if settings.budget else None,
        objectives=settings.objective,
        searcher=arguments.part,
        evaluations=settings.evaluations,
        seed=settings.seed,
        warm_start=settings.warm_start,
        baseline=settings.baseline,
        race=settings.race,
        race_error=settings.race_error,
        measure=settings.measure,
        costs=own,
        out=arguments.out,
        farm=arguments.farm,
    )
    if jax.process_index() != 0:
        return
    loggers.log_front(log, found, opened.step)
    _print(found, opened.space.task.metric)
    out = arguments.out
    path = arguments.run / front.FILE if out is None else out
    picture = arguments.run / front.PICTURE if out is None else out.with_suffix(".png")
    print(f"wrote {path} and {picture}")
    which = "front:0 --out network" if out is None else f"{path} --out networks"
    print(f"next: supernet extract {shlex.quote(str(arguments.run))} --arch {which}")


def _print(found: Front, metric: Metric) -> None:
    result = found.result
    heads, *rows = found.table()
    table = rich.table.Table("front", *heads[1:], box=None)
    for i, row in enumerate(rows):
        table.add_row(f"front:{i}", *row[1:])
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['evaluations']:,} subnet{'' if result['evaluations'] == 1 else 's'} scored on "
        f"{result['images']} {metric.examples} held out of training"
    )
    if result["not_a_number"]:
        print(f"the loss of {result['not_a_number']} of them is not a number; they are on no front")
    if said := search_goal.raced(result, metric):
        print(said)
    if taus := result.get("tau"):
        shown = " and ".join(f"{tau:.2f}" for tau in taus)
        print(f"the predictor ranks them with Kendall's tau {shown}, each by those of other folds")
    if said := front.compared(result):
        print(said)
    if source := result.get("latency_table"):
        print(f"milliseconds from {source['file']}: {source['measured']}")
    for line in measured.said(result):
        print(line)
