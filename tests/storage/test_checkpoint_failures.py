"""Checkpoints on unusual folders, disks and machines: nothing is lost, and nothing is silent."""

import errno
import grp
import json
import os
import pathlib
import pwd
import re
import resource
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from supernet_jax.errors import UserError
from supernet_jax.storage import checkpoint, chunked_arrays, failures, paths, record
from supernet_jax.storage.checkpoint import Checkpoints


def state(seed: int = 0, size: int = 100) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=(size, 200)), jnp.float32)  # several chunks
    return {"params": {"w": weights, "b": jnp.ones(3)}, "key": jax.random.key(seed)}


def target() -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state())


def all_of_it(folder: pathlib.Path) -> None:
    """Everything that can be done with checkpoints, in a folder."""
    run, tree = folder / "checkpoints", {"w": state(5)["params"]["w"]}
    for steps in ((1, 2), (3, 4, 5)):
        with Checkpoints(run) as checkpoints:
            for step in steps:
                checkpoints.save(step, state(step), {"step": step})
    assert checkpoint.steps(run) == (3, 4, 5)
    restored = checkpoint.restore(run, target())
    np.testing.assert_array_equal(restored["params"]["w"], state(5)["params"]["w"])
    part = chunked_arrays.Box((0, 0), (2, 3))
    read = checkpoint.read_slices(run, {"w": part, "b": None}, step=4)
    np.testing.assert_array_equal(read["w"], state(4)["params"]["w"][:2, :3])
    assert checkpoint.read_meta(run, step=3) == {"step": 3}
    checkpoint.write_tree(folder / "weights", tree)
    np.testing.assert_array_equal(checkpoint.read_tree(folder / "weights")["w"], tree["w"])
    with Checkpoints(run) as checkpoints:
        checkpoints.rewind(3)
    assert checkpoint.steps(run) == (3,)


@pytest.mark.parametrize("name", ["e[1]", "[!a] *? 50%25 #1 'ü'", "~"])
def test_folders_of_any_name(tmp_path: pathlib.Path, name: str) -> None:
    all_of_it(tmp_path / name / "run")


def test_a_way_back_over_a_link(tmp_path: pathlib.Path) -> None:
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    all_of_it(tmp_path / "link" / ".." / "run")
    assert (tmp_path / "far" / "run" / "weights").is_dir()


@pytest.mark.parametrize("name", ["a\\b", os.fsdecode(b"a\xff")])
def test_names_that_no_array_store_takes(tmp_path: pathlib.Path, name: str) -> None:
    for write in (Checkpoints, lambda folder: checkpoint.write_tree(folder, state())):
        with pytest.raises(UserError, match=r"arrays.*; choose another"):
            write(tmp_path / name / "run")
    assert list(tmp_path.iterdir()) == []


def test_owners_without_a_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(grp, "getgrgid", unknown)
    all_of_it(tmp_path)


def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("~/run", "~nobody-of-this-name/run"):
        with pytest.raises(UserError, match=r"^~.*not known which.*; give the whole path$"):
            checkpoint.steps(name)
    assert str(paths.absolute("/a/~")) == "/a/~"


@pytest.mark.parametrize("name", ["/s3/run", "/gs/run", "/hf/run", "/az"])
def test_folders_that_are_called_like_buckets(name: str) -> None:
    assert str(paths.absolute(name)) == name
    assert not paths.absolute(name).exists()
    if name[1:3] in ("gs", "s3"):
        assert str(paths.absolute(f"{name[1:3]}://bucket/run")) == f"{name[1:3]}://bucket/run"


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of at most 20 kB, as on a disk that is full: the write of a larger one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, old)


def waiting() -> list[threading.Thread]:
    """Threads of a save that have not ended after a while."""
    threads = [t for t in threading.enumerate() if "Signaling" in type(t).__name__]
    for thread in threads:
        threading.Thread.join(thread, 5)
    return [thread for thread in threads if thread.is_alive()]


def test_no_room_for_a_save(tmp_path: pathlib.Path, small_files: None) -> None:
    full = r"^cannot write \S+run \(.*File too large.*\); a file may not be as large there; choose"
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(1, state(size=2), {}, wait=True)
        for _ in range(2):
            with pytest.raises(UserError, match=full) as caught:
                checkpoints.save(2, state(), {}, wait=True)
            assert "\n" not in str(caught.value)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["1"]
        checkpoints.save(2, state(size=2), {})  # there is room again
    assert checkpoint.steps(tmp_path / "run") == (1, 2)
    with pytest.raises(UserError, match=r"cannot write \S+tree "):
        checkpoint.write_tree(tmp_path / "tree", state())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert waiting() == []


def test_a_save_that_cannot_make_its_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.makedirs

    def refused(path: Any, *args: Any, **how: Any) -> None:
        if checkpoint.UNFINISHED in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        make(path, *args, **how)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {}, wait=True)
        monkeypatch.setattr(os, "makedirs", refused)
        with pytest.raises(UserError, match=r"Permission denied.*; this user may not write there"):
            checkpoints.save(2, state(), {}, wait=True)
    assert waiting() == [], "they wait for a folder that nobody makes"
    assert checkpoint.steps(tmp_path) == (1,)


def lose_index(folder: pathlib.Path) -> None:
    (folder / "state" / "manifest.ocdbt").unlink()


def lose_chunk(folder: pathlib.Path) -> None:
    base = {"driver": "file", "path": f"{folder}/state/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store.write(b"params.w/0.0", None).result()


def lose_array(folder: pathlib.Path) -> None:
    base = {"driver": "file", "path": f"{folder}/state/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store.delete_range(tensorstore.KvStore.KeyRange("params.w/", "params.w0")).result()


def change_meta(folder: pathlib.Path) -> None:
    (folder / "meta" / "metadata").write_text("{}", encoding="utf-8")


DAMAGES = {
    "NOT_FOUND|missing": lose_index,
    r"array params\.w has 3 of 4 chunks": lose_chunk,
    r"array params\.w is missing": lose_array,
    "meta is not what was saved": change_meta,
}


@pytest.mark.parametrize("seen", DAMAGES)
def test_a_save_is_read_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """A disk that loses something while it is written."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {"a": 1}, wait=True)
        finish = checkpoints._manager.wait_until_finished

        def lossy() -> None:
            finish()
            if (tmp_path / "2").exists():
                DAMAGES[seen](tmp_path / "2")

        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", lossy)
        advice = rf"; move the folder {tmp_path}/2 aside to go on from step 1$"
        with pytest.raises(UserError, match=f"step 2 in .* is damaged .*({seen}).*{advice}"):
            checkpoints.save(2, state(), {"a": 1}, wait=True)
        monkeypatch.undo()
    assert not (tmp_path / "2" / record.NAME).exists()


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"w": jnp.ones((2, 3)), "more": jnp.ones(1)}, "array more is missing"),
        ({}, "array w is none of those saved"),
        ({"w": jnp.ones((2, 4))}, r"array w is float32\[2, 3\]"),
        ({"w": jnp.ones((2, 3), jnp.bfloat16)}, r"array w is float32\[2, 3\]"),
    ],
)
def test_arrays_that_are_not_those_saved(tmp_path: pathlib.Path, given: Any, seen: str) -> None:
    checkpoint.write_tree(tmp_path / "w", {"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=seen):
        chunked_arrays.check(paths.absolute(tmp_path / "w"), chunked_arrays.stored(given))


def test_meta_is_json_as_any_reader_takes_it(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {"nan": float("nan"), "ü": [1, (2, 3)]})
    content = (tmp_path / "1" / "meta" / "metadata").read_text(encoding="utf-8")

    def refuse(word: str) -> NoReturn:
        raise ValueError(word)

    assert json.loads(content, parse_constant=refuse) == {"nan": None, "ü": [1, [2, 3]]}


REASONS = {
    "not readable by this user": [
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError(
            "PERMISSION_DENIED: Error reading [a='b']: Permission denied [source locations='x' y]"
        ),
    ],
    r"could not be read .*it may well be whole": [
        OSError(errno.EIO, "Input/output error"),
        ValueError("UNAVAILABLE: Error reading: Stale file handle"),
        ValueError("RESOURCE_EXHAUSTED: Failed to open: Too many open files"),
    ],
    r"damaged .*; keep it": [
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        KeyError("getpwuid(): uid not found: 12345"),
        ValueError("DATA_LOSS: Error decoding"),
    ],
}


@pytest.mark.parametrize("said", REASONS)
def test_why_it_cannot_be_read(said: str) -> None:
    for error in REASONS[said]:
        outer = ValueError("from Orbax")
        outer.__cause__ = error
        for raised in (error, outer):
            text = str(failures.reading("the checkpoint", raised, "keep it"))
            assert re.match(f"the checkpoint (is )?{said}", text) and "\n" not in text
            assert not any(word in text for word in ("remove", "delete"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_memory_is_not_the_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {})

    def out(*_: Any, **__: Any) -> NoReturn:
        raise ValueError("from Orbax") from error

    monkeypatch.setattr(checkpoint, "_read", out)
    with pytest.raises(type(error)) as caught:
        checkpoint.restore(tmp_path, target())
    assert caught.value is error
    with pytest.raises(type(error)), failures.writing(tmp_path):
        raise error


def test_a_note_that_is_cut_short(tmp_path: pathlib.Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {})
    for content in ('{"a"', "[]", '{"a": "b"}', ""):
        (tmp_path / "1" / record.NAME).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=rf"1/{record.NAME} does not hold .*; move it aside"):
            checkpoint.restore_params(tmp_path)
    (tmp_path / "1" / record.NAME).unlink()
    checkpoint.restore_params(tmp_path)


def test_a_folder_that_may_not_be_looked_into(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: paths.Local) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(paths.Local, "stat", refused)
    for read in (checkpoint.steps, checkpoint.restore_params, checkpoint.read_meta):
        with pytest.raises(UserError, match=r"not readable by this user .*ask its owner"):
            read(tmp_path)
