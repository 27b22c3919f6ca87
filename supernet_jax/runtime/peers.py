"""Processes that train together know within seconds when one of them has gone, and which.

A computation over several processes waits for ever for one that is dead, and JAX itself takes
minutes to say so without naming it. So every process keeps a connection to process 0, over which
each says that it lives and, at its end, how it ended. The system closes the connections of a dead
process at once; of a machine that is lost there is silence. Process 0 tells the others; all end.
"""

import contextlib
import ctypes
import hmac
import json
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax._src import distributed as jax_distributed

from supernet_jax.errors import LOG, UserError
from supernet_jax.runtime import stopping

BEAT_SECONDS = 1.0  # between two signs of life
CONNECT_SECONDS = 30.0  # that all have for the connection, once they have joined
# What XLA says when a process is gone.
LOST = ("closed by peer", "reset by peer", "coordination service", "heartbeat")
KEY = "supernet_jax/peers"  # under which process 0 says where it listens
# How long process 0 lets the others end first, when all have to: without their coordinator JAX
# aborts them.
PART_SECONDS = 3.0
TOKEN = 16  # bytes, by which process 0 knows those of its job


class Ended(NamedTuple):
    """How a process ended, as it said itself or as was seen.

    Attributes:
        process: its number.
        host: its machine.
        status: its exit status; -1 where it died without a word.
    """

    process: int
    host: str
    status: int


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
    """While entered, in every process of a job: when another one dies, or ends by an error, this
    process says which and ends as well. It is called by all after they have joined.

    Args:
        seconds: of silence after which a process counts as dead; 0 watches nothing. A process that
            was killed is noticed at once, whatever this is.
    """
    links = _connected() if jax.process_count() > 1 and seconds else []
    if not links:
        yield
        return
    watch = _Watch(links, seconds)
    watch.start()
    before, stopping.farewell = stopping.farewell, watch.end
    with aborts_later():
        try:
            yield
        except BaseException as error:
            if is_lost(error):  # the watch knows better what happened, and ends this process
                time.sleep(seconds + 2 * BEAT_SECONDS)
            watch.end(status_of(error))
            raise
        finally:
            stopping.farewell = before
    watch.end(0)


@contextlib.contextmanager
def aborts_later() -> Iterator[None]:
    """While entered, a C library that aborts this process does so six seconds later.

    XLA aborts within milliseconds where process 0 is gone, with a stack in the place of a line and
    134 in that of 75. Later, the watch has ended this process as it should. The handler is the C
    library's own `sleep`, which is called with the number of the signal, and 6 that is. A crash of
    another cause is seen six seconds later, too.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    before = libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of the job is gone, or was raised from such a one:
    a save that fails for it looks like a folder that cannot be written.
    """
    if not jax.distributed.is_initialized():  # and no backend is started, to count processes
        return False
    chain: BaseException | None = error
    while chain is not None:
        text = " ".join(str(chain).split())
        is_gloo = isinstance(chain, ValueError) and "Gloo" in text  # buckets' have the same words
        is_jax = isinstance(chain, jax.errors.JaxRuntimeError) or is_gloo
        if is_jax and any(words in text for words in LOST):
            return True
        chain = chain.__cause__
    return False


def status_of(error: BaseException | None) -> int:
    """The exit status that an error is going to have, for the others; 0 where all end alike."""
    if error is None:
        return 0
    if isinstance(error, stopping.Stopped):  # after the same step, which all of them saved
        return 0 if error.step is not None else stopping.UNFINISHED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if is_lost(error):
        return stopping.UNFINISHED
    return 2 if isinstance(error, UserError) else 1


class _Link:
    """A connection to another process, which carries lines of JSON."""

    def __init__(self, connection: socket.socket, process: int, host: str):
        connection.setblocking(False)
        self.connection, self.process, self.host = connection, process, host
        self.heard, self.received = time.monotonic(), b""
        self.said_end = False  # it ends, and may take a moment for it

    def say(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # one that is gone is noticed when it is read
            self.connection.send(json.dumps(message).encode() + b"\n")

    def wait_for_end(self) -> None:
        """Returns when the other process has ended, or after `PART_SECONDS`."""
        end = time.monotonic() + PART_SECONDS
        with contextlib.suppress(OSError):
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(65536):
                    return

    def hear(self) -> list[Any]:
        """What came in; raises `ConnectionError` at the end."""
        content = self.connection.recv(65536)
        if not content:
            raise ConnectionResetError
        self.heard = time.monotonic()
        *whole, self.received = (self.received + content).split(b"\n")
        return [json.loads(line) for line in whole]


class _Watch(threading.Thread):
    """Says that this process lives, hears that the others do, and ends it when they do not."""

    def __init__(self, links: list[_Link], seconds: float):
        super().__init__(daemon=True, name="peers")
        self.links, self.seconds = links, seconds
        self.lock = threading.Lock()
        self.leaving = False

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for link in self.links:
                selector.register(link.connection, selectors.EVENT_READ, link)
            woken = time.monotonic()
            while self.links:
                ready = selector.select(BEAT_SECONDS)
                now = time.monotonic()
                if now - woken > self.seconds / 2:  # this process itself was stopped for a while
                    for link in self.links:
                        link.heard = now
                woken = now
                for key, _ in ready:
                    self._hear(key.data, selector)
                with self.lock:
                    for link in self.links:
                        link.say(None)
                for link in list(self.links):
                    if now - link.heard > self.seconds and not link.said_end:
                        self._gone(Ended(link.process, link.host, -1), silent=True)

    def _hear(self, link: _Link, selector: selectors.BaseSelector) -> None:
        try:
            messages = link.hear()
        except BlockingIOError:
            return
        except OSError:
            selector.unregister(link.connection)
            if link in self.links:
                self.links.remove(link)
            link.connection.close()
            if not self.leaving and not link.said_end:
                self._gone(Ended(link.process, link.host, -1))
            return
        for ended in (Ended(*message) for message in messages if message is not None):
            link.said_end |= ended.process == link.process
            if ended.status != 0:
                self._gone(ended)

    def _gone(self, ended: Ended, *, silent: bool = False) -> None:
        """Tells the others, says it here, and ends this process, unless it is ending anyway."""
        if ended.status == stopping.UNFINISHED and stopping.asked():
            return  # this process was asked as well, and saves what it can
        with self.lock:
            if self.leaving:
                return
            others = [link for link in self.links if link.process != ended.process]
            for link in others:
                link.say(ended)
            time.sleep(0.1 if others else 0)  # so that what was said goes out
        how = {
            -1: f"was not heard of for {self.seconds:g} s" if silent else "has died",
            stopping.UNFINISHED: "was asked to stop",
        }.get(ended.status, f"ended with status {ended.status}, its own line says why")
        print(
            f"supernet: process {ended.process} (on {ended.host}) {how}; this one ends too, what "
            "was saved stays",
            file=sys.stderr,
            flush=True,
        )
        ending = [] if silent else self.links[:]
        self.links.clear()
        if jax.process_index() == 0:
            for link in ending:
                link.wait_for_end()
        stopping.leave(stopping.UNFINISHED if ended.status < 0 else ended.status)

    def end(self, status: int) -> None:
        """Tells the others how this process ends."""
        free = self.lock.acquire(timeout=1)  # a signal may have interrupted who holds it
        self.leaving = True
        for link in self.links:
            link.say(Ended(jax.process_index(), socket.gethostname(), status))
        if free:
            self.lock.release()
        end = time.monotonic() + PART_SECONDS
        while jax.process_index() == 0 and status and self.links and time.monotonic() < end:
            time.sleep(0.05)  # the thread hears of their ends


def _connected() -> list[_Link]:
    """The connections of this process: of process 0 to all others, of those to process 0; none,
    with a warning, where not all came about.
    """
    job: Any = jax_distributed.global_state
    try:
        if jax.process_index() == 0:
            with _listener() as listener:
                token, port = secrets.token_bytes(TOKEN), listener.getsockname()[1]
                job.client.key_value_set_bytes(KEY, token + port.to_bytes(2, "big"))
                return _accepted(listener, token)
        told = job.client.blocking_key_value_get_bytes(KEY, int(1000 * CONNECT_SECONDS))
        host = str(job.coordinator_address).rpartition(":")[0].strip("[]")
        return [_reached(host, int.from_bytes(told[TOKEN:], "big"), told[:TOKEN])]
    except OSError as error:
        LOG.warning(
            f"warning: process {jax.process_index()} cannot watch the others ({error}), so one "
            "that dies is noticed late"
        )
        return []


def _listener() -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", 0), family=family, dualstack_ipv6=dual)


def _accepted(listener: socket.socket, token: bytes) -> list[_Link]:
    """A connection from each of the others, which has shown the token."""
    links: dict[int, _Link] = {}
    end = time.monotonic() + CONNECT_SECONDS
    while len(links) < jax.process_count() - 1:
        listener.settimeout(max(0.01, end - time.monotonic()))
        connection, _ = listener.accept()
        connection.settimeout(5)
        with contextlib.suppress(OSError, ValueError, TypeError):
            shown, line = connection.recv(TOKEN, socket.MSG_WAITALL), b""
            while not line.endswith(b"\n") and (more := connection.recv(1)):
                line += more
            process, host = json.loads(line)
            if hmac.compare_digest(shown, token):
                links[process] = _Link(connection, process, host)
                continue
        connection.close()
    for link in links.values():
        link.say(None)  # all are there
    return list(links.values())


def _reached(host: str, port: int, token: bytes) -> _Link:
    """The connection to process 0, once it has those of all."""
    connection = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    own = json.dumps([jax.process_index(), socket.gethostname()]).encode()
    connection.sendall(token + own + b"\n")
    if not connection.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError("process 0 did not hear from all")
    return _Link(connection, 0, host)
