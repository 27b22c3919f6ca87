"""Small files: whole or not at all, by many writers, strict JSON, and words that fit a failure."""

import errno
import json
import multiprocessing
import os
import pathlib

import pytest

from supernet_jax.errors import UserError
from supernet_jax.storage import files


def test_written_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "value.json"
    files.write_json(path, {"a": [1.5, "Übung"]})
    assert files.read_json(path) == {"a": [1.5, "Übung"]}

    def fails(stream) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"No space left.*free space there and start the same"):
        files.write_bytes(path, fails)
    assert files.read_json(path) == {"a": [1.5, "Übung"]}
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]  # no temporary file stays


def test_strict_json() -> None:
    value = {
        "nan": float("nan"),
        "list": (float("inf"), 1),
        "lone": "\udcff",
        "deep": {"x": -1e999},
    }
    text = files.dumps(value)
    assert text.isascii()
    assert json.loads(text) == {
        "nan": None,
        "list": [None, 1],
        "lone": "\udcff",
        "deep": {"x": None},
    }


def _appends(path: pathlib.Path, who: int) -> None:
    for i in range(200):
        files.append_lines(path, [{"who": who, "i": i, "long": "x" * 5000}])


def test_many_append(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"who": 9}\n{"cut', encoding="utf-8")
    assert files.lines(path) == ['{"who": 9}']
    assert path.read_text("utf-8").endswith("cut")  # readers never write
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_appends, args=(path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [json.loads(line) for line in files.lines(path)]
    assert found[0] == {"who": 9}
    for who in range(3):
        assert [v["i"] for v in found[1:] if v["who"] == who] == list(range(200))
    assert len(found) == 601


def test_a_full_disk_leaves_no_half_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines.jsonl"
    files.append_lines(path, [1])
    write = os.write

    def full(number: int, content: bytes) -> int:
        if len(content) <= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, content[:5])

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(UserError, match="free space there"):
        files.append_lines(path, ["a long line"])
    assert files.lines(path) == ["1"]
    assert path.read_bytes() == b"1\n"


def test_which_of_all_reasons_it_is(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(UserError, match="there is no file"):
        files.read_json(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="is empty, so it was cut short"):
        files.read_json(path)
    path.write_text('{"a": [1, 2', encoding="utf-8")
    with pytest.raises(UserError, match="not a JSON file, or was cut short"):
        files.read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match="not a JSON file, or was cut short"):
        files.read_json(path)
    with pytest.raises(UserError, match="is a folder"):
        files.read_json(tmp_path)
    denied = PermissionError(errno.EACCES, "Permission denied")
    said = str(files.unreadable(path, denied))
    assert "not readable by this user" in said and "remove" not in said and "delete" not in said
