"""`supernet evaluate`: calibrate and evaluate subnets of a run."""

import dataclasses
import pathlib
from typing import Annotated, Any

import jax
import rich.console
import rich.table
import tyro

from supernet_jax.cli import shared
from supernet_jax.elastic import choices, space
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import UserError
from supernet_jax.experiment import race, read_archs, results
from supernet_jax.experiment.run import Run
from supernet_jax.storage import files

EXAMPLES = """
supernet evaluate runs/digits --random 100
supernet evaluate runs/digits --archs archs.json --split test
supernet evaluate runs/digits --front --split test --out front.json
supernet evaluate runs/digits --random 500 --race --out front.json"""
SPLITS = ("held-out", "test")
SHOWN = 20  # rows of the printed table


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Calibrate and evaluate subnets of a run; what is known is not computed again.

    With --race only the front of accuracy and MACs is found: subnets that are worse than it beyond
    doubt drop out before they have seen all images.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional]
    """run folder"""
    archs: str | None = None
    """a JSON file of archs, an arch as JSON, `smallest` or `largest`"""
    random: int = 0
    """this many random subnets"""
    front: bool = False
    """the front of the run's last search"""
    split: str = "held-out"
    """held-out (taken from the training images) | test"""
    race: bool = False
    """find the front from fewer images"""
    race_error: float = 0.05
    """most probability that it is not the front of full evaluation, between 0 and 1"""
    seed: int = 0
    """of the random subnets, and of the order of the images in a race"""
    out: pathlib.Path | None = None
    """also write the results (of a race: those of the front) to this JSON file; of a run folder
    that cannot be written to, nothing else is kept"""
    config: pathlib.Path | None = None
    """the config file that defines your own parts, for runs that use such"""


def run(arguments: Arguments) -> None:
    """Evaluates what was asked for, and prints and writes the results."""
    shared.one_of("--split", arguments.split, SPLITS)
    if (arguments.archs is not None) + (arguments.random != 0) + arguments.front != 1:
        raise UserError("say which subnets: --archs FILE, --random N or --front (exactly one)")
    if arguments.random:
        shared.at_least("--random", arguments.random, 1)
    shared.at_least("--seed", arguments.seed, 0)
    if not 0 < arguments.race_error < 1:
        raise UserError(f"--race-error is {arguments.race_error}, but must be above 0 and below 1")
    if arguments.out is not None:
        shared.check_writable("--out", arguments.out)
    opened = shared.open_run(arguments.run, arguments.config)
    given = _archs(opened, arguments)
    archs = space.distinct(opened.experiment.space, given)
    if arguments.race:
        keep = shared.keeps_results(opened, arguments.out)
        how: dict[str, Any] = {"error": arguments.race_error, "seed": arguments.seed, "keep": keep}
        records, report = race.race(opened, arguments.split, archs, **how)
    else:
        scorer = results.Scorer(opened, arguments.split)
        keep = not scorer.lacks(archs) or shared.keeps_results(opened, arguments.out)
        scorer.keep = keep
        records = scorer(archs)
    if arguments.out is not None:
        if keep:  # it was free when this began; what is known is not computed again
            shared.check_writable("--out", arguments.out)
        files.write_json(arguments.out, records)
    print_records(records)
    if len(archs) < len(given):
        print(f"{len(given)} archs were given; equal networks are one subnet")
    if arguments.race:
        _print_race(report)
    broken = sum(record["loss"] is None for record in records)
    results.require_numbers(len(records), broken)


def _archs(opened: Run, arguments: Arguments) -> list[Arch]:
    space = opened.experiment.space
    if arguments.front:
        return shared.front(opened)
    if arguments.archs is not None:
        return read_archs.read_archs(space, arguments.archs)
    key = jax.random.key(arguments.seed)
    return choices.unstack(choices.sample(space.menu, key, (arguments.random,)))


def print_records(records: list[dict[str, Any]]) -> None:
    """A table of different subnets' results, cheapest first; of many, evenly spaced ones."""
    ordered = sorted(records, key=lambda record: record["macs"])
    shown = [ordered[i * len(ordered) // SHOWN] for i in range(SHOWN)]
    shown = ordered if len(ordered) <= SHOWN else shown
    first = records[0]
    table = rich.table.Table("MACs", "parameters", "accuracy", "loss", box=None)
    for record in shown:
        table.add_row(
            f"{record['macs']:,}",
            f"{record['parameters']:,}",
            f"{record['accuracy']:.2%}",
            _nats(record["loss"]),
        )
    rich.console.Console().print(table)
    sound = [record for record in records if record["loss"] is not None]
    batches, batch = first["calibration"]
    subnets = "1 subnet" if len(records) == 1 else f"{len(records)} subnets"
    said = (
        f"{subnets} on {first['images']} {first['split']} images, each calibrated on "
        f"{batches} batches of {batch}"
    )
    if sound:
        best = max(sound, key=lambda record: record["accuracy"])
        said += f"; best {best['accuracy']:.2%} with {best['macs']:,} MACs"
    print(said)
    if len(sound) < len(records):
        print(f"the loss of {len(records) - len(sound)} of them is not a number")


def _nats(loss: float | None) -> str:
    if loss is None:
        return "not a number"
    return f"{loss:.3f}" if loss < 1e6 else f"{loss:.3g}"


def _print_race(report: dict[str, Any]) -> None:
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
