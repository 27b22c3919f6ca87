"""`supernet train`: train a supernet, or go on where an interrupted run stopped."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator
from typing import Annotated, Any

import jax
import rich.console
import rich.table
import tyro

from supernet_jax.errors import UserError, at_least
from supernet_jax.experiment import dry_run, train
from supernet_jax.experiment.build import Experiment
from supernet_jax.experiment.config import Config
from supernet_jax.experiment.dry_run import Rehearsal
from supernet_jax.reporting import loggers
from supernet_jax.runtime import distributed, hardware, stopping, watchdog

EXAMPLES = """
supernet train configs/digits.py --out runs/digits
supernet train configs/cifar10.py --out runs/cifar10 --train.steps 2000
supernet train configs/digits.py --out runs/digits --log tensorboard
supernet train configs/cifar10.py --dry-run       (what it would take)
supernet train configs/cifar10.py --help          (lists what can be set)
The same command again goes on where an interrupted run stopped."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a supernet from a config file; its fields can be overridden."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: pathlib.Path | None = None
    """folder of the run; an unfinished run of the same configuration in it goes on"""
    dry_run: bool = False
    """show the run's programs, MACs, memory and time; train nothing and write nothing"""
    json: bool = False
    """with --dry-run: print JSON"""
    devices: int = 0
    """devices to use; 0 uses all"""
    place: Annotated[distributed.Place, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=distributed.Place
    )
    hang_seconds: int = 1800
    """end with status 124, and stacks in a file, if no step is made for so long; 0 never does"""
    start_from: pathlib.Path | None = None
    """run of the same space, whose weights this run begins with instead of random ones; rows of a
    bank begin as copies of what they were split from"""
    log: tuple[str, ...] = ()
    """also draw curves elsewhere: tensorboard | wandb | trackio | mlflow, or several of them"""


def run(arguments: Arguments) -> None:
    """Trains, and says how to go on; or tells what training would take."""
    if arguments.json and not arguments.dry_run:
        raise UserError("--json needs --dry-run; metrics of training are in metrics.jsonl")
    if arguments.out is None and not arguments.dry_run:
        raise UserError("--out is required: the folder of the run, as --out runs/digits")
    at_least("--hang-seconds", arguments.hang_seconds, 0)
    hardware.keep_memory()
    with distributed.joined(arguments.place):
        _train(arguments)


def _train(arguments: Arguments) -> None:
    if arguments.dry_run or arguments.out is None:
        built = train.experiment(arguments.config, devices=arguments.devices)
        _rehearse(built, as_json=arguments.json)
        return
    first = jax.process_index() == 0
    how: dict[str, Any] = {"start_from": arguments.start_from, "devices": arguments.devices}
    try:
        with (
            loggers.opened(arguments.log, arguments.out) as log,
            watchdog.watching(arguments.hang_seconds),
        ):
            trained = train.train(arguments.config, arguments.out, on_metrics=log, **how)
    except stopping.Stopped as stopped:
        if stopped.step is not None and first:
            print(
                f"stopped at step {stopped.step} of {arguments.config.train.steps} and saved; "
                "the same command goes on from there"
            )
        raise
    if first:
        run = shlex.quote(str(arguments.out))
        learns = trained.experiment.recipe.sampler.learn is not None
        then = f"info {run} --codes" if learns else f"search {run}"
        print(f"trained {trained.step} steps; next: supernet {then}")


def _rehearse(built: Experiment, *, as_json: bool) -> None:
    """Tells what the run would take."""
    found = dry_run.rehearse(built)
    if jax.process_index() != 0:
        return
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
        return
    console = rich.console.Console()
    print(
        f"{built.space.name}: {found.steps:,} steps of {found.batch} "
        f"{built.space.task.metric.examples}, "
        f"{found.batch // found.devices} on each of {_several(found.devices, 'device')} "
        f"({found.device}); "
        f"{found.parameters:,} shared parameters, random members {found.strategy}"
    )
    console.print(_programs(found))
    lines = rich.table.Table("", "", box=None, show_header=False)
    for name, value in _takes(found):
        lines.add_row(name, value)
    console.print(lines)


def _programs(found: Rehearsal) -> rich.table.Table:
    """One line for each member of each program."""
    size = ["pixels"] if any(program.sizes[0] != () for program in found.programs) else []
    counted = ("MACs, forward", "training (x3)", "computed")
    table = rich.table.Table("program", "steps", "member", *size, *counted, box=None)
    for i, program in enumerate(found.programs, 1):
        for j, member in enumerate(program.members):
            first = (str(i), f"{program.steps:,}") if j == 0 else ("", "")
            pixels = [str(member.size)] * len(size)
            counts = (member.macs, 3 * member.macs, 3 * member.computed)
            table.add_row(*first, member.role, *pixels, *(f"{n:,}" for n in counts))
    return table


def _takes(found: Rehearsal) -> Iterator[tuple[str, str]]:
    """What the run takes, line by line."""
    timed = f"program {[p.sizes for p in found.programs].index(found.timed) + 1}"
    if found.memory is not None:
        sizes = dataclasses.asdict(found.memory).items()
        parts = ", ".join(f"{name} {dry_run.spelt_bytes(size)}" for name, size in sizes)
        yield "memory per device", f"{parts} ({timed}, as the compiler plans it)"
    yield "checkpoint", f"{dry_run.spelt_bytes(found.checkpoint_bytes)} before compression"
    yield (
        "compilation",
        f"{_several(len(found.programs), 'program')}; {timed}: {found.compile_seconds:.1f} s "
        f"({_several(found.parts, 'part')}, {found.from_cache} from the cache)",
    )
    s, total, spelt = found.step, found.total, dry_run.spelt
    yield (
        "step",
        f"{spelt(s.seconds)} ({spelt(s.low)} to {spelt(s.high)}, {found.timed_steps} steps of "
        f"{timed})",
    )
    yield (
        "whole run",
        f"{spelt(total.seconds)} ({spelt(total.low)} to {spelt(total.high)}), without checkpoints",
    )


def _several(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
