"""Descriptions kept on disk are those that would be found again, and only the package's own."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import pytest
from tiny_space import tiny

from supernet_jax.elastic import space as elastic_space
from supernet_jax.nn import block_shapes
from supernet_jax.nn.blocks import mobilenet
from supernet_jax.runtime import disk_cache


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[[], None]:
    """Forgets what is in memory; on disk is what the test has put there."""
    monkeypatch.setattr(disk_cache, "_file", lambda: tmp_path / "folder" / "kept.jsonl")

    def forget() -> None:
        disk_cache._values.cache_clear()
        block_shapes._described_before.clear()
        block_shapes._known.cache_clear()

    forget()
    return forget


def image(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, "float32")


def described() -> list[block_shapes.BlockShapes]:
    """All specs of a space."""
    space, found = tiny.__wrapped__(), []  # a new one, for which nothing is known
    for name, place in elastic_space.geometry(space, 8).items():
        block = space.blocks[name]
        for spec in block.specs:
            channels = block.channels(spec)
            own = [image(*x.shape[:-1], c) for x, c in zip(place.inputs, channels, strict=True)]
            found.append(block_shapes.describe(block.module, spec, tuple(own)))
    return found


def test_recalled_without_tracing(
    another_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = described()
    another_process()
    monkeypatch.setattr(block_shapes, "_described", None)  # not callable
    again = described()
    assert again == first
    assert [list(a.positions) for a in again] == [list(b.positions) for b in first]
    # Equal to a jit cache, too.
    assert jax.tree.map(hash, [a.output for a in again]) == jax.tree.map(
        hash, [b.output for b in first]
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the module below."""

    c: int


class Mine(nn.Module):
    """A user's block: its name says nothing of what is in it."""

    spec: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(self.spec.c)(x)


def test_only_the_packages_own(another_process: Callable[[], None]) -> None:
    block_shapes.describe(Mine, Sizes(3), (image(1, 4),))
    assert not disk_cache._file().exists()  # type: ignore[union-attr]
    spec, inputs = mobilenet.StemSpec(3, 4, 1), (image(1, 8, 8, 3),)
    block_shapes.describe(lambda spec: mobilenet.Stem(spec), spec, inputs)  # one of the package's
    block_shapes.describe(mobilenet.Stem, spec, inputs)
    assert len(disk_cache._file().read_text().splitlines()) == 1  # type: ignore[union-attr]


def test_broken_lines_are_as_good_as_none(another_process: Callable[[], None]) -> None:
    disk_cache.keep("whole", [1, {"a": 2}])
    file = disk_cache._file()
    assert file is not None
    with file.open("ab") as lines:
        lines.write(b'5\n[1, 2, 3]\n\xff\xfe\n["cut", [1, 2')  # the last by a process that died
    another_process()
    assert disk_cache.recall("whole") == [1, {"a": 2}]
    assert disk_cache.recall("cut") is None
    disk_cache.keep("cut", 7)
    disk_cache.keep("next", 8)
    another_process()
    # What that process left of its line does not spoil the next one.
    assert disk_cache.recall("cut") == 7 and disk_cache.recall("next") == 8


def test_two_processes_add_to_one_file(another_process: Callable[[], None]) -> None:
    disk_cache.keep("a", 1)
    disk_cache._values.cache_clear()
    disk_cache.keep("b", 2)
    file = disk_cache._file()
    assert file is not None
    assert [json.loads(line) for line in file.read_text().splitlines()] == [["a", 1], ["b", 2]]


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    try:
        for folder in (None, "gs://bucket/cache"):
            jax.config.update("jax_compilation_cache_dir", folder)
            disk_cache.keep("a", 1)
            assert disk_cache.recall("a") is None
    finally:
        jax.config.update("jax_compilation_cache_dir", kept)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(disk_cache, "_file", lambda: tmp_path / "file" / "kept.jsonl")
    disk_cache.keep("a", 1)  # cannot be written; in this process it is there
    assert disk_cache.recall("a") == 1
    monkeypatch.setattr(disk_cache, "_file", lambda: tmp_path)  # a folder where the file should be
    assert disk_cache.recall("a") is None


def test_leaves_nothing_in_what_is_traced(another_process: Callable[[], None]) -> None:
    # Or else a program on disk would be another one for a process that remembers.
    def traced(x: Any) -> Any:
        described()
        return x

    assert not jax.make_jaxpr(traced)(1.0).eqns
    file = disk_cache._file()
    assert file is not None and file.exists()
