"""Evaluation of a run's subnets by the workers of a farm, to the same records as without one.

Each worker opens the run by itself: the folder, the data and the checkpoint must be the same for
all, which is compared before a worker gets its first subnets. Results come back to the process that
was started, which alone writes them.

Shape letters: `N` archs, `n` archs of a piece, `D` decisions.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch
from supernet_jax.errors import LOG, UserError
from supernet_jax.evaluation import chunks, evaluate
from supernet_jax.evaluation.chunks import Wanted
from supernet_jax.evaluation.evaluate import Result
from supernet_jax.experiment import build, config, results
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.run import Run
from supernet_jax.runtime import disk_cache, hardware, path_rules
from supernet_jax.runtime.farm import Farm, Work, Workers
from supernet_jax.runtime.ray_farm import RayFarm
from supernet_jax.storage import files, user_code

FARM_HELP = (  # of the commands' option
    "evaluate by workers of Ray: a number of them for this machine, as 4, which share its cores; "
    "or a Ray cluster, HOST:PORT, or auto for the one that this machine belongs to, with a worker "
    "on each of its machines. More workers finish sooner where each has cores of its own"
)
# What of a worker's facts must be as here, and how it is called where it is not.
NAMES = {
    "code": "versions of JAX, Flax and this package",
    "checkpoint": "last checkpoint",
    "weights": "weights",
    "data": "data",
}


class Machine(NamedTuple):
    """Where a worker runs.

    Attributes:
        host: its name.
        process: number.
        processor: its kind.
    """

    host: str
    process: int
    processor: str


class Piece(NamedTuple):
    """What one worker evaluates at a time.

    Attributes:
        where: positions among all archs, `[n]`.
        archs: those, packed, int32 `[n, D]`; all of one size.
    """

    where: np.ndarray
    archs: np.ndarray


class Source(NamedTuple):
    """Where parts of the user's own are defined.

    Attributes:
        module: that can be imported on every machine; "" for a file.
        path: of the file, on the machine where the command was started; "" for a module.
        content: of the file.
        names: of the dataclasses.
    """

    module: str
    path: str
    content: bytes
    names: tuple[str, ...]

    def types(self) -> dict[str, type]:
        """The dataclasses, by name.

        Raises:
            UserError: the module is not there, or the file does not run.
        """
        if not self.module:
            module = user_code.run_sent(pathlib.Path(self.path), self.content)
            return {name: vars(module)[name] for name in self.names}
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise UserError(
                f"cannot import {self.module}, where the {self.names[0]} of this run is defined "
                f"({error}); install it on every machine"
            ) from error
        return {name: vars(module)[name] for name in self.names}


@dataclasses.dataclass(frozen=True)
class Opening:
    """What a worker is sent first: how it opens a run and evaluates subnets of it.

    Attributes:
        folder: of the run, absolute or in a bucket.
        split: "held-out" or "test".
        sources: of the parts of the user's own.
    """

    folder: str
    split: str
    sources: tuple[Source, ...]

    def __call__(self) -> tuple[tuple[dict[str, Any], Machine], Work]:
        """Called in the worker. What must be as in all others and where it runs; and what evaluates
        a `Piece`.
        """
        types = {name: kind for source in self.sources for name, kind in source.types().items()}
        run = experiment_run.open_run(self.folder, types)
        data = build.evaluation_data(run.experiment, self.split)
        how = build.evaluation_how(run.experiment)

        def work(piece: Piece) -> Result:
            archs = choices.unpack(run.space.menu, piece.archs)
            value = np.zeros(len(piece.archs))
            loss, total = np.zeros(len(value), np.float32), 0
            for where, part in evaluate.evaluate(how, run.params, archs, data):
                value[where], loss[where], total = part
            return Result(value, loss, total)

        machine = Machine(socket.gethostname(), os.getpid(), hardware.describe()["processor"])
        return (facts(run, self.split), machine), work


class FarmEvaluator:
    """Evaluates archs of a run by a farm, which is started when the first are to be evaluated.

    Args:
        run: as it was opened here.
        split: "held-out" or "test".
        farm: not started yet.

    Attributes:
        machines: of the workers that have begun, by name.
    """

    def __init__(self, run: Run, split: str, farm: Farm):
        self._run, self._split, self._farm = run, split, farm
        self._sources = sources(run.config)
        self.machines: dict[str, Machine] = {}

    def __call__(self, archs: Arch, wanted: Wanted) -> Iterator[tuple[np.ndarray, Result]]:
        """As `evaluate.evaluate` has it, of archs `[N]`; in the order in which workers finish.

        Raises:
            UserError: a worker has another run, data or versions than this process, or raised it.
            NoWorkers: all of them are gone.
        """
        for piece, result in self._workers.results(self._pieces(archs, wanted)):
            yield piece.where, result

    def start(self) -> None:
        """Starts the workers now, and waits until all have opened the run."""
        self._workers.wait()

    def stop(self) -> None:
        """Ends the workers."""
        self._farm.stop()

    @functools.cached_property
    def _workers(self) -> Workers:
        opening = Opening(str(self._run.folder.absolute()), self._split, self._sources)
        return Workers(self._farm, opening, self._check)

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        return facts(self._run, self._split)

    def _pieces(self, archs: Arch, wanted: Wanted) -> Iterator[Piece]:
        """At most as many archs as a program takes, fewer where all workers shall have some.

        The program is the same for fewer, and what it finds does not depend on the others.
        """
        packed = np.asarray(choices.pack(archs))
        for _, group in chunks.in_order(self._run.space, archs):
            share = -(-len(group) // len(self._workers))
            count = min(self._run.config.evaluation.chunk, share)
            while len(group := wanted(group)):
                where, group = np.split(group, [count])
                yield Piece(where, packed[where])

    def _check(self, worker: str, said: tuple[dict[str, Any], Machine]) -> None:
        """Raises a `UserError` unless a worker has what this process has; notes where it runs."""
        theirs, machine = said
        differing = [key for key, value in self._facts.items() if theirs.get(key) != value]
        if differing:
            key = next((key for key in NAMES if key in differing), differing[0])
            raise UserError(
                f"{worker} of the farm does not have the {NAMES.get(key, key)} of this "
                f"process: {theirs.get(key)} there, {self._facts[key]} here; all machines of a "
                "farm must see the same run and data, and have the same versions installed"
            )
        kinds = {one.processor for one in self.machines.values()}
        self.machines[worker] = machine
        if kinds and machine.processor not in kinds and len(kinds) == 1:
            LOG.warning(
                f"note: the processors of the farm differ ({machine.processor}; {kinds.pop()}), so "
                "the last digits of a record may depend on which of them computed it"
            )


def facts(run: Run, split: str) -> dict[str, Any]:
    """All that results depend on besides the arch and the processor, as JSON values."""
    digest = hashlib.sha256()
    for name, leaf in path_rules.named_leaves(run.params).items():
        values = np.asarray(leaf)
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode() + values.tobytes())
    return {
        **results.conditions(run, split),
        "code": disk_cache.versions(),
        "weights": digest.hexdigest()[:12],
    }


def sources(settings: config.Config) -> tuple[Source, ...]:
    """Where the user's own parts of a configuration are defined.

    Raises:
        UserError: one is defined in a notebook or in the script that runs.
    """
    places: dict[tuple[str, pathlib.Path | None], list[str]] = {}
    for kind in dict.fromkeys(type(part) for part in config.parts(settings)):
        name, module = kind.__name__, kind.__module__
        if config.LIBRARY.get(name) is kind:
            continue
        if module == "__main__":
            raise UserError(
                f"{name} is defined in a notebook or in the script that runs, which workers of a "
                "farm cannot load; put it into a file of its own, and open the run with that"
            )
        where = ("", user_code.source(kind)) if user_code.is_from_file(kind) else (module, None)
        places.setdefault(where, []).append(name)
    return tuple(
        Source(module, str(path), files.read_bytes(path, kind="Python file"), tuple(names))
        if path
        else Source(module, "", b"", tuple(names))
        for (module, path), names in places.items()
    )


@contextlib.contextmanager
def hired(farm: Farm | int | str | None, run: Run, split: str) -> Iterator[FarmEvaluator | None]:
    """What evaluates subnets of a run by a farm, while entered; None where there is none.

    Args:
        farm: not started yet, or where Ray runs, as `RayFarm` takes it.
        run: as it was opened here.
        split: "held-out" or "test".

    Raises:
        UserError: there is no such farm, or this process is one of several of a job.
    """
    if farm is None:
        yield None
        return
    check(farm, joined=jax.process_count() > 1)
    engine = farm if isinstance(farm, Farm) else RayFarm(farm)
    evaluator = FarmEvaluator(run, split, engine)
    try:
        yield evaluator
    finally:
        evaluator.stop()


def check(farm: Farm | int | str | None, *, race: bool = False, joined: bool = False) -> None:
    """Makes sure that what was given as a farm is one, or None, and fits the rest.

    Args:
        farm: as `hired` takes it.
        race: whether subnets are to race.
        joined: whether this process is one of several of a job.

    Raises:
        UserError: it is none, or does not fit.
    """
    if farm is None:
        return
    if not isinstance(farm, Farm):
        RayFarm(farm)
    if race:
        raise UserError(
            "--race needs what each subnet says to each image, batch by batch, which workers of a "
            "farm do not send; leave --race or --farm out"
        )
    if joined:
        raise UserError(
            "--farm and --coordinator are two ways to use several processes; give one of them"
        )
