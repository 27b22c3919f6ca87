"""Several processes that train together: joining, beginning alike, and parting."""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from supernet_jax.errors import UserError, at_least
from supernet_jax.runtime import peers, stopping

SAY_SECONDS = 10  # of waiting, after which it is said what for
LONGEST = 200  # bytes that a process says of itself
PART_SECONDS = 10  # that a process waits for the others at its end
# Environment variables by which a cluster tells its processes their places.
CLUSTERS = {
    "Slurm": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID"),
    "Open MPI": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
    "a TPU": ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Which process of a job this one is, and how long it waits for the others."""

    coordinator: str | None = None
    """HOST:PORT of process 0, if several work together; `auto` on TPU pods and under Slurm"""
    processes: int = 1
    """number of processes that work together"""
    process: int = 0
    """number of this process among them, from 0"""
    join_seconds: int = 300
    """seconds to wait for the other processes at the start; more suit a slower cluster"""
    heartbeat_seconds: int = 12
    """end when another process was silent for so long; more suit a busy network, 0 never does"""

    def __post_init__(self) -> None:
        at_least("--join-seconds", self.join_seconds, 1)
        at_least("--heartbeat-seconds", self.heartbeat_seconds, 0)
        if self.coordinator is None and (self.processes != 1 or self.process != 0):
            raise UserError("--processes and --process need --coordinator HOST:PORT of process 0")


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """While entered, this process is one of those that work together; all of them part at the end.

    Raises:
        UserError: no such cluster, a bad address, or a port that is in use. Where the others do not
            come, the process ends with a line that says so and exit status 75.
    """
    if place.coordinator is None:
        yield
        return
    seconds = place.join_seconds
    options = {} if place.coordinator == "auto" else _address(place.coordinator, place)
    jax.config.update("jax_enable_preemption_service", False)  # signals are heard by `stopping`
    what = "the processes of this cluster"
    if options:
        what = f"{place.processes} processes at {place.coordinator}"
    with _said_in_time(what, seconds), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            jax.distributed.initialize(
                **options,
                initialization_timeout=seconds + 60,  # ends the process without a word for users
                shutdown_timeout_seconds=PART_SECONDS,
            )
        except Exception as error:  # detecting a cluster fails in ways of its own
            if options:
                raise UserError(f"cannot join {what} ({' '.join(str(error).split())})") from error
            raise UserError(
                "--coordinator auto found no cluster that says which process this is ("
                f"{_seen()}; {error or type(error).__name__}{_first(heard)}); start it by `srun`, "
                "on a TPU pod, or give --coordinator HOST:PORT --processes N --process I"
            ) from error
    try:
        with peers.watched(place.heartbeat_seconds):
            yield
    finally:
        if not peers.status_of(sys.exception()):  # else the others do not come to this
            with stopping.held(patient=True):  # `PART_SECONDS` at most
                jax.distributed.shutdown()


def all_or_none(error: UserError | None) -> None:
    """Ends all processes alike: called by each, raises in each where process 0 met an error.

    Raises:
        UserError: the error, or in the other processes one that names process 0.
    """
    if jax.process_count() > 1:
        met = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
        if error is None and int(met):
            error = UserError("process 0 could not begin; its own line says why")
    if error is not None:
        raise error


def once(act: Callable[[], Any]) -> None:
    """Does in process 0 alone what need not be done twice, as writing a file.

    Raises:
        UserError: in all processes, where it fails.
    """
    error = None
    if jax.process_index() == 0:
        try:
            act()
        except UserError as met:
            error = met
    all_or_none(error)


def check_alike(what: str, own: str) -> None:
    """Called by each process before they work together.

    Args:
        what: that must be the same in all, as the subject of a sentence.
        own: this process's value of it.

    Raises:
        UserError: in each process, where they differ; the message says what each has.
    """
    if jax.process_count() == 1:
        return
    said = json.dumps([socket.gethostname(), own]).encode()[:LONGEST]
    padded = np.frombuffer(said.ljust(LONGEST), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded), np.uint8)
    all_said = [json.loads(row.tobytes()) for row in rows]
    if len({value for _, value in all_said}) > 1:
        listed = ", ".join(
            f"{value} in process {i} (on {host})" for i, (host, value) in enumerate(all_said)
        )
        raise UserError(
            f"{what} must be the same in all processes, but there is {listed}; give all of them "
            "the same"
        )


def _address(coordinator: str, place: Place) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize`."""
    processes, process = place.processes, place.process
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator is {coordinator!r}, not HOST:PORT or auto")
    if processes < 1:
        raise UserError(f"--processes is {processes}, but must be at least 1")
    if not 0 <= process < processes:
        raise UserError(
            f"--process is {process}, but must be 0 to {processes - 1}: there are --processes "
            f"{processes}"
        )
    if process == 0:
        _check_port(int(port))
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def _check_port(port: int) -> None:
    """Looks before JAX does, which crashes where the port is taken."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise UserError(
            f"port {port} of --coordinator cannot be used here ({error.strerror}); choose another, "
            "or run process 0 on the host that --coordinator names"
        ) from error


@contextlib.contextmanager
def _said_in_time(what: str, seconds: int) -> Iterator[None]:
    """Says what is waited for, and ends the process in the end: JAX would do so without a word that
    helps, by aborting it.
    """
    complete = threading.Event()

    def watch() -> None:
        start = time.monotonic()
        if complete.wait(min(SAY_SECONDS, seconds)):
            return
        if seconds > SAY_SECONDS:
            print(f"supernet: waiting for {what}, {seconds} s at most", file=sys.stderr, flush=True)
        if not complete.wait(max(0.0, start + seconds - time.monotonic())):
            print(
                f"supernet: not all of {what} came within {seconds} s; start all of them with the "
                "same --coordinator, which they must reach, or wait longer with --join-seconds",
                file=sys.stderr,
                flush=True,
            )
            stopping.leave(stopping.UNFINISHED)  # a scheduler starts it again: they may come yet

    thread = threading.Thread(target=watch, daemon=True, name="joining")
    thread.start()
    try:
        yield
    finally:
        complete.set()
        thread.join()


def _first(heard: list[warnings.WarningMessage]) -> str:
    """What a library warned of, in a few words."""
    return "".join(f"; {str(warning.message).splitlines()[0]}" for warning in heard[:1])


def _seen() -> str:
    """What there is of each kind of cluster."""
    found = []
    for cluster, names in CLUSTERS.items():
        there = [name for name in names if name in os.environ]
        lacking = [name for name in names if name not in os.environ]
        if there and lacking:
            found.append(f"{cluster} set {', '.join(there)} but not {', '.join(lacking)}")
    return "; ".join(found) or f"looked for {', '.join(CLUSTERS)}"
