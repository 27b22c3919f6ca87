"""`supernet init`: look at images, and write a configuration file to begin with."""

import dataclasses
import pathlib
import re
import shlex
from typing import Annotated

import jax
import tyro

from supernet_jax import data
from supernet_jax.data import Survey
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, dry_run, propose
from supernet_jax.experiment.dry_run import Rehearsal
from supernet_jax.experiment.propose import Machine, Part
from supernet_jax.runtime import hardware
from supernet_jax.storage import files
from supernet_jax.storage.paths import expanded, joined

EXAMPLES = """
supernet init photos                       (a folder with a folder for each class)
supernet init images.npz --out mine.py --hours 8
supernet init tfds:cifar10 --data-dir DIR --no-time
The file says why each number is as it is; it is yours to change."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Look at images and at this machine, and write a config file to begin with."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """a folder, an .npz file, or digits | tfds:NAME | folder:PATH | npz:PATH (docs/data.md)"""
    out: pathlib.Path = pathlib.Path("my_config.py")
    """config file to write, which must not exist yet"""
    data_dir: str | None = None
    """folder of prepared TFDS data, or folder in which a relative path starts"""
    hours: float = 1.0
    """longest training to plan, in hours; more shows each image more often, up to 100 times"""
    time: bool = True
    """take a few training steps to measure their time; --no-time makes --hours limit nothing"""


def run(arguments: Arguments) -> None:
    """Looks, proposes, tries and writes."""
    if not 0 < arguments.hours < float("inf"):
        raise UserError(f"--hours is {arguments.hours}, but must be above 0, as 1 hour")
    if arguments.out.suffix != ".py":
        raise UserError(f"--out is {arguments.out}; a config file is Python: let it end with .py")
    files.check_free("--out", arguments.out)
    folder = arguments.data_dir
    folder = folder and str(expanded(folder).absolute())
    survey = data.survey(_name(arguments.data, folder), data_dir=folder)
    device = jax.devices()[0]
    here = propose.machine(device.platform, jax.device_count(), device.device_kind)
    print(f"{_images(survey)}\n{_machine(here)}")
    parts = propose.propose(survey, here, data_dir=folder)
    hardware.keep_memory()
    built = build.build(propose.built(parts))
    took = ""
    if arguments.time:
        found = dry_run.rehearse(built)
        parts = _within(parts, found, arguments.hours)
        took = _took(found, propose.built(parts).train.steps)
    files.check_free("--out", arguments.out)  # the rehearsal took a while
    files.write_text(arguments.out, propose.text(parts, _head(arguments, survey, here, took)))
    settings = propose.built(parts)
    print(
        f"wrote {arguments.out}: {settings.train.steps:,} steps of {settings.train.batch} images "
        f"in the space {built.space.name}; {took or 'not timed: --dry-run of train tells'}"
    )
    print(f"next: {_command(arguments, survey)}")


def _command(arguments: Arguments, survey: Survey) -> str:
    """What trains by the file that is written."""
    return shlex.join(
        ["supernet", "train", str(arguments.out), "--out", f"runs/{_short(survey.name)}"]
    )


def _name(given: str, data_dir: str | None) -> str:
    """A dataset as configurations name it, its path absolute."""
    kind, _, rest = given.partition(":")
    named = kind in ("folder", "npz") and rest
    path = expanded(rest if named else given)
    if named:
        return given if data_dir is not None else f"{kind}:{path.absolute()}"
    path = joined(expanded(data_dir or "."), path)
    if given == "digits" or kind == "tfds":
        return given
    if path.is_dir():
        return f"folder:{path}"
    if path.suffix == ".npz":
        return f"npz:{path}"
    if path.exists():
        raise UserError(f"{given} is neither a folder nor an .npz file; see docs/data.md")
    if "/" in given:
        raise UserError(f"there is no folder {path}; check the path")
    return given  # which is refused with a guess at what was meant


def _images(survey: Survey) -> str:
    low, high = min(survey.counts), max(survey.counts)
    each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
    sizes = sorted(set(survey.sizes))
    size = "of unknown size"
    if sizes:
        size = " to ".join(f"{h} x {w}" for h, w in dict.fromkeys((sizes[0], sizes[-1])))
    colour = {1: "grey", 3: "colour"}.get(survey.channels, f"{survey.channels} channels")
    tests = f"{survey.tests:,} test images" if survey.tests else "a fifth becomes the test part"
    return (
        f"{survey.name}: {sum(survey.counts):,} images in {len(survey.counts)} classes ({each}), "
        f"{size} pixels, {colour}; {tests}"
    )


def _machine(here: Machine) -> str:
    devices = "no accelerator" if here.backend == "cpu" else f"{here.devices} x {here.device}"
    memory = dry_run.spelt_bytes(here.memory)
    return f"this machine has {here.cores} cores, {memory} of memory and {devices}"


def _within(parts: list[Part], found: Rehearsal, hours: float) -> list[Part]:
    """Fewer steps, if those proposed take longer than that."""
    if found.total.seconds <= 3600 * hours:
        return parts
    share = (3600 * hours - _compiling(found)) / (found.total.seconds - _compiling(found))
    steps = max(10, int(found.steps * share))
    unit = 10 ** max(0, len(str(steps)) - 2)
    why = (
        f"as many as take {hours:g} h here (supernet init --hours); {found.steps:,} would be "
        f"better, and take {dry_run.spelt(found.total.seconds)}"
    )
    return propose.shortened(parts, steps // unit * unit, why)


def _took(found: Rehearsal, steps: int) -> str:
    share = steps / found.steps
    seconds, low, high = (
        dry_run.spelt(_compiling(found) + (value - _compiling(found)) * share)
        for value in dataclasses.astuple(found.total)
    )
    return (
        f"training takes about {seconds} here ({low} to {high}), a step "
        f"{dry_run.spelt(found.step.seconds)}"
    )


def _compiling(found: Rehearsal) -> float:
    return found.compile_seconds


def _head(arguments: Arguments, survey: Survey, here: Machine, took: str) -> str:
    low, high = min(survey.counts), max(survey.counts)
    about = [
        f"A supernet on {_short(survey.name)}, as `supernet init` proposes it.",
        f"    {_command(arguments, survey)}",
        f"{_images(survey)}.",
    ]
    if high >= 3 * low:
        few = survey.class_names[survey.counts.index(low)]
        many = survey.class_names[survey.counts.index(high)]
        about.append(
            f"Classes are uneven: {many!r} has {high:,} images, {few!r} {low:,}. Nothing weighs "
            f"them: to answer {many!r} always is right for "
            f"{100 * high / sum(survey.counts):.0f} % of them."
        )
    about.append(f"Made where {_machine(here)}; {took or 'training was not timed'}.")
    return "\n\n".join(about)


def _short(name: str) -> str:
    """A name for a run's folder."""
    last = re.split(r"[/:]", name.rstrip("/"))[-1].removesuffix(".npz")
    return re.sub(r"\W+", "_", last).strip("_") or "mine"
