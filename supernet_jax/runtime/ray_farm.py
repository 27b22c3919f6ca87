"""Ray as a farm: workers are its actors, on this machine or on each machine of a cluster.

Ray is optional: `pip install "supernet_jax[ray]"`. Nothing else of the library imports it.
"""

import contextlib
import logging
import os
import pathlib
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

from supernet_jax.errors import UserError
from supernet_jax.runtime import farm, optional, stopping
from supernet_jax.runtime.farm import Answer, Begin

REACH_SECONDS = 10  # that the address of a cluster has to answer
STORE = 80 * 2**20  # bytes of Ray's shared memory; its least is 75 MB, and messages are small
MOST = 256  # workers on one machine
AUTO = "auto"  # the cluster that this machine belongs to
# Environment variables. Ray reads this one when it is imported.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
# For a Ray of our own: it listens on the loopback interface alone, and not only on the two systems
# that the name tells of; and takes messages with our token alone.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
TOKEN = "RAY_AUTH_TOKEN"  # without this one Ray would write a token to the home folder
MARK = "SUPERNET_FARM"  # environment variable of all processes of a Ray of our own
END_SECONDS = 5.0  # that they have to end by themselves
# Processes that Ray would start beforehand lack the variables of our workers, and would stay idle.
SYSTEM = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}


class RayFarm:
    """Workers by Ray.

    Args:
        where: a number of workers on this machine, which share its cores; or a cluster that runs
            already, with one worker on each of its machines: `auto` for the one that this machine
            belongs to, or its address HOST:PORT.

    Raises:
        UserError: neither of these.
    """

    def __init__(self, where: int | str):
        text = str(where)
        if text.isdecimal() and 0 < int(text) <= MOST:
            self._workers, self._address = int(text), ""
        elif text == AUTO or _is_address(text):
            self._workers, self._address = 0, text
        else:
            client = "; Ray's client is not used" if text.startswith("ray://") else ""
            raise UserError(
                f"--farm is {text!r}; give a number of workers for this machine, 1 to {MOST}, "
                "auto for the Ray cluster that this machine belongs to, or its address HOST:PORT"
                f"{client}"
            )
        self._actors: dict[str, Any] = {}
        self._asked: dict[Any, str] = {}
        self._folder = ""
        self._connected = False

    def start(self, begin: Begin) -> list[str]:
        """See `Farm`.

        Raises:
            UserError: Ray is not installed or in use, or there is no such cluster.
        """
        if self._address and self._address != AUTO:
            _reach(self._address)
        with _own_environment():
            for name, value in QUIET.items():  # where the user has not said otherwise
                os.environ.setdefault(name, value)
            ray = _imported()
            if ray.is_initialized():
                raise UserError(
                    "this process has called ray.init() already, and can have one Ray at a time; "
                    "call ray.shutdown() first"
                )
            with stopping.held():  # Ray's processes are all started, and known, or none is
                places = self._cluster(ray) if self._address else self._here(ray)
                for name, options in places.items():
                    # Never started again: what it had to do has gone to another by then.
                    actor = ray.remote(farm.Worker).options(max_restarts=0, **options).remote()
                    self._actors[name] = actor
                    self._asked[actor.begin.remote(begin)] = name
        if stopping.asked():
            stopping.stop()
        return list(places)

    def send(self, worker: str, piece: Any) -> None:
        """See `Farm`."""
        self._asked[self._actors[worker].work.remote(piece)] = worker

    def receive(self, seconds: float) -> Answer | None:
        """See `Farm`."""
        ray = _imported()
        ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        if not ready:
            return None
        worker = self._asked.pop(ready[0])
        try:
            return Answer(worker, *ray.get(ready[0]))
        except ray.exceptions.RayActorError as error:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(self._actors.pop(worker))  # one that cannot be reached may live
            return Answer(worker, died=_why(str(error)))

    def stop(self) -> None:
        """See `Farm`. A cluster goes on without this process's workers."""
        if self._connected:
            self._disconnect(_imported())
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _disconnect(self, ray: Any) -> None:
        with stopping.held(patient=True):
            if self._address:
                for actor in self._actors.values():
                    with contextlib.suppress(ray.exceptions.RayError):
                        ray.kill(actor)
            ray.shutdown()
            ray._private.worker._worker_logs_enabled = True
            _read_again(ray)
            self._connected = False
            self._actors, self._asked = {}, {}
            end = time.monotonic() + END_SECONDS
            while self._folder and (left := _marked(self._folder)):  # who has not noticed yet
                for process in left if time.monotonic() > end else ():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                time.sleep(0.02)

    def _here(self, ray: Any) -> dict[str, dict[str, Any]]:
        """Starts a Ray for this process alone. Names and options of its workers."""
        share = max(1, farm.cores() // self._workers)
        # Sockets lie in it, and a socket's path may have 107 bytes.
        root = tempfile.gettempdir() if len(tempfile.gettempdir()) < 20 else "/tmp"
        self._folder = tempfile.mkdtemp(prefix="supernet-ray-", dir=root)
        os.environ.update({**ALONE, TOKEN: secrets.token_hex(32), MARK: self._folder})
        _read_again(ray)
        constants = ray._private.ray_constants  # of the variables when Ray was imported
        before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
        try:
            self._connect(
                ray,
                address="local",
                num_cpus=share * self._workers,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=STORE,
                _temp_dir=self._folder,
                _system_config=dict(SYSTEM),  # Ray adds this one's folder to it
            )
        finally:
            constants.ENABLE_RAY_CLUSTER = before
        variables = farm.environment(share, here=True)
        options = {"num_cpus": share, "runtime_env": {"env_vars": variables}}
        return {f"worker {i + 1}": options for i in range(self._workers)}

    def _cluster(self, ray: Any) -> dict[str, dict[str, Any]]:
        """Joins a cluster. Names and options of a worker for each of its machines."""
        self._connect(ray, address=self._address)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found: dict[str, dict[str, Any]] = {}
        for node in ray.nodes():
            cores = int(node["Resources"].get("CPU", 0))
            if not node["Alive"] or not cores:
                continue
            name = f"worker {len(found) + 1} ({node['NodeManagerHostname']})"
            found[name] = {
                "num_cpus": cores,
                "runtime_env": {"env_vars": farm.environment(cores, here=False)},
                "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            }
        if not found:
            raise UserError(
                f"no machine of the Ray cluster {self._address} has processors to work on; start "
                "Ray on some, by ray start --address HOST:PORT"
            )
        return found

    def _connect(self, ray: Any, **how: Any) -> None:
        # Else Ray prints to stdout how each worker ended, in a paragraph of its own; its own
        # debugger uses the same switch.
        ray._private.worker._worker_logs_enabled = False
        self._connected = True  # from here on there is something to shut down
        with _own_handlers(), warnings.catch_warnings():
            # JAX warns of any fork; Ray's children do no more than begin another program.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            try:
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **how)
            except SystemExit:  # how Ray hears SIGTERM meanwhile
                stopping.stop()
            except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
                reason = " ".join(str(error).split())[:300]
                where = f"the Ray cluster {self._address}" if self._address else "Ray here"
                told = "; set RAY_AUTH_MODE=token if it asks for one" if self._address else ""
                raise UserError(f"cannot use {where} ({reason}){told}; see docs/farm.md") from error


def _imported() -> Any:
    return optional.package("ray", extra="ray", who="a farm", otherwise="leave --farm out")


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal() and 0 < int(port) < 65536


def _reach(address: str) -> None:
    """Looks whether somebody listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--farm is {address}, where no Ray cluster answers within {REACH_SECONDS} s ({error});"
            " give the address that `ray start --head` has printed, with its port"
        ) from error


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Puts back the environment variables, some of which Ray sets. Its processes keep what it was
    meanwhile.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def _read_again(ray: Any) -> None:
    """Has Ray forget what it knows of the environment variables, and the token."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Puts back who hears SIGTERM, which Ray takes over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _marked(folder: str) -> list[int]:
    """Processes of a Ray of our own, by the folder that it has (on Linux; elsewhere none)."""
    mark, found = f"{MARK}={folder}\0".encode(), []
    for place in pathlib.Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # one of others, or gone meanwhile
            found += [int(place.parent.name)] if mark in place.read_bytes() else []
    return found


def _why(text: str) -> str:
    """How a worker ended, in a few of Ray's many words."""
    named = [line.strip() for line in text.splitlines() if "Error: " in line]
    if named:  # as a package that is not installed there
        return named[-1]
    if "node has died" in text or "unavailable" in text:
        return "its machine is gone, or does not answer"
    return "killed or crashed, as for lack of memory"
