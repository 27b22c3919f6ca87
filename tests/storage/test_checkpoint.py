"""Checkpoints: exact, on any devices, never half, and errors that say what to do."""

import dataclasses
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from supernet_jax.elastic import space_identity
from supernet_jax.elastic.choices import Choice
from supernet_jax.errors import UserError
from supernet_jax.spaces import mobilenet
from supernet_jax.storage import checkpoint, record

META = {"space": {"name": "digits"}, "config": {"lr": 0.1, "names": ["a", "b"]}}


@flax.struct.dataclass
class State:
    step: Any
    params: Any
    opt_state: Any
    sampler: Any
    ema: Any


def arrays(seed: int = 0, width: int = 16) -> dict:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 1, width)).astype(np.float32)
    return {
        "stem": {"conv": {"kernel": jnp.asarray(kernel)}, "norm": {"scale": jnp.ones(width)}},
        "head": {"kernel": jnp.asarray(rng.normal(size=(width, 8)), jnp.bfloat16)},
    }


def state(seed: int = 0, *, ema: bool = True, width: int = 16) -> State:
    params = arrays(seed, width)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    sampler = {"key": jax.random.key(seed), "seen": [jnp.int32(7), ()]}
    average = arrays(seed + 100, width) if ema else None
    return State(jnp.int32(5), params, optimizer.init(params), sampler, average)


def shardings(tree: Any, devices: int) -> Any:
    """The last axis over that many devices where it divides."""
    mesh = jax.make_mesh((devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:devices])

    def one(leaf: Any) -> NamedSharding:
        split = leaf.ndim and leaf.shape[-1] % devices == 0
        return NamedSharding(
            mesh, PartitionSpec(*[None] * (leaf.ndim - 1), "x") if split else PartitionSpec()
        )

    return jax.tree.map(one, tree)


def target(tree: Any, places: Any = None) -> Any:
    places = shardings(tree, 1) if places is None else places
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        places,
    )


def same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert x.dtype == y.dtype, path
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Steps 2 and 4, of seeds 2 and 4; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    with checkpoint.Checkpoints(folder) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state(step), {**META, "step": step})
    return folder


def test_restored_is_bitwise_what_was_saved(written: pathlib.Path) -> None:
    assert checkpoint.steps(written) == (2, 4)
    for step, expected in ((None, 4), (2, 2)):
        same(checkpoint.restore(written, target(state()), step=step), state(expected))
        assert checkpoint.read_meta(written, step=step) == {**META, "step": expected}


def test_only_the_latest_are_kept(tmp_path: pathlib.Path) -> None:
    with checkpoint.Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 5, 9):
            assert checkpoints.save(step, state(step), META)
        assert not checkpoints.save(9, state(1), META)  # there already: stays
        assert checkpoints.latest() == 9
        same(checkpoints.restore(target(state())), state(9))
        assert checkpoint.read_meta(tmp_path) == META
    assert checkpoint.steps(tmp_path) == (5, 9)


def test_rewind_forgets_what_came_later(tmp_path: pathlib.Path) -> None:
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), META)
        checkpoints.rewind(1)
        assert checkpoints.latest() == 1
        assert checkpoints.save(2, state(20), META, wait=True)
    same(checkpoint.restore(tmp_path, target(state())), state(20))


def test_state_may_be_donated_while_it_is_written(tmp_path: pathlib.Path) -> None:
    big = jax.jit(lambda: {"params": jax.random.normal(jax.random.key(0), (512, 1024))})()
    big = {**big, "w": big["params"] + 1}
    expected = jax.tree.map(np.array, big)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s), donate_argnums=0)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, big, META)
        for _ in range(3):
            big = step(big)
    same(checkpoint.restore(tmp_path, target(big)), jax.tree.map(jnp.asarray, expected))


@pytest.mark.parametrize(("wrote", "reads"), [(8, 1), (1, 8), (8, 4)])
def test_any_device_count(tmp_path: pathlib.Path, wrote: int, reads: int) -> None:
    placed = jax.device_put(state(), shardings(state(), wrote))
    assert len(placed.params["stem"]["norm"]["scale"].sharding.device_set) == wrote
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, placed, META)
    places = shardings(state(), reads)
    restored = checkpoint.restore(tmp_path, target(state(), places))
    same(restored, state())
    jax.tree.map(
        lambda x, p: pytest.fail(str(x.sharding)) if x.sharding != p else 0, restored, places
    )


def test_parameters_alone(written: pathlib.Path) -> None:
    same(checkpoint.restore_params(written), state(4).params)
    same(checkpoint.restore_params(written, step=2, subtree="ema"), state(2).ema)
    everywhere = jax.tree.leaves(shardings(state().step, 8))[0]
    restored = checkpoint.restore_params(written, sharding=everywhere)
    assert restored["stem"]["norm"]["scale"].sharding == everywhere


def test_no_average_was_kept(tmp_path: pathlib.Path) -> None:
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(ema=False), META)
    with pytest.raises(UserError, match=r"has no 'ema', only opt_state, params, .*no average"):
        checkpoint.restore_params(tmp_path, subtree="ema")
    same(checkpoint.restore(tmp_path, target(state(ema=False))), state(ema=False))


KILLED = """
import os, signal, sys
import jax, jax.numpy as jnp, numpy as np
from supernet_jax.storage.checkpoint import Checkpoints
big = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(16, 1024, 1024)), jnp.float32)}
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"w": jnp.arange(8.0)}, {"good": True}, wait=True)
checkpoints.save(2, big, {"good": False})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_saving(tmp_path: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [path.name for path in tmp_path.iterdir() if path.name != "1"]
    assert left and "2" not in left, f"the kill came too late or too early: {left}"
    small = {"w": jnp.arange(8.0)}
    assert checkpoint.steps(tmp_path) == (1,)
    same(checkpoint.restore(tmp_path, target(small)), small)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        assert checkpoint.read_meta(tmp_path) == {"good": True}
        checkpoints.save(3, small, META)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


PROCESS = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
jax.config.update("jax_num_cpu_devices", 2)
address, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, rank)
from supernet_jax.storage import checkpoint
mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,))
value = np.arange(32.0, dtype=np.float32).reshape(8, 4)
def place(spec): return NamedSharding(mesh, spec)
split = jax.make_array_from_callback((8, 4), place(P("x")), lambda i: value[i])
whole = jax.make_array_from_callback((8, 4), place(P()), lambda i: value[i] + 1)
state = {"params": {"split": split}, "whole": whole}
target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(3, state, {"processes": 2})
    checkpoints.save(4, state, {"processes": 2})
    back = checkpoints.restore(target)
for shard in back["params"]["split"].addressable_shards:
    np.testing.assert_array_equal(shard.data, value[shard.index])
np.testing.assert_array_equal(checkpoint.restore_params(folder)["split"], value)
assert checkpoint.read_meta(folder) == {"processes": 2}
print("fine", rank)
"""


def test_two_processes_write_one_checkpoint(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROCESS, address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(rank), tmp_path], **pipes) for rank in (0, 1)]
    try:
        for rank, process in enumerate(processes):
            out, err = process.communicate(timeout=60)
            assert out.endswith(f"fine {rank}\n"), out + err
    finally:
        for process in processes:
            process.kill()
    value = np.arange(32.0, dtype=np.float32).reshape(8, 4)
    restored = checkpoint.restore(
        tmp_path, target({"params": {"split": value}, "whole": value}), step=4
    )
    np.testing.assert_array_equal(restored["params"]["split"], value)
    np.testing.assert_array_equal(restored["whole"], value + 1)


def damaged(written: pathlib.Path, folder: pathlib.Path, name: str, kept: float | None) -> None:
    """A copy in which only this share of a file of step 4 is left."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written, folder)
    content = (folder / "4" / name).read_bytes()
    (folder / "4" / name).unlink()
    if kept is not None:
        (folder / "4" / name).write_bytes(content[: int(kept * len(content))])


def test_every_lost_or_cut_file_is_noticed(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    files = json.loads((written / "4" / record.NAME).read_text())
    assert {"meta/metadata", "state/manifest.ocdbt"} < files.keys() and len(files) > 10
    for name, size in files.items():
        for kept in (None, 0.5) if size else (None,):
            damaged(written, tmp_path / "copy", name, kept)
            seen = "is missing" if kept is None else f"has {size // 2} of {size} bytes"
            message = (
                f"step 4 in {tmp_path / 'copy'} is damaged .*{name} {seen}.*; "
                f"move the folder {tmp_path / 'copy' / '4'} aside to go on from step 2"
            )
            with pytest.raises(UserError, match=message):
                checkpoint.restore(tmp_path / "copy", target(state()))
    with pytest.raises(UserError, match="step 4"):
        checkpoint.restore_params(tmp_path / "copy")
    with pytest.raises(UserError, match="step 4"):
        checkpoint.read_meta(tmp_path / "copy")
    same(checkpoint.restore(tmp_path / "copy", target(state()), step=2), state(2))


WITHOUT_RECORD = """
import pathlib, sys
import jax
from supernet_jax.storage import checkpoint
from supernet_jax.errors import UserError
from supernet_jax.storage import record
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        checkpoint.restore_params(folder)
        print(folder.name, "restored")
    except UserError as error:
        print(folder.name, str(error).splitlines())
"""


def test_damaged_without_a_record(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Then Orbax finds it; in a process of its own, for the reads that it abandons complain."""
    data = max((written / "4" / "state" / "d").iterdir(), key=lambda path: path.stat().st_size)
    names = ["_METADATA", "manifest.ocdbt", "array_metadatas/process_0"]
    names = [f"state/{name}" for name in names] + [str(data.relative_to(written / "4"))]
    cases = [(name, kept) for name in names for kept in (None, 0.5)]
    for i, (name, kept) in enumerate(cases):
        damaged(written, tmp_path / str(i), name, kept)
        (tmp_path / str(i) / "4" / record.NAME).unlink()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RECORD, tmp_path], capture_output=True, text=True, timeout=60
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines.keys() == {str(i) for i in range(len(cases))}, done.stderr
    harmless = str(cases.index(("state/array_metadatas/process_0", None)))
    assert lines.pop(harmless) == "restored"
    for line in lines.values():
        assert re.match(
            r"\[.*step 4 .* damaged .*; move the folder .*/4 aside to go on from step 2.\]$", line
        ), line


def test_damaged_and_nothing_before(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(written / "4", tmp_path / "4")
    (tmp_path / "4" / "meta" / "metadata").unlink()
    with pytest.raises(UserError, match=r"damaged .*meta/metadata is missing.*no earlier one"):
        checkpoint.read_meta(tmp_path)


def changed(**fields: Any) -> State:
    return dataclasses.replace(state(), **fields)


MISMATCHES = {
    "shape": (
        lambda: state(width=24),
        r"step 4 .* has params/head/kernel as bfloat16\[16, 8\], "
        r"but this run needs bfloat16\[24, 8\]",
    ),
    "dtype": (
        lambda: changed(step=jnp.float32(0)),
        r"has step as int32\[\], but this run needs float32\[\]",
    ),
    "missing": (
        lambda: changed(sampler={**state().sampler, "more": jnp.zeros(2)}),
        r"has no array sampler/more, which this run needs",
    ),
    "extra": (
        lambda: state(ema=False),
        r"has an array ema/head/kernel, for which this run has no place",
    ),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_state_of_another_run(written: pathlib.Path, case: str) -> None:
    build, message = MISMATCHES[case]
    with pytest.raises(UserError, match=message):
        checkpoint.restore(written, target(build()))


def test_wrong_folders_and_steps(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        checkpoint.restore_params(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no finished checkpoint in .*empty"):
        checkpoint.read_meta(tmp_path / "empty")
    with pytest.raises(UserError, match="no checkpoint of step 3, only of 2, 4"):
        checkpoint.restore(written, target(state()), step=3)
    with pytest.raises(UserError, match=r"cannot write .*file.*choose another place"):
        with checkpoint.Checkpoints(tmp_path / "file") as checkpoints:
            checkpoints.save(1, state(), META)
    with pytest.raises(UserError, match="keep at least 1"):
        checkpoint.Checkpoints(tmp_path, keep=0)
    with checkpoint.Checkpoints(tmp_path / "run") as checkpoints:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, state(), {"array": jnp.ones(1)})


def test_trees_alone(tmp_path: pathlib.Path) -> None:
    tree = {"params": arrays(), "stats": {"stem": {"mean": jnp.arange(3.0)}}}
    checkpoint.write_tree(tmp_path / "weights", tree)
    same(checkpoint.read_tree(tmp_path / "weights"), tree)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    assert checkpoint.tree_shapes(tmp_path / "weights") == shapes
    with pytest.raises(UserError, match=r"no folder .*other; copy it"):
        checkpoint.read_tree(tmp_path / "other")
    with pytest.raises(UserError, match=r"no checkpoint of Orbax or not all of one"):
        checkpoint.read_tree(tmp_path)
    (tmp_path / "weights" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"_METADATA has 1 of \d+ bytes.*copy it again"):
        checkpoint.read_tree(tmp_path / "weights")


def test_the_space_of_a_checkpoint() -> None:
    space = mobilenet.digits()
    meta = {"space": space_identity.describe_space(space)}
    space_identity.check_space(meta, space)
    space_identity.check_space(meta, mobilenet.digits())
    space_identity.check_space(meta, dataclasses.replace(space, name="renamed"))
    with pytest.raises(
        UserError, match="'digits', not of this 'cifar': its input_channels is 1, here 3"
    ):
        space_identity.check_space(meta, mobilenet.cifar())
    with pytest.raises(UserError, match="its classes is 10, here 11"):
        space_identity.check_space(meta, mobilenet.digits(classes=11))
    menu = {**space.menu, "resolution": Choice((8, 16))}
    with pytest.raises(UserError, match=r"decision resolution is \[8\], here \[8, 16\]"):
        space_identity.check_space(meta, dataclasses.replace(space, menu=menu))
    stem = space.blocks["stem"]
    doubled = dataclasses.replace(
        stem, specs=tuple(dataclasses.replace(s, stride=2) for s in stem.specs)
    )
    with pytest.raises(UserError, match="sizes of its blocks are not"):
        blocks = {**space.blocks, "stem": doubled}
        space_identity.check_space(meta, dataclasses.replace(space, blocks=blocks))
    with pytest.raises(UserError, match="does not say of which space"):
        space_identity.check_space({}, space)


def test_rates_do_not_make_another_space() -> None:
    def tiny(rate: float) -> Any:
        return mobilenet.cifar(dropout=rate, drop_path=rate)

    space_identity.check_space({"space": space_identity.describe_space(tiny(0.0))}, tiny(0.5))
