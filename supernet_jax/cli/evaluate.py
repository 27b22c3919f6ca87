"""`supernet evaluate`: calibrate and evaluate subnets of a run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import rich.console
import rich.table
import tyro

from supernet_jax.elastic import shared_params, space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError, at_least, one_of
from supernet_jax.experiment import evaluate, farm, front, race, read_archs, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.farm import FARM_HELP
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import distributed
from supernet_jax.tasks import Metric

EXAMPLES = """
supernet evaluate runs/digits --random 100
supernet evaluate runs/digits --archs archs.json --split test
supernet evaluate runs/darts --archs argmax
supernet evaluate runs/digits --front --split test --out front.json
supernet evaluate runs/digits --random 500 --race --out front.json
supernet evaluate runs/digits --random 500 --farm 4"""
SHOWN = 20  # rows of the printed table


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Calibrate and evaluate subnets of a run; what is known is not computed again.

    With --race only the front of accuracy and MACs is found: subnets that are worse than it beyond
    doubt drop out before they have seen all images.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """folder of the run"""
    archs: str | None = None
    """subnets to evaluate: a JSON file of archs, an arch as JSON, `smallest`, `largest`, or of a
    run whose sampler learned a code `argmax` (the likeliest) or `sampled:SEED` (drawn by it)"""
    random: int = 0
    """evaluate so many random subnets"""
    front: bool = False
    """evaluate the front of the run's last search"""
    split: str = "held-out"
    """images to evaluate on: held-out (taken from the training images) | test"""
    race: bool = False
    """find only the front, from fewer images"""
    race_error: float = 0.05
    """limit of the probability that a race errs, above 0, below 1; more needs fewer images"""
    seed: int = 0
    """seed of the random subnets, and of a race's order of images"""
    out: pathlib.Path | None = None
    """also write the results (of a race, the front) to this file; needed if RUN is read-only"""
    config: pathlib.Path | None = None
    """config file that defines the run's parts, where some are your own"""
    farm: Annotated[str | None, tyro.conf.arg(help=FARM_HELP)] = None
    place: Annotated[distributed.Place, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=distributed.Place
    )

    def __post_init__(self) -> None:
        if (self.archs is not None) + (self.random != 0) + self.front != 1:
            raise UserError("say which subnets: --archs FILE, --random N or --front (exactly one)")
        if self.random:
            at_least("--random", self.random, 1)
        one_of("--split", self.split, evaluate.SPLITS)
        farm.check(self.farm, race=self.race, joined=self.place.coordinator is not None)


def run(arguments: Arguments) -> None:
    """Evaluates what was asked for, and prints the results."""
    with distributed.joined(arguments.place):
        _evaluate(arguments)


def _evaluate(arguments: Arguments) -> None:
    opened = experiment_run.open_run(arguments.run, arguments.config)
    given = _archs(opened, arguments)
    archs = space.distinct(opened.space, given)
    how: dict[str, Any] = {"split": arguments.split, "out": arguments.out}
    if arguments.race:
        raced = race.race(
            opened, archs, error=arguments.race_error, seed=arguments.seed, **how
        ).result
        records = raced["front"]
    else:
        records = evaluate.evaluate(opened, archs, farm=arguments.farm, **how)
    if jax.process_index() != 0:
        return
    unions = shared_params.unions(opened.space).values()
    calibrated = any(jax.tree.leaves(shapes.moments) for _, shapes in unions)
    print_records(records, opened.space.task.metric, calibrated=calibrated)
    if len(archs) < len(given):
        print(f"{len(given)} archs were given; equal networks are one subnet")
    if arguments.race:
        _print_race(raced)
    broken = sum(record["loss"] is None for record in records)
    results.require_numbers(len(records), broken)


def _archs(opened: Run, arguments: Arguments) -> list[Arch]:
    if arguments.front:
        return [entry.arch for entry in front.last(opened)]
    if arguments.archs is not None:
        return read_archs.read_archs(opened, arguments.archs)
    return read_archs.sample(opened.space, arguments.random, seed=arguments.seed)


def print_records(
    records: list[dict[str, Any]], metric: Metric, *, calibrated: bool = True
) -> None:
    """A table of different subnets' results, cheapest first; of many, evenly spaced ones.

    Args:
        records: as `sj.evaluate` returns them.
        metric: of the task.
        calibrated: whether there were statistics to calibrate.
    """
    ordered = sorted(records, key=lambda record: record["macs"])
    shown = [ordered[i * len(ordered) // SHOWN] for i in range(SHOWN)]
    shown = ordered if len(ordered) <= SHOWN else shown
    first = records[0]
    table = rich.table.Table("MACs", "parameters", metric.name, "loss", box=None)
    for record in shown:
        table.add_row(
            f"{record['macs']:,}",
            f"{record['parameters']:,}",
            metric.shown(record[metric.name]),
            _nats(record["loss"]),
        )
    rich.console.Console().print(table)
    sound = [record for record in records if record["loss"] is not None]
    batches, batch = first["calibration"]
    subnets = "1 subnet" if len(records) == 1 else f"{len(records)} subnets"
    subnets += f", of which the table has {len(shown)}," if len(shown) < len(records) else ""
    said = f"{subnets} on {first['images']} {first['split']} {metric.examples}"
    said += f", each calibrated on {batches} batches of {batch}" if calibrated else ""
    if sound:
        best = max(sound, key=lambda record: metric.score(record[metric.name]))
        said += f"; best {metric.shown(best[metric.name])} with {best['macs']:,} MACs"
    print(said)
    if len(sound) < len(records):
        print(f"the loss of {len(records) - len(sound)} of them is not a number")


def _nats(loss: float | None) -> str:
    if loss is None:
        return "not a number"
    return f"{loss:.3f}" if loss < 1e6 else f"{loss:.3g}"


def _print_race(report: Mapping[str, Any]) -> None:
    seen, full = report["images_seen"], report["images_of_full_evaluation"]
    print(
        f"front of {report['candidates']} subnets by racing: {seen:,} of {full:,} images "
        f"({seen / full:.1%}), and {report['calibration_images']:,} for calibration; with "
        f"probability {1 - report['error']:.10g} or more it is the front of full evaluation"
    )
    if report["not_a_number"]:
        print(f"the loss of {report['not_a_number']} of them is not a number; they are on no front")
    if report["file"] is not None:
        print(f"what each subnet saw is in {report['file']}")
