"""Programs are found again by another process, the right ones only, and do the same."""

import functools
import pathlib
import random
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_space import tiny

from supernet_jax.elastic import strategies
from supernet_jax.evaluation import programs
from supernet_jax.experiment.build import build
from supernet_jax.experiment.config import Config
from supernet_jax.runtime import disk_cache, fingerprint, hardware, native, program_cache, sharding
from supernet_jax.runtime.program_cache import PREFIX, Kept, identity
from supernet_jax.training import loop, train_step
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Batch, Recipe, State

RANDOM = random.SystemRandom()


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where programs are kept, however quickly they were compiled."""
    monkeypatch.setattr(disk_cache, "folder", lambda: tmp_path)
    least: Any = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield tmp_path
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob(f"{PREFIX}*"))


class Process:
    """A function as each new process has it: nothing is compiled, and tracing is counted."""

    def __init__(self) -> None:
        self.traced = 0
        self.own: dict[Any, float] = {}

    def new(self, *made_of: Any) -> Kept:
        own = self.own.setdefault(made_of, RANDOM.random())  # else JAX finds it in its own cache

        def function(x: Any, y: Any, *, power: int = 1) -> dict[str, Any]:
            self.traced += 1
            return {"sum": x + y + own, "power": x**power}

        return Kept(jax.jit(function, static_argnames=("power",)), identity(*made_of))


def test_found_again_by_another_process(folder: pathlib.Path) -> None:
    process, given = Process(), (jnp.arange(3.0), np.ones(3, np.float32))
    first = process.new("a")
    returned = first(*given)
    assert process.traced == 1 and len(files(folder)) == 1
    assert first(*given).keys() == {"sum", "power"} and process.traced == 1
    later = process.new("a")
    for _ in range(2):
        again = later(*given)
        jax.tree.map(np.testing.assert_array_equal, again, returned)
    assert process.traced == 1
    made = process.new("a").compiled(*given)
    assert made.found and made.trace_seconds == 0 and made.compile_seconds > 0
    assert not any(path.name.startswith(".") for path in folder.iterdir())


X, Y = jnp.arange(3.0), np.ones(3, np.float32)
OTHERS: dict[str, Callable[[Process], Any]] = {
    "made of something else": lambda p: p.new("b")(X, Y),
    "static argument": lambda p: p.new("a")(X, Y, power=2),
    "shape": lambda p: p.new("a")(X[:2], Y[:2]),
    "dtype": lambda p: p.new("a")(X.astype(jnp.int32), Y),
    "weak type": lambda p: p.new("a")(X, 1.0),
    "device": lambda p: p.new("a")(jax.device_put(X, jax.devices()[1]), Y),
    "split": lambda p: p.new("a")(split(X[:2]), Y[:2]),
    "structure": lambda p: p.new("a")(X, jnp.float32(1)),
}


def split(x: Any) -> Any:
    return sharding.split(sharding.data_mesh(jax.devices()[:2]), np.asarray(x))


@pytest.mark.parametrize("name", OTHERS)
def test_another_program(folder: pathlib.Path, name: str) -> None:
    process = Process()
    process.new("a")(X, Y)
    first = OTHERS[name](process)
    assert process.traced == 2
    again = OTHERS[name](process)
    assert process.traced == 2
    jax.tree.map(np.testing.assert_array_equal, again, first)
    jax.tree.map(lambda a, b: a.sharding == b.sharding or pytest.fail(), again, first)


def test_settings_and_surroundings_count(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process()
    process.new("a")(X, Y)
    with jax.default_matmul_precision("bfloat16"):
        process.new("a")(X, Y)
    assert process.traced == 2
    with jax.debug_nans(True):
        process.new("a")(X, Y)
    assert process.traced == 3
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    process.new("a")(X, Y)
    assert process.traced == 4
    monkeypatch.setattr(hardware, "instructions", lambda: "another processor")
    process.new("a")(X, Y)
    assert process.traced == 5
    monkeypatch.setattr(native, "available", lambda: "kernels.so")
    process.new("a")(X, Y)
    assert process.traced == 6
    monkeypatch.setattr(fingerprint, "versions", lambda: "later")
    process.new("a")(X, Y)
    assert process.traced == 7


@pytest.mark.parametrize("damage", [b"", b"\x78\x9cgarbage", "half"])
def test_damaged_file(folder: pathlib.Path, damage: bytes | str) -> None:
    process = Process()
    first = process.new("a")(X, Y)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    jax.clear_caches()
    again = process.new("a")(X, Y)
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert process.traced == 2


def test_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(disk_cache, "folder", lambda: tmp_path / "file" / "folder")
    assert Process().new("a")(X, Y)["power"].shape == (3,)


def test_nothing_is_kept(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process()
    own = process.new(lambda: "a user's own code")
    monkeypatch.setattr(disk_cache, "folder", lambda: None)
    nowhere = process.new("a")
    for kept in (own, nowhere):
        assert kept(X, Y, power=2)["power"][2] == 4
        made = kept.compiled(X, Y)
        assert made.trace_seconds > 0 and made.run(X, Y)["power"][2] == 2
    assert not files(folder)


def test_what_cannot_be_saved(folder: pathlib.Path) -> None:
    class Own(NamedTuple):
        value: Any

    kept = Kept(jax.jit(lambda x: Own(x + 1)), identity("a"))
    assert kept(X).value[0] == 1 and not files(folder)


def unfinished() -> Callable[[], int]:
    def function() -> int:
        return later

    return functools.partial(sorted, key=function)

    later = 1


def test_what_cannot_be_looked_through() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert identity(deep) is None and identity(unfinished()) is None
    assert identity("a") == identity("a") is not None


def test_within_another_function(folder: pathlib.Path) -> None:
    process = Process()
    kept = process.new("a")
    assert jax.jit(lambda x: kept(x, Y)["power"][2])(X) == 2
    assert jax.grad(lambda x: kept(x, Y, power=2)["power"].sum())(X)[2] == 4
    assert not files(folder)


def test_what_jax_had_kept_is_not_saved_again(folder: pathlib.Path) -> None:
    process = Process()
    process.new("a")(X, Y)  # JAX keeps it too, as it keeps all that takes so long
    jax.clear_caches()
    for path in files(folder):
        path.unlink()
    made = process.new("a").compiled(X, Y)
    assert made.found and made.trace_seconds > 0
    assert not files(folder)


def test_reads_from_the_cache_are_noticed() -> None:
    with program_cache._cache_hits() as hits:
        jax.monitoring.record_event("/jax/compilation_cache/cache_misses")
        assert hits == []
        jax.monitoring.record_event(program_cache.CACHE_HIT)
        assert len(hits) == 1
    jax.monitoring.record_event(program_cache.CACHE_HIT)
    assert len(hits) == 1


def test_settings_that_change_no_program_exist() -> None:
    for start in program_cache.WITHOUT_EFFECT:
        assert any(name.startswith(start) for name in jax.config.values), start


def digits_step(devices: int) -> tuple[Recipe, Any, Batch]:
    """A recipe that no cache knows, a mesh, and a batch on it."""
    mesh = sharding.data_mesh(jax.devices()[:devices])
    optimizer = sgd.alphanet_sgd(RANDOM.uniform(0.1, 0.2), weight_decay=0.0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 8, 8, 1), np.uint8)
    batch = Batch(images, rng.integers(0, 10, 16, np.int32), np.arange(16, dtype=np.int32))
    recipe = build(Config()).recipe._replace(optimizer=optimizer)
    return recipe, mesh, sharding.split(mesh, batch)


def test_a_training_step_goes_on_the_same(folder: pathlib.Path) -> None:
    recipe, mesh, batch = digits_step(2)

    def trained(seed: int) -> State:
        own = recipe._replace(seed=seed)
        step = train_step.Step(own, mesh=mesh)
        state = loop.creator(own, mesh, rules=sharding.REPLICATED)()
        for _ in range(2):
            state, metrics = step(state, batch, resolutions=(8,) * 4)
        assert np.isfinite(metrics["loss/largest"])
        return state

    first = trained(0)
    pieces = files(folder)
    assert pieces
    jax.clear_caches()
    again, other = trained(0), trained(1)
    assert files(folder) == pieces  # a seed is data
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert not np.array_equal(other.key, first.key)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_chain_does_as_one_program(devices: int) -> None:
    recipe, mesh, batch = digits_step(devices)
    chain, whole = train_step.Step(recipe, mesh=mesh), train_step.make_step(recipe, mesh=mesh)
    create = loop.creator(recipe, mesh, rules=sharding.REPLICATED)
    (ours, seen), (theirs, wanted) = (
        step(create(), batch, resolutions=(8,) * 4) for step in (chain, whole)
    )
    assert seen.keys() == wanted.keys()
    # The compiler orders sums otherwise: some units of the last place, on gradients below 10.
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(near, (ours, seen), (theirs, wanted))
    assert float(seen["gradient_norm"]) > 0.1  # else nothing was compared


def test_another_setting_changes_its_own_piece_only() -> None:
    recipe, mesh, _ = digits_step(1)

    def pieces(**changes: Any) -> dict[str, str | None]:
        programs = train_step.Step(recipe._replace(**changes), mesh=mesh).programs()
        return {name: program._identity for name, program in programs.items()}

    first = pieces()
    assert None not in first.values() and len(set(first.values())) == len(first)
    for changes, touched in (
        ({"seed": 7}, set()),
        ({"optimizer": sgd.alphanet_sgd(0.3, weight_decay=0.0)}, {"finish"}),
        ({"mix": jnp.add}, {"begin"}),
        ({"remat": True}, {"fixed", "random", "finish"}),
    ):
        found = pieces(**changes)
        assert {name for name in first if found[name] != first[name]} == touched


def test_what_an_evaluation_is_made_of_is_known() -> None:
    program = programs.Program(tiny(), jnp.float32, strategies.masked, jnp.float32, 8, None)
    first, again = (programs.calibrator.__wrapped__(program) for _ in range(2))
    assert first._identity == again._identity is not None
    assert first._identity != programs.scorer(program)._identity


@pytest.fixture
def settings() -> Iterator[None]:
    """JAX's settings of its cache, as they were."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("settings")
def test_a_folder_that_cannot_be_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for folder in (tmp_path / "file" / "compiled", tmp_path):
        monkeypatch.setattr(disk_cache, "folder", lambda folder=folder: folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            program_cache.keep_programs()
            warnings.warn(
                "Error writing persistent compilation cache entry for 'f': x", stacklevel=1
            )
            with pytest.raises(UserWarning, match="else"):
                warnings.warn("something else", stacklevel=1)
        said = capsys.readouterr().err
        if folder == tmp_path:
            assert said == "" and list(tmp_path.iterdir()) == [tmp_path / "file"]
            continue
        assert said.count("\n") == 1
        assert re.match(rf"supernet: .* not kept.*{folder} cannot be written \(Not a dir", said)
        assert not jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]


@pytest.mark.usefixtures("settings")
def test_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "cache_folder", lambda: None)
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        program_cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None  # type: ignore[attr-defined]
    assert re.match(r"supernet: .* HOME is not set; .*XDG_CACHE_HOME\n$", capsys.readouterr().err)
