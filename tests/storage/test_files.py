"""Small files: whole or not at all, by many writers, strict JSON, and words that fit a failure."""

import errno
import itertools
import json
import os
import pathlib
import sys
import threading
from typing import Any

import numpy as np
import pytest

from supernet_jax.errors import UserError
from supernet_jax.storage import arrays, files


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


# Cut off between opening and entering the block, the file is closed when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_signal_at_any_moment_leaves_no_temporary_file(tmp_path: pathlib.Path) -> None:
    """Thrown in at every line that runs, one after the other."""
    path = tmp_path / "value.json"
    files.write_json(path, 0)
    for moment in itertools.count(1):
        lines = 0

        def at_line(frame: Any, event: str, argument: Any, moment: int = moment) -> Any:
            nonlocal lines
            lines += event == "line" and frame.f_code is files.write_bytes.__code__
            if lines == moment:
                sys.settrace(None)
                raise KeyboardInterrupt
            return at_line

        before = sys.gettrace()
        sys.settrace(at_line)
        try:
            files.write_json(path, moment)
            break
        except KeyboardInterrupt:
            assert files.read_json(path) in (0, moment)
            assert [p.name for p in tmp_path.iterdir()] == ["value.json"], moment
        finally:
            sys.settrace(before)
    assert moment > 8


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
    workers = [threading.Thread(target=_appends, args=(path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [json.loads(line) for line in files.lines(path)]
    assert found[0] == {"who": 9}
    for who in range(3):
        assert [v["i"] for v in found[1:] if v["who"] == who] == list(range(200))
    assert len(found) == 601


def test_only_what_is_new_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert files.lines_after(path, 0) == ([], 0)
    files.append_lines(path, ["a", "Ü"])
    first, end = files.lines_after(path, 0)
    assert first == ['"a"', '"\\u00dc"'] and end == path.stat().st_size
    assert files.lines_after(path, end) == ([], end)
    with path.open("ab") as file:
        file.write(b'"cut')
    assert files.lines_after(path, end) == ([], end)  # not before it is whole
    files.append_lines(path, [1])
    assert files.lines_after(path, end) == (["1"], path.stat().st_size)


def test_one_at_a_time(tmp_path: pathlib.Path) -> None:
    """A second one waits until the first is done."""
    order = []

    def second() -> None:
        with files.alone(tmp_path):
            order.append("second")

    with files.alone(tmp_path / "nowhere"), files.alone(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_may_be_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode, **_: asked.append((path, mode)) or True)
    (tmp_path / "file").touch()
    for name in ("file", "new", "far/away/new"):
        assert files.is_writable(tmp_path / name)
    folder = (tmp_path, os.W_OK | os.X_OK)
    assert asked == [(tmp_path / "file", os.W_OK), folder, folder]


def test_arrays(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, how = tmp_path / "new" / "a.npz", {"kind": "book", "damaged": "write another"}
    arrays.write(path, {"a": np.arange(3), ".state.b": np.ones((2, 2), bool)})
    found = arrays.read(path, **how)
    assert found.keys() == {"a", ".state.b"} and found["a"].tolist() == [0, 1, 2]
    good = path.read_bytes()
    for content in (b"", good[:50], good[:-9], b"PK\x03\x04", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cut short.*; write another$"):
            arrays.read(path, **how)
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        arrays.read(path, **how)
    with pytest.raises(UserError, match="there is no file"):
        arrays.read(tmp_path / "b.npz", **how)
    path.write_bytes(good)

    def fsync(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(UserError, match="free space there"):
        arrays.write(path, {"a": np.zeros(9)})
    assert path.read_bytes() == good and len(list(path.parent.iterdir())) == 1


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
