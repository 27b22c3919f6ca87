"""Files that users hand over and that cannot be read: one line says which of all reasons it is."""

import errno
import json
import pathlib
import pwd
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest

from supernet_jax import data
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.networks import network_folder
from supernet_jax.storage import safetensors_file, user_code

READERS: dict[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
    "config file": ("mine.py", config.load_file),
    "user's file": ("mine.py", user_code.run),
    "config.json": ("config.json", config.read),
    "tensors": ("model.safetensors", safetensors_file.read),
}


def said(read: Callable[[pathlib.Path], Any], path: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and str(path.parent) in text
    assert not any(word in text for word in ("remove", "delete"))
    return text


@pytest.mark.parametrize("kind", READERS)
def test_why_a_file_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name, read = READERS[kind]
    path = tmp_path / name
    missing = said(read, path)
    assert "there is no" in missing or "it has no" in missing
    under_a_file = said(read, pathlib.Path(__file__) / name)
    assert "there is no" in under_a_file or "it has no" in under_a_file
    path.mkdir()
    assert "is a folder, not a" in said(read, path)
    path.rmdir()
    path.write_bytes(b"")
    if name != "mine.py":  # an empty Python file is one
        assert "empty" in said(read, path) or "it has 0 bytes" in said(read, path)

    for number, words in (
        (errno.EACCES, "not readable by this user"),
        (errno.EIO, "well be whole"),
    ):
        monkeypatch.setattr(pathlib.Path, "open", refusing(path, number, pathlib.Path.open))
        monkeypatch.setattr(pathlib.Path, "read_bytes", refusing(path, number, None))
        monkeypatch.setattr(pathlib.Path, "read_text", refusing(path, number, None))
        assert words in said(read, path)
        monkeypatch.undo()


def refusing(path: pathlib.Path, number: int, else_: Any) -> Callable[..., Any]:
    def method(self: pathlib.Path, *args: Any, **how: Any) -> Any:
        if self == path or else_ is None:
            raise OSError(number, errno.errorcode[number], str(self))
        return else_(self, *args, **how)

    return method


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"type": "Config"', "cut short"),
        (b'{"type": "\xff"}', "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (json.dumps({config.FILES: [1]}).encode(), "not files by name"),
    ],
)
def test_a_run_that_was_edited(tmp_path: pathlib.Path, content: bytes, words: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert words in said(config.read, tmp_path / "config.json")


def test_errors_of_a_users_file_are_one_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("\n\nraise ValueError('one\\n   two\\n')", encoding="utf-8")
    assert said(user_code.run, path) == f"{path} does not run: ValueError: one two ({path}, line 3)"


def test_the_file_of_a_class_is_gone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    pass\n", encoding="utf-8")
    kind = user_code.run(path).Mine
    assert "sha256" in user_code.named(kind)
    path.unlink()
    with pytest.raises(UserError, match=f"no file {path}"):
        user_code.named(kind)


def test_tensors_are_written_whole_or_not_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "model.safetensors", {"w": np.arange(6.0).reshape(2, 3)}
    safetensors_file.write(path, before)

    def full(number: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space.*; free space there and start"):
        safetensors_file.write(path, {"w": np.zeros(3)})
    monkeypatch.undo()
    np.testing.assert_array_equal(safetensors_file.read(path)["w"], before["w"])
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for use in (
        lambda: config.load_file("~/mine.py"),
        lambda: network_folder.check_free("~/network"),
        lambda: data.load("npz:~/images.npz", held_out=0.1, seed=0),
        lambda: data.load("folder:images", data_dir="~/data", held_out=0.1, seed=0),
        lambda: data.load("tfds:no_such_set", held_out=0.1, seed=0),
        lambda: data.pack("digits", "~/digits.npz"),
    ):
        with pytest.raises(UserError, match=r"^~/.*; give the whole path$"):
            use()


@pytest.mark.parametrize(
    ("imports", "written"),
    [
        ("from supernet_jax.config import Config, Sandwich", "sj.Config, sj.samplers.Sandwich"),
        (
            "from supernet_jax.config import Digits, UnitSum",
            "sj.spaces.Digits, sj.gradients.UnitSum",
        ),
        ("from supernet_jax import strategies", "supernet_jax.elastic.strategies"),
        ("from supernet_jax.choices import Choice", "sj.Choice"),
        ("from supernet_jax.takeout import take_all", "docs/design.md lists what is where"),
    ],
)
def test_a_config_file_of_an_earlier_version(
    tmp_path: pathlib.Path, imports: str, written: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"{imports}\n\nconfig = Config()\n")
    message = said(config.load_file, path)
    assert "does not run" in message and "line 1)" in message
    assert "use `import supernet_jax as sj`" in message and message.endswith(written)


def test_other_failed_imports_are_told_as_they_are(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from supernet_jax import data\nimport nowhere_at_all\n")
    assert "as sj" not in said(config.load_file, path)
