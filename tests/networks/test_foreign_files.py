"""Files that others wrote: what is read of them, and all that is refused without running it."""

import json
import os
import pathlib
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors

from supernet_jax.errors import UserError
from supernet_jax.networks.importers import weight_files
from supernet_jax.storage import safetensors_file

F = np.float32


def test_prefixes_and_nesting_of_training_scripts(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
    rng = np.random.default_rng(0)
    file = {"stem.weight": F(rng.normal(size=(4, 3))), "stem.count": np.array(7), "bias": F([0.5])}
    state = {f"module.{name}": torch.tensor(array) for name, array in file.items()}
    saved = {"plain": state, "nested": {"epoch": 3, "model": {"state_dict": state}}}
    for name, value in saved.items():
        torch.save(value, tmp_path / f"{name}.pth.tar")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    torch.save(half, tmp_path / "half.bin")
    safetensors_file.write(tmp_path / "x.safetensors", {f"module.{n}": a for n, a in file.items()})
    for path in tmp_path.iterdir():
        found = weight_files.read(path)
        assert found.keys() == file.keys()
        tolerance = 4e-3 if path.stem == "half" else 0
        for name in file:
            np.testing.assert_allclose(found[name], file[name], rtol=0, atol=tolerance)


class Evil:
    """What runs a command where a pickle is trusted."""

    def __reduce__(self) -> Any:
        return os.mkdir, (f"{os.environ['EVIL']}/executed",)


def header(entries: Any, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[Any], end: int, kind: str = "F32", start: int = 0) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def torch_file(value: Callable[[Any], Any]) -> Callable[[pathlib.Path], Any]:
    def write(path: pathlib.Path) -> None:
        torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
        torch.save(value(torch), path)

    return write


def compressed(path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
    torch.save({"w": torch.zeros(100_000)}, path.with_suffix(".tmp"))
    with zipfile.ZipFile(path.with_suffix(".tmp")) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    path.with_suffix(".tmp").unlink()


def cut_off(path: pathlib.Path) -> None:
    torch_file(lambda torch: {"w": torch.zeros(1000)})(path)
    path.write_bytes(path.read_bytes()[:1500])


def arrays(**values: Any) -> Callable[[pathlib.Path], Any]:
    return lambda path: safetensors_file.write(path, {n: np.asarray(v) for n, v in values.items()})


def whole(content: bytes) -> Callable[[pathlib.Path], Any]:
    return lambda path: path.write_bytes(content)


WRONG_FILES: dict[str, tuple[str, Callable[[pathlib.Path], Any], str]] = {
    "nothing there": ("x.safetensors", lambda path: None, "there is no file"),
    "a folder": ("x.safetensors", lambda path: path.mkdir(), "is a folder; give the file"),
    "another suffix": ("x.npz", whole(b""), "ends with '.npz'; allowed are .safetensors"),
    "empty": ("x.safetensors", whole(b""), "is empty, so it was cut short (it has 0 bytes"),
    "empty, PyTorch's": ("x.pt", whole(b""), "is empty, so it was cut short"),
    "a link in a circle": ("x.pt", lambda path: path.symlink_to(path), "there is no file"),
    "no tensors": ("x.safetensors", whole(header({})), "holds no tensors"),
    "pickle as safetensors": ("x.safetensors", whole(pickle.dumps({"w": 1})), "a Python pickle"),
    "zip as safetensors": ("x.safetensors", torch_file(lambda t: {"w": t.ones(2)}), "zip archive"),
    "git lfs": ("x.safetensors", whole(b"version https://git-lfs.github.com"), "Git LFS"),
    "huge header": ("x.safetensors", whole((2**60).to_bytes(8, "little")), "header too large"),
    "header cut off": (
        "x.safetensors",
        whole(header({"w": entry([1], 4)})[:20]),
        "invalid header length",
    ),
    "not JSON": ("x.safetensors", whole(header(b"{'w': 1}")), "invalid JSON"),
    "deep JSON": ("x.safetensors", whole(header(b"[" * 100_000)), "invalid JSON"),
    "not UTF-8": ("x.safetensors", whole(header(b'{"\xff": 1}')), "invalid UTF-8"),
    "JSON list": ("x.safetensors", whole(header([1])), "invalid JSON"),
    "field twice": (
        "x.safetensors",
        whole(header(b'{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}')),
        "duplicate field `dtype`",
    ),
    "fields missing": (
        "x.safetensors",
        whole(header({"w": {"dtype": "F32"}})),
        "missing field `shape`",
    ),
    "no type": (
        "x.safetensors",
        whole(header({"w": entry([1], 4, "F\x1b[2J")}, b"1234")),
        "unknown variant",
    ),
    "tensor bomb": (
        "x.safetensors",
        whole(header({"w": entry([2**40] * 3, 4)}, b"1234")),
        "overflow computing buffer size",
    ),
    "many digits": (
        "x.safetensors",
        whole(header(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}')),
        "number out of range",
    ),
    "negative size": (
        "x.safetensors",
        whole(header({"w": entry([-1], 4)}, b"1234")),
        "integer `-1`",
    ),
    "size is text": (
        "x.safetensors",
        whole(header({"w": entry(["1"], 4)}, b"1234")),
        "invalid type",
    ),
    "data cut off": (
        "x.safetensors",
        whole(header({"w": entry([2], 8)}, b"1234")),
        "not fully covered",
    ),
    "data left over": (
        "x.safetensors",
        whole(header({"w": entry([1], 4)}, b"12345")),
        "not fully covered",
    ),
    "overlapping": (
        "x.safetensors",
        whole(header({"v": entry([1], 4), "w": entry([1], 4)}, b"12345678")),
        "not a whole safetensors file",
    ),
    "path in a name": ("x.safetensors", arrays(**{"a/b": F([1.0])}), "no slashes"),
    "nan": ("x.safetensors", arrays(v=F([1.0]), w=F([1, np.nan, np.inf])), "2 of 3 numbers of w"),
    "nan in half": ("x.safetensors", arrays(w=np.float16([np.inf])), "1 of 1 numbers of w"),
    "text as torch": ("x.pth", whole(b"not a checkpoint at all"), "cannot be read as PyTorch's"),
    "empty torch": ("x.pth", whole(b""), "cannot be read as PyTorch's"),
    "torch cut off": ("x.pth", cut_off, "cannot be read as PyTorch's"),
    "code in torch": ("x.pth", torch_file(lambda t: {"w": t.ones(1), "x": Evil()}), "may run code"),
    "code in a pickle": (
        "x.pt",
        lambda path: path.write_bytes(pickle.dumps(Evil())),
        "may run code",
    ),
    "compressed torch": ("x.pth", compressed, "compressed, which PyTorch never does"),
    "torch view": (
        "x.pth",
        torch_file(lambda t: {"w": t.ones(1).expand(2**20, 2**20)}),
        "w has the shape [1048576, 1048576], more than the numbers it has",
    ),
    "sparse torch": ("x.pth", torch_file(lambda t: {"w": t.eye(3).to_sparse()}), "torch.sparse"),
    "torch list": ("x.pth", torch_file(lambda t: [t.ones(1)]), "holds a list, not tensors by name"),
    "no tensor": ("x.pth", torch_file(lambda t: {"w": t.ones(1), "epoch": 3}), "'epoch', a int"),
    "torch nan": ("x.pth", torch_file(lambda t: {"w": t.tensor([np.nan])}), "1 of 1 numbers of w"),
    "torch name": ("x.pth", torch_file(lambda t: {"w\n": t.ones(1)}), r"named 'w\n'"),
}


# What the library `safetensors` alone would take.
TAKEN_BY_THE_LIBRARY: dict[str, tuple[bytes, str]] = {
    "path upwards": (header({"../w": entry([1], 4)}, b"1234"), "named '../w'"),
    "absolute path": (header({"/etc/w": entry([1], 4)}, b"1234"), "named '/etc/w'"),
    "backslash": (header({"a\\w": entry([1], 4)}, b"1234"), r"named 'a\\w'"),
    "no name": (header({"": entry([1], 4)}, b"1234"), "named ''"),
    "control character": (header({"w\x1b[2J": entry([1], 4)}, b"1234"), r"named 'w\x1b[2J'"),
    "endless name": (header({"w" * 513: entry([1], 4)}, b"1234"), "at most 512 characters"),
    "no type of NumPy's": (header({"w": entry([8], 4, "F4")}, b"1234"), "w is of type 'F4'"),
    "complex": (header({"w": entry([1], 8, "C64")}, b"12345678"), "w is of type 'C64'"),
    "many axes": (header({"w": entry([1] * 9, 4)}, b"1234"), "w has 9 axes; at most 8"),
    "nan": (header({"w": entry([1], 4)}, F([np.nan]).tobytes()), "1 of 1 numbers of w"),
}


@pytest.mark.parametrize("case", TAKEN_BY_THE_LIBRARY)
def test_what_the_library_alone_would_take(case: str, tmp_path: pathlib.Path) -> None:
    content, message = TAKEN_BY_THE_LIBRARY[case]
    assert safetensors.deserialize(content)
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError) as told:
        weight_files.read(tmp_path / "x.safetensors")
    assert message in str(told.value) and str(told.value).isprintable()


@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_that_are_refused(
    case: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write, message = WRONG_FILES[case]
    if name.endswith((".pth", ".pt")):
        pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
    monkeypatch.setenv("EVIL", str(tmp_path))
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError) as told:
        weight_files.read(path)
    assert message in str(told.value) and str(path) in str(told.value)
    assert str(told.value).isprintable()  # nothing of the file reaches the terminal as it is
    assert {found.name for found in tmp_path.iterdir()} <= {name}, "something was executed"


def test_without_pytorch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'torch>=2.6', or convert it"):
        weight_files.read(tmp_path / "x.pth")


def test_pytorch_that_runs_code(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pth")
    assert weight_files.read(tmp_path / "x.pth")["w"].tolist() == [1.0]
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(UserError, match="CVE-2025-32434"):
        weight_files.read(tmp_path / "x.pth")


def mutated(original: bytes, rng: random.Random) -> bytes:
    """A file with one thing wrong: a bit, a byte, the end, a piece, or a word of the header."""
    data, length = bytearray(original), int.from_bytes(original[:8], "little")
    in_header, anywhere = rng.randrange(8 + length), rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        data[anywhere] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[in_header] = rng.randrange(256)
    elif kind == 2:
        del data[anywhere:]
    elif kind == 3:
        del data[in_header : in_header + rng.randrange(1, 9)]
    elif kind == 4:
        data[anywhere:anywhere] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 5:
        data[:8] = rng.randrange(2 ** rng.choice([8, 10, 16, 40, 64])).to_bytes(8, "little")
    else:
        words = [
            b"F32",
            b"F64",
            b"I64",
            b"shape",
            b"[2,3]",
            b"[0,24]",
            b'"a"',
            b"}",
            b"[]",
            b"null",
        ]
        old, new = rng.sample(words, 2)
        text = bytes(data[8 : 8 + length]).replace(old, new)
        data[: 8 + length] = len(text).to_bytes(8, "little") + text
    return bytes(data)


def test_two_thousand_mutations_of_a_file(tmp_path: pathlib.Path) -> None:
    """Each is refused, or read as exactly what its header declares."""
    path = tmp_path / "x.safetensors"
    safetensors_file.write(path, {"a": F([[1, 2, 3], [4, 5, 6]]), "b": F([7]), "n": np.arange(3)})
    original, rng, refused, read = path.read_bytes(), random.Random(0), 0, 0
    for _ in range(2000):
        content = mutated(original, rng)
        path.write_bytes(content)
        try:
            found = safetensors_file.read(path)
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        text = content[8 : 8 + int.from_bytes(content[:8], "little")]
        said = json.loads(text)
        said.pop("__metadata__", None)
        assert found.keys() == said.keys()
        total = 0
        for name, array in found.items():
            assert list(array.shape) == said[name]["shape"]
            assert array.dtype == safetensors_file.DTYPES[said[name]["dtype"]]
            total += array.nbytes
        assert total == len(content) - 8 - len(text)
        read += 1
    assert refused > 1000 and read > 100


def test_a_file_that_this_user_may_not_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(b"1234")

        def closed(path: pathlib.Path, *_: object) -> object:  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))

        with monkeypatch.context() as patched, pytest.raises(UserError, match="by this user"):
            patched.setattr(pathlib.Path, "open", closed)
            weight_files.read(tmp_path / name)
