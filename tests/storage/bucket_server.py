"""A bucket in this process: the part of the JSON API of Google Cloud Storage, and of S3, that
TensorStore speaks, with faults that can be planted.
"""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

import pytest

from supernet_jax.storage import buckets

BUCKET = "shelf"


class Server(http.server.ThreadingHTTPServer):
    """Objects of one bucket, by name: content and generation.

    Attributes:
        objects: what is there.
        requests: method and name of each request so far.
        fail: called with method and name; a status to answer instead of doing it, 0 to hang up.
        lose: called with method and name; true answers 503 although it was done.
        url: of the bucket.
        stale: names as a listing gives them, None for those that are there.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: Any = lambda method, name: None
        self.lose: Any = lambda method, name: False
        self.stale: list[str] | None = None
        self.lock = threading.Lock()
        self.generation = 1000
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        """By which TensorStore finds it."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "abc",
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def names(self, prefix: str = "") -> list[str]:
        """Of the objects, in order."""
        with self.lock:
            return sorted(name for name in self.objects if name.startswith(prefix))


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _any(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        google = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?", url.path)
        if google:
            bucket, name = google[1], urllib.parse.unquote(google[2] or query.get("name", ""))
        else:
            bucket, _, name = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        server = self.server
        with server.lock:
            server.requests.append((self.command, name))
        status = server.fail(self.command, name)
        if status == 0:
            self.close_connection = True
            return None
        if status is None and bucket != BUCKET:
            status = 404
        if status is not None:
            return self._refused(status, google is not None)
        if not name:
            return self._listed(query, google is not None)
        with server.lock:
            answer = self._done(name, query, body, google is not None)
        if server.lose(self.command, name):
            return self._refused(503, google is not None)
        return self._answer(*answer[:2], **answer[2])

    def _refused(self, status: int, google: bool) -> None:
        said = {"error": {"code": status, "message": "planted"}}
        xml = "<Error><Code>Planted</Code><Message>planted</Message></Error>"
        self._answer(status, json.dumps(said).encode() if google else xml.encode())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _done(
        self, name: str, query: dict[str, str], body: bytes, google: bool
    ) -> tuple[int, bytes, dict[str, str]]:
        objects = self.server.objects
        content, generation = objects.get(name, (b"", 0))
        there = {"ETag": f'"{generation}"', "x_goog_generation": str(generation)}
        match, other = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if not google:
            match, other = self.headers.get("If-Match"), self.headers.get("If-None-Match")
            if self.command == "PUT" and other == "*":
                match, other = "0", None
        if not google and not generation and self.command in ("GET", "HEAD"):
            return 404, b"", {}
        if match is not None and match.strip('"') != str(generation):
            return 412, b"", {}
        if other is not None and other.strip('"') == str(generation) and generation:
            return 304, b"", there
        if self.command in ("PUT", "POST"):
            self.server.generation += 1
            objects[name] = (body, self.server.generation)
            made = str(self.server.generation)
            found = {"name": name, "generation": made, "size": str(len(body))}
            return 200, json.dumps(found).encode() if google else b"", {"ETag": f'"{made}"'}
        if self.command == "DELETE":
            return (204 if objects.pop(name, None) or not google else 404), b"", {}
        if not generation:
            return 404, b"", {}
        if google and query.get("alt") != "media":
            found = {"name": name, "generation": str(generation), "size": str(len(content))}
            return 200, json.dumps(found).encode(), there
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged and content:
            start, stop = int(ranged[1]), min(int(ranged[2] or len(content)) + 1, len(content))
            there["Content_Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            return 206, content[start:stop], there
        return 200, content, there

    def _listed(self, query: dict[str, str], google: bool) -> None:
        names = self.server.names() if self.server.stale is None else sorted(self.server.stale)
        names = [name for name in names if name.startswith(query.get("prefix", ""))]
        if google:
            start, end = query.get("startOffset", ""), query.get("endOffset")
            names = [n for n in names if n >= start and (end is None or n < end)]
            items = [{"name": n, "size": "1", "generation": "1"} for n in names]
            return self._answer(200, json.dumps({"items": items}).encode())
        names = [n for n in names if n > query.get("start-after", "")]
        found = "".join(f"<Contents><Key>{escape(n)}</Key><Size>1</Size></Contents>" for n in names)
        return self._answer(
            200,
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
            f"<KeyCount>{len(names)}</KeyCount>{found}</ListBucketResult>".encode(),
        )


@contextlib.contextmanager
def used(scheme: str = "gs", *, retries: int = 6) -> Iterator[Server]:
    """A bucket that this process and those it starts use."""
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        soon = {"max_retries": retries, "initial_delay": "1ms", "max_delay": "5ms"}
        patch.setattr(buckets, "RETRIES", soon)
        server.url = f"{scheme}://{BUCKET}"
        yield server


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A bucket, until the block is left."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
