"""A report that is served while its run goes on, to this machine alone.

The one path `/` gives the page as it is now, under an ETag by which the page itself notices that
there is a newer one; nothing is written. No other site can read it: what was asked for under the
name of another host, which a hostile DNS may lead here, is refused.
"""

import contextlib
import errno
import hashlib
import http.server
import os
import pathlib
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from supernet_jax.errors import UserError, at_least
from supernet_jax.experiment import run as experiment_run
from supernet_jax.experiment.config import Config
from supernet_jax.reporting import page
from supernet_jax.storage import files
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.paths import expanded

HOST = "127.0.0.1"
SECONDS = 3.0  # at least, from one look at the files of the run to the next
SHARE = 0.25  # of a core, at most, that pages take: training needs the machine
FAULT = "Supernet-Fault"  # header: why the run cannot be read any more, quoted as in an address
IDLE_SECONDS = 1.0  # after which a connection over which nothing comes is closed
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page has the other rules
    "Cross-Origin-Resource-Policy": "same-origin",
}


def watch(
    run: str | os.PathLike[str],
    *,
    port: int = 0,
    config: Config | Mapping[str, type] | str | os.PathLike[str] | None = None,
    ready: Callable[[str], Any] = print,
) -> None:
    """Serves the report of a run on this machine until Ctrl-C; nothing is written.

    Args:
        run: folder of the run, in whatever state it is.
        port: on which it is served; 0 takes one that is free.
        config: as `report` takes it.
        ready: called with the address as soon as it can be opened.

    Raises:
        UserError: it is no run folder, or lies in a bucket; the port cannot be had.
    """
    at_least("--port", port, 0)
    folder = expanded(run)
    if isinstance(folder, Bucket):
        raise UserError(f"{folder} is in a bucket; --watch needs a run folder of this machine")
    named = os.fspath(config) if isinstance(config, str | os.PathLike) else ""
    source = Source(folder, experiment_run.types_of(config), named)
    with _server(port, source) as server:  # whose end waits for its threads
        ready(f"http://{HOST}:{server.server_address[1]}/")
        server.serve_forever(poll_interval=0.2)


class Source:
    """The page of a run, made again when somebody looks and its files have changed.

    Args:
        folder: of the run.
        types: the user's own configuration dataclasses, by name.
        config_file: that defines them.

    Raises:
        UserError: it is no run folder.
    """

    def __init__(self, folder: pathlib.Path, types: Mapping[str, type] | None, config_file: str):
        self._folder, self._types, self._config_file = folder, types, config_file
        self._one_at_a_time = threading.Lock()
        self._state = state(folder)
        self._page, self._fault = self._made(self._state), ""
        self._next = time.monotonic() + SECONDS  # later ones compile nothing

    def page(self) -> tuple[bytes, str, str]:
        """The page, what tells it from others, and why it is not as the folder is now: that may
        have been moved away, or its files are being replaced. "" where it is.
        """
        with self._one_at_a_time:
            if time.monotonic() >= self._next:
                now, self._fault = state(self._folder), ""
                try:
                    if now != self._state:
                        self._page, self._state = self._made(now), now
                except UserError as error:
                    self._fault = str(error)
            return self._page, f'"{self._state}"', self._fault

    def _made(self, now: str) -> bytes:
        start = time.process_time()  # by wall clock it would take long whenever others are busy
        try:
            text = page.text(
                self._folder, types=self._types, config_file=self._config_file, live=now
            )
        finally:  # what cannot be read is not soon read again, either
            spent = time.process_time() - start
            self._next = time.monotonic() + max(SECONDS, spent / SHARE)
        return text.encode("utf-8", "replace")


def state(folder: pathlib.Path) -> str:
    """A digest of what a report reads in a run folder: names, sizes and times of change."""
    seen = hashlib.sha256()
    for place, folders, names in files.walk(folder):
        folders.sort()
        parts = [str(place), *folders]
        if place.name == "checkpoints":
            folders.clear()  # each is written once, under the name of its step
        for name in sorted(names):
            if name.endswith(".lock") or name == "report.html":
                continue
            with contextlib.suppress(OSError):  # it was there a moment ago
                parts += [name, *map(str, files.last_change(place / name))]
        seen.update("\0".join([*parts, ""]).encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


class _Server(socketserver.ThreadingTCPServer):
    """Each connection has a thread: browsers open some in advance, and ask nothing for a while."""

    allow_reuse_address = True
    source: Source

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error, nor is one whose connection Ctrl-C has closed."""
        is_closed = request.fileno() < 0
        if not is_closed and not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def _server(port: int, source: Source) -> _Server:
    try:
        server = _Server((HOST, port), _Answer)
    except OverflowError:
        raise UserError(f"--port is {port}; ports go up to 65535") from None
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else f"not free ({error.strerror})"
        raise UserError(f"port {port} is {why}; give another --port, or none") from error
    server.source = source
    return server


class _Answer(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        self._answer(whole=True)

    def do_HEAD(self) -> None:
        self._answer(whole=False)

    def _answer(self, *, whole: bool) -> None:
        port = self.server.server_address[1]
        if self.headers.get_all("Host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            self._send(403, f"this is {HOST}:{port}, and no other host\n".encode(), whole)
        elif self.path != "/":
            self._send(404, b"the report is at /, and there is nothing else\n", whole)
        else:
            text, name, fault = self.server.source.page()
            told = {FAULT: urllib.parse.quote(fault, errors="replace")} if fault else {}
            self._send(200, text, whole, kind="html", ETag=name, **told)

    def _send(
        self, status: int, content: bytes, whole: bool, *, kind: str = "plain", **more: str
    ) -> None:
        self.send_response(status)
        of = {"Content-Type": f"text/{kind}; charset=utf-8", "Content-Length": str(len(content))}
        for name, value in {**HEADERS, **of, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def version_string(self) -> str:
        """Nobody needs to know of which version of Python."""
        return "supernet"

    def log_message(self, *_: Any) -> None:
        """Every look of a page would be a line."""
