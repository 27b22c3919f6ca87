"""Small files, lines, locks and copies in a bucket: whole, once, and by one writer."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import bucket_server
import pytest
from bucket_server import Server

from supernet_jax.errors import UserError
from supernet_jax.runtime import cache, stopping
from supernet_jax.storage import (
    bucket_lines,
    buckets,
    files,
    local_copy,
    lock,
    paths,
    whole_folder,
)
from supernet_jax.storage.buckets import Bucket


@pytest.fixture(params=["gs", "s3"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with bucket_server.used(request.param) as server:
        yield server


@pytest.fixture
def google() -> Iterator[Server]:
    with bucket_server.used("gs") as server:
        yield server


def place(server: Server, name: str = "runs/a") -> Bucket:
    found = paths.expanded(f"{server.url}/{name}")
    assert isinstance(found, Bucket)
    return found


# ---------------------------------------------------------------------------- paths


def test_paths() -> None:
    path = paths.expanded("gs://shelf/runs/a")
    assert isinstance(path, Bucket) and str(path) == os.fspath(path) == "gs://shelf/runs/a"
    assert (path.scheme, path.bucket, path.key) == ("gs", "shelf", "runs/a")
    assert [str(p) for p in (path.parent, path / "b c", path.with_name("d"))] == [
        *("gs://shelf/runs", "gs://shelf/runs/a/b c", "gs://shelf/runs/d")
    ]
    # What `pathlib` leaves of it, as the command line and a notebook give it.
    assert paths.expanded(pathlib.Path("gs://shelf/runs/a")) == path == Bucket(str(path))
    assert path.absolute() == path.resolve() == paths.absolute(path) == path
    for local in ("bucket/run", "gs", "s3/x", "/gs/x", "a:b/c", "tfds:x/y"):
        assert not isinstance(paths.expanded(local), Bucket)
    for use in (path.stat, path.open, path.unlink, path.mkdir, path.read_bytes, path.touch):
        with pytest.raises(TypeError, match="lies in a bucket"):
            use()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gs:/shelf/x", r"has one slash; write gs://shelf/x for the bucket"),
        ("ftp://host/x", r"neither a local path nor in a bucket \(gs:// and s3://\)"),
        ("az://shelf/x", r"neither a local path nor in a bucket"),
        ("s3://", r"names no bucket; write s3://BUCKET/FOLDER"),
        ("gs://shelf/../x", r"is no path in a bucket"),
    ],
)
def test_no_paths(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        paths.expanded(given)


# ---------------------------------------------------------------------------- small files


def test_files(server: Server) -> None:
    folder = place(server)
    path = folder / "new folder" / "wert ü.json"
    assert not folder.exists() and not files.is_folder(folder) and not path.exists()
    files.check_free("--out", path)
    files.write_json(path, {"a": [1.5, "Übung"]})
    assert files.read_json(path) == {"a": [1.5, "Übung"]}
    assert path.is_file() and not path.is_dir() and folder.is_dir() and not folder.is_file()
    assert files.found(folder) == [folder / "new folder"]
    assert files.found(path.parent, "*.json") == [path] and not files.found(path.parent, "*.txt")
    assert files.size_of(path) == len(files.read_bytes(path)) > 0 == files.size_of(folder / "no")
    assert files.head(path, 2) == b"{\n"
    walked = [(str(p), f, n) for p, f, n in files.walk(folder)]
    assert walked == [(str(folder), ["new folder"], []), (str(path.parent), [], [path.name])]
    with pytest.raises(UserError, match=r"exists already; choose another --out"):
        files.check_free("--out", path)
    for read in (files.read_text, files.read_bytes, files.read_json):
        with pytest.raises(UserError, match=r"^there is no file .*nothing$"):
            read(folder / "nothing")
    files.write_text(path, "{")
    with pytest.raises(UserError, match="is not a JSON file, or was cut short"):
        files.read_json(path)
    other = place(server, "runs/ab")  # not below the one before
    files.write_text(other / "x", "")
    buckets.remove_all(folder)
    assert not folder.exists() and (other / "x").exists()


def test_a_bucket_that_fails_for_a_while(server: Server) -> None:
    """Refused, hung up on, or done without an answer: written whole, once."""
    path = place(server) / "value.json"
    files.write_json(path, 0)
    for number, answer in enumerate([503, 429, 0, 503]):
        left = [answer, answer]
        server.fail = lambda method, name, left=left: left.pop() if left else None
        files.write_json(path, number)
        assert files.read_json(path) == number and not left
    lost = [True, False, True]
    server.lose = lambda method, name: method in ("PUT", "POST") and bool(lost) and lost.pop()
    files.write_json(path, "x")
    assert files.read_json(path) == "x"


def test_it_is_said_what_is_waited_for(
    google: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(buckets, "SAY_SECONDS", 0.05)
    google.fail = lambda method, name: time.sleep(0.2)
    assert not place(google).is_file()
    assert "waiting for gs://shelf/runs/a, 15 minutes at most" in caplog.text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"refuses .*runs/a/x with the credentials of this machine .*; (log in|set AWS)"),
        (403, r"refuses .*runs/a/x with the credentials of this machine"),
        (503, r"does not answer as it should .*; start the same command again when it does"),
    ],
)
def test_a_bucket_that_refuses(server: Server, status: int, said: str) -> None:
    server.fail = lambda method, name: status
    path = place(server) / "x"
    for use in (path.exists, lambda: files.read_text(path), lambda: files.write_text(path, "")):
        with pytest.raises(UserError, match=said):
            use()
    with pytest.raises(UserError):  # not taken for an empty folder
        path.parent.is_dir()


def test_no_such_bucket(server: Server) -> None:
    with pytest.raises(UserError, match=r"^(gs|s3)://A cannot be a bucket .*; correct the name"):
        files.read_text(Bucket(server.url.replace("shelf", "A/x")))
    path = paths.expanded(f"{server.url}less/runs/x")
    with pytest.raises(UserError, match=r"there is no bucket (gs|s3)://shelfless; make it"):
        files.write_text(path, "")
    with pytest.raises(UserError, match=r"there is no (bucket|file) (gs|s3)://shelfless"):
        files.read_text(path)


# ---------------------------------------------------------------------------- lines


def test_lines_of_many_writers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is lost and none doubled, though every fifth answer to a write is."""
    monkeypatch.setattr(bucket_lines, "LONG", 300)
    path, counts = place(server) / "evaluations.jsonl", iter(range(10**6))
    # Of every third, one write would now and then lose all its attempts.
    server.lose = lambda method, name: method in ("PUT", "POST") and next(counts) % 5 == 0

    def write(writer: int) -> None:
        for number in range(12):
            files.append_lines(path, [[writer, number], [writer, -number]])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = [json.loads(line) for line in files.lines(path)]
    for writer in range(4):
        own = [number for who, number in read if who == writer]
        assert own == [sign * number for number in range(12) for sign in (1, -1)]
    assert len(server.names("runs/a/evaluations.jsonl")) > 2  # objects
    some, end = files.lines_after(path, 0)
    assert files.lines_after(path, end) == ([], end)
    before = len(server.requests)
    assert files.lines_after(path, end) == ([], end)
    assert len(server.requests) - before <= 2  # what is long and was read is not read again
    files.append_lines(path, ["last"])
    assert files.lines_after(path, end)[0] == ['"last"']
    assert [line.rstrip("\n") for line in files.text_lines(path)] == [*some, '"last"']
    server.objects.clear()  # somebody removes the run
    files.append_lines(path, ["first"])
    assert files.lines(path) == ['"first"']


def test_lines_are_taken_out_though_killed(google: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_lines, "LONG", 100)
    for moment in range(20):
        path = place(google, f"runs/{moment}") / "metrics.jsonl"
        for number in range(30):
            files.append_lines(path, [{"step": number}])
        left = [None] * moment
        google.fail = lambda method, name, left=left: left.pop() if left else 403
        try:
            files.keep_lines(path, lambda line: json.loads(line)["step"] <= 7)
            whole = True
        except UserError:
            whole = False
        google.fail = lambda method, name: None
        files.keep_lines(path, lambda line: json.loads(line)["step"] <= 7)
        files.append_lines(path, [{"step": 8}])
        assert [json.loads(line)["step"] for line in files.lines(path)] == list(range(9))
        if whole:
            return
    raise AssertionError("it was never finished")


def test_one_after_the_other(google: Server) -> None:
    folder = place(google)
    files.write_json(folder / "n.json", 0)

    def add() -> None:
        for _ in range(5):
            with files.alone(folder):
                files.write_json(folder / "n.json", files.read_json(folder / "n.json") + 1)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.read_json(folder / "n.json") == 15
    assert google.names() == ["runs/a/n.json"]


def test_nobody_is_kept_out_by_the_dead(google: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "ALONE_SECONDS", 0.5)
    buckets.write(place(google) / ".alone", b"of a dead process")
    start = time.monotonic()
    with files.alone(place(google)):
        assert time.monotonic() - start >= 0.5


# ---------------------------------------------------------------------------- the lock


def signed(folder: Bucket) -> dict:
    return files.read_json(folder / lock.FILE)


def of_another(folder: Bucket, *, age: float = 0.0, **fields: object) -> None:
    """Signs the lock as another process."""
    holder = {"host": "elsewhere", "pid": 1, "started": "then", "token": "t"}
    files.write_json(folder / lock.FILE, {**holder, "time": time.time() - age, **fields})


def test_one_writer(server: Server) -> None:
    folder = place(server)
    with lock.held(folder):
        assert signed(folder)["pid"] == os.getpid()
        with pytest.raises(UserError, match=rf"is being written by process {os.getpid()} on .*, s"):
            with lock.held(folder):
                pass
    assert signed(folder) == {}
    with lock.held(folder):
        pass


def test_one_of_many_gets_it(server: Server) -> None:
    folder, got, errors = place(server), [], []
    together, done = threading.Barrier(6), threading.Event()

    def take() -> None:
        together.wait()
        try:
            with lock.held(folder):
                got.append(1)
                done.wait()
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(got) + len(errors) < 6:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_the_dead_hold_nothing(google: Server) -> None:
    folder = place(google)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    # A container of the same name that was started again has the same numbers, too.
    for pid in (dead.pid, os.getpid()):
        of_another(folder, host=socket.gethostname(), pid=pid)
        with lock.held(folder):
            assert signed(folder)["pid"] == os.getpid()
    of_another(folder, age=lock.SKEW_SECONDS + 1)
    with lock.held(folder):
        assert signed(folder)["host"] == socket.gethostname()


def test_another_host(
    google: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "STALE_SECONDS", 1.0)
    folder = place(google)
    of_another(folder, age=-500.0)  # its clock is ahead
    with lock.held(folder):
        assert "waiting 1 s at most for a sign of its life" in capsys.readouterr().err
    of_another(folder)
    alive = threading.Timer(0.3, of_another, [folder])
    alive.start()
    with pytest.raises(UserError, match=r"being written by process 1 on elsewhere, since then"):
        with lock.held(folder):
            pass
    alive.join()


def test_signs_of_life_and_who_lost_the_lock(
    google: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    left: list[int] = []
    monkeypatch.setattr(stopping, "leave", left.append)
    folder = place(google)
    with lock.held(folder):
        first = signed(folder)["time"]
        google.fail = lambda method, name: 503  # for a while, which is no reason to end
        time.sleep(0.3)
        google.fail = lambda method, name: None
        while signed(folder)["time"] == first:
            time.sleep(0.01)
        assert not left
        of_another(folder)
        while not left:
            time.sleep(0.01)
        assert left[0] == 2
        assert "was taken over by process 1 on elsewhere" in capsys.readouterr().err
    assert signed(folder)["pid"] == 1  # it is the other's


# ---------------------------------------------------------------------------- folders


def test_a_folder_appears_as_a_whole(google: Server) -> None:
    folder = place(google, "networks/x")
    for moment in range(20):
        left = [None] * moment

        def fail(method: str, name: str, left: list = left) -> int | None:
            if name.startswith("networks"):
                return left.pop() if left else 403
            return None

        assert whole_folder.is_free(folder)
        google.fail = fail
        try:
            with whole_folder.unfinished(folder) as path:
                files.write_text(path / "network.json", "{}")
                files.write_text(path / "weights" / "d" / "0", str(moment))
        except UserError:
            google.fail = lambda method, name: None
            if (folder / "network.json").exists():
                assert (folder / "weights" / "d" / "0").exists()
            continue
        google.fail = lambda method, name: None
        assert not whole_folder.is_free(folder)
        assert buckets.below(folder) == ["network.json", "weights/d/0"]
        assert moment > 3
        return
    raise AssertionError("it was never finished")


def test_local_copies(
    server: Server, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    local_copy._folder.cache_clear()
    folder = place(server, "data/x")
    for name in ("a", "b/c", "b/d"):
        files.write_text(folder / name, name)
    copy = local_copy.local(folder)
    assert copy.name == "x" and files.read_text(copy / "b" / "c") == "b/c"
    assert local_copy.local(folder / "a").read_text("utf-8") == "a"
    assert local_copy.local(tmp_path) == tmp_path
    files.write_text(folder / "a", "changed")
    buckets.remove(folder / "b" / "d")
    (copy / "b" / "c").unlink()
    assert local_copy.local(folder) == copy
    read = {p.name: p.read_text("utf-8") for p in copy.rglob("*") if p.is_file()}
    assert read == {"a": "changed", "c": "b/c"}
    stamps = {p: p.stat().st_mtime_ns for p in copy.rglob("*")}
    local_copy.local(folder)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*")} == stamps  # nothing was copied
    with pytest.raises(UserError, match=r"there is no file or folder .*nothing"):
        local_copy.local(folder / "nothing")
    server.objects["data/x/../../out"] = (b"", 1)
    if server.url == "gs://shelf":  # TensorStore takes such a name for another in S3
        with pytest.raises(UserError, match=r"which is no name for a file"):
            local_copy.local(folder)
    local_copy._folder.cache_clear()
