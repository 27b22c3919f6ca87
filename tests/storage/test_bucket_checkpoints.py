"""Checkpoints in a bucket: whole or not seen, bitwise, also through stale listings and kills."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import bucket_server
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bucket_server import Server
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from supernet_jax.errors import UserError
from supernet_jax.storage import bucket_checkpoints, buckets, checkpoint, chunked_arrays
from supernet_jax.storage.buckets import Bucket
from supernet_jax.storage.chunked_arrays import Box


@pytest.fixture(params=["gs", "s3"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with bucket_server.used(request.param) as server:
        yield server


@pytest.fixture
def google() -> Iterator[Server]:
    with bucket_server.used("gs", retries=1) as server:
        yield server


def state(seed: int = 0) -> dict[str, Any]:
    """All kinds of leaves; states of an optimiser have empty nodes in lists."""
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {
        "block": {"kernel": jax.random.normal(keys[0], (3, 3, 64, 96)), "scale": jnp.float32(2)},
        "list": [jnp.zeros(3), {"with.dot": jnp.ones((2, 3), jnp.bfloat16)}],
        "mask": jnp.array([True, False]),
    }
    optimizer = optax.chain(optax.clip(1.0), optax.sgd(0.1, momentum=0.9))
    return {
        "params": params,
        "ema": None,
        "opt_state": optimizer.init(params),
        "key": keys[1],
        "step": np.int32(seed),
    }


def same(one: Any, other: Any) -> None:
    """Asserts that two trees are bitwise the same."""

    def bits(leaf: Any) -> tuple[Any, bytes]:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return leaf.dtype, np.asarray(leaf).tobytes()

    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert jax.tree.map(bits, one) == jax.tree.map(bits, other)


def folder(server: Server, name: str = "run") -> str:
    return f"{server.url}/{name}/checkpoints"


def save(place: str | pathlib.Path, *steps: int, keep: int = 3) -> None:
    with checkpoint.Checkpoints(place, keep=keep) as kept:
        for step in steps:
            kept.save(step, state(step), {"step": step, "nan": float("nan")}, wait=True)


def test_saved_and_restored(server: Server) -> None:
    place = folder(server)
    assert checkpoint.steps(place) == ()
    with checkpoint.Checkpoints(place, keep=2) as kept:
        assert kept.latest() is None
        for step in range(1, 5):
            given = state(step)
            assert kept.save(step, given, {"step": step, "nan": float("nan")})
            jax.tree.map(lambda x: x.delete() if isinstance(x, jax.Array) else None, given)
        assert not kept.save(4, state(5), {})
        assert kept.latest() == 4
        same(kept.restore(state()), state(4))
    assert checkpoint.steps(place) == (3, 4)
    assert {name.split("/")[2] for name in server.names()} == {"3", "4", "latest.json"}
    assert checkpoint.read_meta(place) == {"step": 4, "nan": None}
    same(checkpoint.restore(place, state(), step=3), state(3))
    same(checkpoint.restore_params(place), state(4)["params"])
    kernel = state(4)["params"]["block"]["kernel"]
    box = Box((0, 1, 0, 0), (3, 2, 5, 7))
    empty: dict[str, Any] = {"block": {"kernel": box, "scale": None}, "list": [None, None]}
    before = len(server.requests)
    part = checkpoint.read_slices(place, {**empty, "mask": None})["block"]["kernel"]
    assert np.array_equal(part, kernel[:, 1:2, :5, :7]) and len(server.requests) - before < 40
    with pytest.raises(UserError, match=r"has no checkpoint of step 9, only of 3, 4"):
        checkpoint.restore(place, state(), step=9)
    other = {**state(), "more": jnp.ones(3)}
    with pytest.raises(UserError, match=r"has no array more, which this run needs"):
        checkpoint.restore(place, other)
    with pytest.raises(UserError, match=r"there is no folder .*nothing; pass the folder"):
        checkpoint.restore(f"{server.url}/nothing", state())


def test_back_to_an_earlier_step(server: Server) -> None:
    save(folder(server), 1, 2, 3)
    with checkpoint.Checkpoints(folder(server)) as kept:
        kept.rewind(1)
        assert kept.latest() == 1 and checkpoint.steps(folder(server)) == (1,)
        kept.save(2, state(7), {}, wait=True)
    same(checkpoint.restore(folder(server), state()), state(7))


def test_a_stale_listing_loses_nothing(server: Server) -> None:
    save(folder(server), 1, 2)
    server.stale = []
    assert checkpoint.steps(folder(server)) == (1, 2)
    save(folder(server), 3)
    assert checkpoint.steps(folder(server)) == (1, 2, 3)
    same(checkpoint.restore(folder(server), state()), state(3))
    server.stale = ["run/checkpoints/77/commit_success.txt", "run/checkpoints/77/meta/metadata"]
    assert checkpoint.steps(folder(server)) == (1, 2, 3)  # one that was removed is not found again
    server.stale = None
    del server.objects["run/checkpoints/latest.json"]  # killed before it was written
    assert checkpoint.steps(folder(server)) == (1, 2, 3)


def test_killed_at_any_request(google: Server) -> None:
    """From a moment on nothing reaches the bucket. What is seen afterwards is whole, an older
    checkpoint is still there, and the next process goes on.
    """
    seen, moment = set(), 0
    while True:
        google.objects.clear()
        save(folder(google), 1, 2, keep=2)
        left, moment = [None] * moment, moment + 6

        def fail(method: str, name: str, left: list = left) -> int | None:
            return left.pop() if left else 403

        with checkpoint.Checkpoints(folder(google), keep=2) as kept:
            google.fail = fail
            kept.save(3, state(3), {"step": 3})
            try:
                kept.wait()
                finished = True
            except UserError:
                finished = False
        google.fail = lambda method, name: None
        there = checkpoint.steps(folder(google))
        assert set(there) >= ({2, 3} if finished else {2}) and set(there) <= {1, 2, 3}
        seen.add(there)
        for step in there:
            same(checkpoint.restore(folder(google), state(), step=step), state(step))
        save(folder(google), 3, keep=2)
        assert checkpoint.steps(folder(google))[-2:] == (2, 3)
        same(checkpoint.restore(folder(google), state()), state(3))
        if finished:
            break
    assert {(1, 2), (2, 3)} <= seen and moment > 40


def test_unfinished_ones_are_cleared_away(google: Server) -> None:
    save(folder(google), 1, 2)
    del google.objects[f"run/checkpoints/2/{bucket_checkpoints.FINISHED}"]
    assert checkpoint.steps(folder(google)) == (1,)
    with checkpoint.Checkpoints(folder(google)) as kept:
        assert kept.latest() == 1
        assert google.names("run/checkpoints/2/") == []
    with pytest.raises(UserError, match=r"has no checkpoint of step 2, only of 1"):
        checkpoint.restore(folder(google), state(), step=2)


def test_a_damaged_one_is_named(google: Server) -> None:
    save(folder(google), 1, 2)
    for name in google.names("run/checkpoints/2/state/ocdbt.process_0/d"):
        del google.objects[name]
    with pytest.raises(UserError, match=r"step 2 in gs://.* is damaged .*; move .* from step 1"):
        checkpoint.restore(folder(google), state())
    google.fail = lambda method, name: 403 if "/d/" in name else None
    with pytest.raises(UserError, match=r"refuses gs://.* with the credentials of this machine"):
        checkpoint.restore(folder(google), state())


def test_split_over_devices(server: Server) -> None:
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "model"))

    def place(*axes: str | None) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*axes))

    values = np.arange(64 * 48, dtype=np.float32).reshape(64, 48)
    given = {
        "params": {"a": jax.device_put(values, place("model", "data"))},
        "b": jax.device_put(values[0], place(None)),
        "key": jax.random.key(3),
    }
    with checkpoint.Checkpoints(folder(server)) as kept:
        kept.save(1, given, {}, wait=True)
    for axes in ((None, "model"), ("data", "model"), (None, None)):
        wanted = {
            "params": {"a": jax.ShapeDtypeStruct((64, 48), jnp.float32, sharding=place(*axes))},
            "b": jax.ShapeDtypeStruct((48,), jnp.float32, sharding=place("model")),
            "key": jax.ShapeDtypeStruct((), given["key"].dtype, sharding=place()),
        }
        back = checkpoint.restore(folder(server), wanted)
        same(back, given)
        assert back["params"]["a"].sharding == place(*axes) and back["b"].sharding == place("model")


def test_copied_between_a_bucket_and_a_disk(google: Server, tmp_path: pathlib.Path) -> None:
    """It is what Orbax writes and reads."""
    save(folder(google), 1, 2)
    for name in google.names("run/checkpoints"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(google.objects[name][0])
    local = tmp_path / "run" / "checkpoints"
    assert checkpoint.steps(local) == (1, 2) and checkpoint.read_meta(local)["step"] == 2
    same(checkpoint.restore(local, state()), state(2))
    save(local, 3)
    for path in local.rglob("*"):
        if path.is_file():
            copy = Bucket(f"{google.url}/up") / path.relative_to(local)
            buckets.write(copy, path.read_bytes())
    assert checkpoint.steps(f"{google.url}/up") == (1, 2, 3)
    same(checkpoint.restore(f"{google.url}/up", state()), state(3))
    save(f"{google.url}/up", 4)
    same(checkpoint.restore(f"{google.url}/up", state()), state(4))


def test_parts_are_read_by_themselves(google: Server) -> None:
    """Chunks are as small as on a disk."""
    save(folder(google), 1)
    opened = chunked_arrays.Opened(Bucket(folder(google)) / "1" / "state")
    found = opened.array("params.block.kernel").result().chunk_layout.read_chunk.shape
    assert 4 * np.prod(found) <= chunked_arrays.CHUNK and found[:2] == (1, 1)
    assert opened.array("opt_state.1.0.trace.block.kernel").result().chunk_layout.read_chunk.shape


def test_requests_do_not_grow_with_the_number_of_arrays(google: Server) -> None:
    given = {"params": {f"p{i}": jnp.full((16, 16), i, jnp.float32) for i in range(80)}}
    before = len(google.requests)
    with checkpoint.Checkpoints(folder(google)) as kept:
        kept.save(1, given, {}, wait=True)
    saved = len(google.requests)
    same(checkpoint.restore(folder(google), given), given)
    assert saved - before < 60 and len(google.requests) - saved < 40


PROCESS = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from supernet_jax.storage import checkpoint

address, process, place = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, 2, int(process))
mesh = Mesh(np.array(jax.devices()), ("model",))
values = np.arange(512 * 96, dtype=np.float32).reshape(512, 96)

def split(*axes):
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.make_array_from_callback(values.shape, sharding, lambda i: values[i])

given = {"params": {"large": split("model"), "wide": split(None, "model")}, "whole": split()}
with checkpoint.Checkpoints(place, keep=1) as kept:
    for step in (1, 2):
        kept.save(step, given, {"step": step})
    assert kept.latest() == 2
    back = kept.restore(given)
for name, leaf in {**back["params"], "whole": back["whole"]}.items():
    for shard in leaf.addressable_shards:
        assert np.array_equal(shard.data, values[shard.index]), name
"""


def test_two_processes(google: Server) -> None:
    """Each writes what it holds."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = pathlib.Path(__file__).parents[2]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i), folder(google)],
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    ended = [(worker.communicate(timeout=240)[1], worker.returncode) for worker in workers]
    assert [status for _, status in ended] == [0, 0], ended
    assert checkpoint.steps(folder(google)) == (2,)
    values = np.arange(512 * 96, dtype=np.float32).reshape(512, 96)
    read = checkpoint.restore_params(folder(google))
    assert all(np.array_equal(leaf, values) for leaf in read.values())
    written = "".join(google.names("run/checkpoints/2/state/"))
    assert "ocdbt.process_0/d" in written and "ocdbt.process_1/d" in written
    assert json.loads(google.objects["run/checkpoints/latest.json"][0]) == [1, 2]
