"""The cache of compiled programs on disk: where it lies, and that it is never in the way."""

import errno
import os
import pathlib
import pwd
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from supernet_jax.evaluation import evaluate
from supernet_jax.experiment import build
from supernet_jax.runtime import cache
from supernet_jax.training import loop

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
Capture = pytest.CaptureFixture[str]
FIRST = """
import jax
jax.jit(lambda x: x * 2)(1.0)  # JAX has run before
from supernet_jax.runtime import cache
cache.enable()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.jit(lambda x: x * 3 + 1)(1.0)
print(jax.config.jax_compilation_cache_dir, "/jax/compilation_cache/cache_hits" in hits)
"""


@pytest.fixture
def fresh() -> Iterator[Any]:
    """A process that has not turned the cache on; JAX's settings are put back."""
    config: Any = jax.config
    before = {name: getattr(config, name) for name in NAMES}
    cache.enable.cache_clear()
    config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield config
    for name, value in before.items():
        config.update(name, value)
    cache.enable.cache_clear()


def test_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for named in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert cache.cache_folder() == pathlib.Path("/home/somebody/.cache/supernet_jax")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user without a name
    assert cache.cache_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.cache_folder() == pathlib.Path("/caches/supernet_jax")


def test_found_by_another_process(tmp_path: pathlib.Path) -> None:
    surroundings = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    surroundings |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    surroundings.pop("JAX_COMPILATION_CACHE_DIR", None)
    for found in ("False", "True"):
        command = [sys.executable, "-c", FIRST]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(tmp_path / "supernet_jax" / "compiled"), found]
        assert done.stderr == ""
    kept = {path.name.rpartition("-")[2] for path in (tmp_path / "supernet_jax").glob("*/*")}
    assert kept - {"atime"} == {"cache"}  # JAX's own files and no others


def test_a_users_own_folder(fresh: Any, tmp_path: pathlib.Path) -> None:
    fresh.update("jax_compilation_cache_dir", str(tmp_path))
    fresh.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    cache.enable()
    assert fresh.jax_compilation_cache_dir == str(tmp_path)
    assert fresh.jax_persistent_cache_min_compile_time_secs == 1.0
    fresh.update("jax_compilation_cache_dir", None)  # switched off again, by the user
    cache.enable()
    assert fresh.jax_compilation_cache_dir is None


def test_switched_off(fresh: Any, capsys: Capture) -> None:
    before = fresh.jax_enable_compilation_cache
    fresh.update("jax_enable_compilation_cache", False)
    cache.enable()
    fresh.update("jax_enable_compilation_cache", before)
    assert fresh.jax_compilation_cache_dir is None and capsys.readouterr().err == ""


@pytest.mark.parametrize("home", ["read-only", "a file", "not known"])
def test_a_home_that_cannot_be_written(
    home: str, fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home == "read-only":
        tmp_path.chmod(0o555)  # which the superuser may write all the same
        home = "/sys" if os.access(tmp_path, os.W_OK) else str(tmp_path)
        monkeypatch.setenv("HOME", home)
        why = r"cannot be written \((Permission denied|Operation not permitted|Read-only .*)\)"
    elif home == "a file":
        (tmp_path / "file").write_text("in the way", encoding="utf-8")
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        why = r"cannot be written \(Not a directory\)"
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user without a name
        why = "HOME is not set"
    cache.enable()
    cache.enable()
    said = capsys.readouterr().err
    assert re.fullmatch(rf"supernet: .* not kept.*: .*{why}; .* XDG_CACHE_HOME\n", said)
    assert fresh.jax_compilation_cache_dir is None
    assert jax.jit(lambda x: x * 5 + 2)(1.0) == 7


def test_a_folder_that_can_only_be_read(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(**_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "supernet_jax" / "compiled"
    folder.mkdir(parents=True)
    cache.enable()
    assert f"{folder} cannot be written (Read-only file system)" in capsys.readouterr().err
    assert fresh.jax_compilation_cache_dir == str(folder)  # what is in it is used
    # JAX says so of each program.
    warnings.simplefilter("error", append=True)
    warnings.warn("Error writing persistent compilation cache entry for 'f': x", stacklevel=1)
    with pytest.raises(UserWarning, match="else"):
        warnings.warn("something else", stacklevel=1)


def test_where_building_training_and_evaluation_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    class EnabledError(Exception):
        pass

    def enable() -> None:
        raise EnabledError

    monkeypatch.setattr(cache, "enable", enable)
    nothing: Any = None
    images = np.zeros((1, 1, 1, 1, 1), np.uint8)
    parts = evaluate.EvaluationData(
        images, images, np.zeros((1, 1), np.int32), np.ones((1, 1), bool)
    )
    for begin in (
        lambda: build.build(nothing),
        lambda: loop.fit(nothing),
        lambda: next(evaluate.evaluate(nothing, nothing, nothing, parts)),
    ):
        with pytest.raises(EnabledError):
            begin()
