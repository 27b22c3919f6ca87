"""A hub in this process: the part of the API of the Hugging Face Hub that `huggingface_hub` speaks
to make a repository, commit to it and fetch from it, with faults that can be planted.

It stores what it is sent, knows contents by their digests as the real one does, and refuses what
the real one refuses: no token, a wrong one, a commit on another parent, a large file that was not
uploaded before. `python tests/networks/fake_hub.py PORT` runs one to play with.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

TOKEN = "hf_valid"
LARGE = (".safetensors", ".onnx", ".stablehlo")  # what .gitattributes gives to LFS
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "other")


@dataclasses.dataclass
class Repository:
    """Attributes: whether it is private, and its commits, oldest first: id and files."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision, if there is such a one."""
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)

    def commit(self, files: dict[str, bytes]) -> str:
        """Adds a commit with these files."""
        content = repr((len(self.commits), sorted(files.items()))).encode()
        name = hashlib.sha1(content).hexdigest()
        self.commits.append((name, files))
        return name


class Hub(http.server.ThreadingHTTPServer):
    """Repositories by ORG/NAME.

    Attributes:
        repositories: what is there.
        large: contents that were uploaded for LFS, by SHA-256.
        requests: method and path of each request so far, without the query.
        fail: called with method and path; a status to answer instead of doing it, 0 to hang up.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fail: Any = lambda method, path: None
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        """What the main branch of a repository holds."""
        return self.repositories[name].commits[-1][1]

    def fetched(self) -> list[str]:
        """Paths of files whose content was asked for, since `requests` was cleared."""
        found = [re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", p) for m, p in self.requests]
        gets = [method == "GET" for method, _ in self.requests]
        return sorted(one[1] for one, get in zip(found, gets, strict=True) if one and get)


def blob(content: bytes) -> str:
    """The name of a content in Git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _listed(path: str, content: bytes) -> dict[str, Any]:
    """A file as listings have it; those of LFS with their SHA-256."""
    digest = hashlib.sha256(content).hexdigest()
    lfs = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}
    size = {"size": len(content), "oid": blob(content), "blobId": blob(content)}
    named = {"type": "file", "path": path, "rfilename": path}
    return {**named, **size, **({"lfs": lfs} if path.endswith(LARGE) else {})}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self, status: int, code: str, said: str) -> None:
        self._answer(status, {"error": said}, X_Error_Code=code, X_Error_Message=said)

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        path, query = urllib.parse.unquote(url.path), dict(urllib.parse.parse_qsl(url.query))
        server = self.server
        with server.lock:
            server.requests.append((self.command, path))
        status = server.fail(self.command, path)
        if status == 0:
            self.close_connection = True
            return None
        if status is not None:
            return self._refused(status, "", "planted")
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given not in ("", TOKEN):
            return self._refused(401, "", "Invalid credentials in Authorization header")
        with server.lock:
            return self._routed(path, query, body, given == TOKEN)

    do_GET = do_PUT = do_POST = do_HEAD = _any

    def _routed(self, path: str, query: dict[str, str], body: bytes, known: bool) -> None:
        if path == "/api/validate-yaml":
            return self._validated(json.loads(body)["content"])
        if path.startswith("/lfs/"):
            content = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != content:
                return self._refused(400, "", "not what was announced")
            self.server.large[content] = body
            return self._answer(200)
        if self.command in ("POST", "PUT") and not known:
            return self._refused(401, "", "Invalid username or password.")
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git/info/lfs/objects/(?P<lfs>batch)"
            r"|/(?P<verb>revision|tree|preupload|commit|resolve)/(?P<rev>[^/]+)(?:/(?P<file>.+))?)?",
            path,
        )
        name = found[1] if found else ""
        there = self.server.repositories.get(name)
        if not found or there is None or (there.private and not known):
            return self._refused(401 if not known else 404, "RepoNotFound", "Repository not found")
        if found["lfs"]:
            return self._batch(json.loads(body)["objects"])
        at = there.at(found["rev"] or "main")
        if at is None:
            return self._refused(404, "RevisionNotFound", "Invalid rev id")
        commit, files = at
        verb = found["verb"] or "revision"
        if verb == "revision":
            listed = [_listed(*one) for one in files.items()]
            told = {"id": name, "modelId": name, "sha": commit, "private": there.private}
            return self._answer(200, {**told, "siblings": listed, "tags": [], "downloads": 0})
        if verb == "tree":
            return self._answer(200, [_listed(*one) for one in files.items()] or b"[]")
        if verb == "resolve":
            return self._resolved(commit, found["file"], files.get(found["file"]))
        if verb == "preupload":
            asked = [one["path"] for one in json.loads(body)["files"]]
            modes = ["lfs" if one.endswith(LARGE) else "regular" for one in asked]
            told = [
                {
                    "path": one,
                    "uploadMode": mode,
                    "shouldIgnore": False,
                    "oid": blob(files[one]) if one in files else None,
                }
                for one, mode in zip(asked, modes, strict=True)
            ]
            return self._answer(200, {"files": told})
        return self._committed(name, there, body)

    def _validated(self, content: str) -> None:
        data = yaml.safe_load(content.split("---\n")[1])
        if data.get("license") not in LICENSES:
            said = '"license" must be one of [apache-2.0, mit, ...]'
            return self._answer(400, {"errors": [{"message": said}], "warnings": []})
        unheard = "me/unheard" in data.get("datasets", ())
        warned = [{"message": "me/unheard is no data set"}] if unheard else []
        return self._answer(200, {"errors": [], "warnings": warned})

    def _created(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return self._refused(403, "", "You don't have the rights to create there")
        if name in self.server.repositories:
            return self._refused(409, "", "You already created this model repo")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        made = Repository(private, [])
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.server.repositories[name] = made
        return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name, "id": "1"})

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        there = self.server.large
        told = [
            one
            if one["oid"] in there
            else {**one, "actions": {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}}
            for one in objects
        ]
        return self._answer(200, {"objects": told, "transfer": "basic"})

    def _resolved(self, commit: str, path: str, content: bytes | None) -> None:
        if content is None:
            return self._refused(404, "EntryNotFound", "Entry not found")
        listed = _listed(path, content)
        etag = listed["lfs"]["oid"] if "lfs" in listed else listed["oid"]
        return self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit)

    def _committed(self, name: str, there: Repository, body: bytes) -> None:
        head, files = there.commits[-1][0], dict(there.commits[-1][1])
        for line in body.splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header" and value.get("parentCommit", head) != head:
                return self._refused(412, "", "A commit has happened since")
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if one["key"] == "lfsFile" and value["oid"] not in self.server.large:
                return self._refused(400, "", "the file was not uploaded")
            if one["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            if one["key"] == "deletedFile":
                del files[value["path"]]
        made = there.commit(files)
        url = f"{self.server.url}/{name}/commit/{made}"
        return self._answer(200, {"commitUrl": url, "commitOid": made, "pullRequestUrl": None})


@contextlib.contextmanager
def used(cache: pathlib.Path) -> Iterator[Hub]:
    """A hub that `huggingface_hub` uses in this process, with a token, and an empty cache."""
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HUGGINGFACE_CO_URL_TEMPLATE", template),
            ("HF_HUB_CACHE", str(cache)),
            ("HF_TOKEN_PATH", str(cache / "token")),
            ("HF_HUB_DISABLE_XET", True),  # whose storage is another server
        ):
            patch.setattr(constants, name, value)
        patch.setenv("HF_TOKEN", TOKEN)
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


if __name__ == "__main__":
    with Hub(int(sys.argv[1])) as served:
        print(f"HF_ENDPOINT={served.url} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        served.serve_forever()
