"""What one subnet needs of a checkpoint, read alone: equal to the bit, and little more is read."""

import dataclasses
import functools
import json
import pathlib
import shutil
import socket
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

from supernet_jax.elastic import elastic_block, shared_params, slicing, strategies
from supernet_jax.elastic.choices import Arch, Choice, Lookup
from supernet_jax.elastic.elastic_block import Transform
from supernet_jax.elastic.notation import from_notation
from supernet_jax.elastic.space import Bank, Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import UserError
from supernet_jax.evaluation import evaluate
from supernet_jax.networks import extract, network
from supernet_jax.nn import layers
from supernet_jax.runtime import sharding
from supernet_jax.storage import checkpoint, chunked_arrays, record
from supernet_jax.tasks import ImageClassification

INDEX = 40_000  # bytes of Orbax's metadata and of the index of chunks


@dataclasses.dataclass(frozen=True)
class MixSpec:
    c_in: int
    c_out: int
    kernel: int


class Mix(nn.Module):
    spec: MixSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Depthwise(self.spec.kernel, name="depthwise")(x)
        x = layers.Pointwise(self.spec.c_out, name="mix")(x)
        return nn.relu(layers.BatchNorm(name="norm")(x))


class Full(nn.Module):
    spec: MixSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.Conv(self.spec.c_out, self.spec.kernel, name="conv")(x)
        return nn.relu(layers.BatchNorm(name="norm")(x))


class Linear(nn.Module):
    spec: MixSpec

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Dense(self.spec.c_out, name="classifier")(jnp.mean(x, (1, 2)))


def shrink(params: Any, kernel: jax.Array, size: int) -> jax.Array:
    """A centre crop times a learned matrix."""
    if size == 5:
        return kernel
    crop = kernel[1:-1, 1:-1].reshape(9, -1)
    return (params["to3"] @ crop).reshape(3, 3, 1, -1)


def start(key: jax.Array, shape: tuple[int, ...]) -> Any:
    return {"to3": jax.random.normal(key, (9, 9))}


def made() -> Space:
    """Tied blocks of different kernels with a learned transform, a dense kernel, depth, a bank."""
    menu = {
        "resolution": Choice((4,)),
        "width": Choice((192, 288, 384)),
        "kernel": [Choice((3, 5)), Choice((3, 5)), Choice((1, 3))],
        "depth": Choice((0, 1)),
        "row": Choice((0, 1)),
    }
    learned = Transform(("depthwise", "kernel"), lambda spec: spec.kernel, start, shrink)

    def block(kind: Any, i: int, **options: Any) -> Any:
        where = [("width",), ("kernel", i)]
        spec = lambda c, k: MixSpec(c, c, k)  # noqa: E731
        return elastic_block.elastic(kind, spec, menu=menu, decisions=where, **options)

    def end(kind: Any, spec: Any) -> Any:
        return elastic_block.elastic(kind, spec, menu=menu, decisions=[("width",)])

    blocks = {
        "stem": end(Mix, lambda c: MixSpec(2, c, 3)),
        "left": block(Mix, 0, transforms=(learned,), group="tied"),
        "right": block(Mix, 1, transforms=(learned,), group="tied"),
        "dense": block(Full, 2, depth=(("depth",), 0)),
        "head": end(Linear, lambda c: MixSpec(c, 5, 1)),
    }
    row = Bank(2, Lookup((("row",),), np.asarray([1, 0])))
    task, static = ImageClassification(2, 5), (("resolution",),)
    return Space("slices", menu, blocks, chain(tuple(blocks)), task, static, bank=row)


SPACE = made()


def arch(width: int, left: int, right: int, dense: int, depth: int, row: int) -> Arch:
    notation = {"resolution": 4, "width": width, "kernel": [left, right, dense]}
    return from_notation(SPACE.menu, {**notation, "depth": depth, "row": row})


ARCHS = {
    "smallest": arch(192, 3, 3, 1, 0, 0),
    "other": arch(288, 3, 5, 1, 1, 1),
    "largest": arch(384, 5, 5, 3, 1, 0),
}


@functools.cache
def arrays(seed: int) -> Any:
    shapes = jax.eval_shape(functools.partial(shared_params.init, SPACE), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), shapes)


def state() -> Any:
    return {"params": arrays(0), "ema": arrays(1), "opt_state": {"mean": arrays(2)["dense"]}}


@functools.cache
def stats() -> Any:
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape), shared_params.zero_stats(SPACE))


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (count, 4, 4, 2), np.uint8)


def prepare(x: Any) -> Any:
    return x.astype(jnp.float32) / 255


@pytest.fixture(scope="module", params=["whole", "split"])
def written(request: Any, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A checkpoint of 8 devices, whole on each of them or split over them; not to be changed."""
    rules = sharding.SHARDED if request.param == "split" else sharding.REPLICATED
    mesh, folder = sharding.data_mesh(), tmp_path_factory.mktemp(request.param)
    placed = jax.device_put(state(), sharding.place(mesh, state(), rules=rules))
    with checkpoint.Checkpoints(folder) as checkpoints:
        checkpoints.save(1, placed, {})
    return folder


def stored_bytes() -> int:
    name = "/tensorstore/kvstore/file/bytes_read"
    found = tensorstore.experimental_collect_matching_metrics(name)
    return sum(value["value"] for metric in found for value in metric["values"])


def taken(space: Space, params: Any, arch: Arch) -> Any:
    return extract.extract(space, params, arch, stats())[1]


def equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@functools.cache
def expected(name: str, seed: int = 0) -> Any:
    return taken(SPACE, arrays(seed), ARCHS[name])


@pytest.mark.parametrize("name", ARCHS)
def test_equal_to_the_bit_and_little_is_read(written: pathlib.Path, name: str) -> None:
    before = stored_bytes()
    part = extract.read_part(written, SPACE, ARCHS[name])
    read = stored_bytes() - before
    variables = taken(part.space, part.params, ARCHS[name])
    equal(variables, expected(name))
    own = size(variables["params"])
    assert own * 0.8 < read <= own * 1.3, (read, own)  # compressed a little
    assert size(part.params) <= own * 1.1
    if name == "smallest":
        assert own < size(arrays(0)) / 20


def test_the_average(written: pathlib.Path) -> None:
    part = extract.read_part(written, SPACE, ARCHS["other"], subtree="ema")
    equal(taken(part.space, part.params, ARCHS["other"]), expected("other", 1))


def test_a_whole_restore_is_what_was_saved(written: pathlib.Path) -> None:
    equal(checkpoint.restore_params(written), arrays(0))
    equal(checkpoint.restore(written, state()), state())


def test_calibrated_and_proven_alone(written: pathlib.Path) -> None:
    small = ARCHS["other"]
    part = extract.read_part(written, SPACE, small)

    def calibrated(space: Space, params: Any) -> Any:
        @jax.jit
        def run(params: Any, images: Any) -> Any:
            how = {"size": 4, "strategy": strategies.sliced, "prepare": prepare}
            return evaluate.calibrate(space, params, small, images, **how)

        return run(params, images(6).reshape(2, 3, 4, 4, 2))

    found, whole = calibrated(part.space, part.params), calibrated(SPACE, arrays(0))
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(whole)) > 0.1
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        # float32 in programs of other shapes
        np.testing.assert_allclose(a, b, atol=1e-6 * float(np.max(np.abs(b))), rtol=0)
    module, variables = extract.extract(part.space, part.params, small, found)
    for space, params in (part, (SPACE, arrays(0))):
        x = prepare(images())
        assert extract.prove(space, params, small, found, module, variables, x) <= network.LIMIT


def test_checkpoints_from_before_small_chunks(tmp_path: pathlib.Path) -> None:
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave(state())))
    before = stored_bytes()
    part = extract.read_part(tmp_path, SPACE, ARCHS["smallest"])
    assert stored_bytes() - before > size(arrays(0)["tied"]) * 0.8
    equal(taken(part.space, part.params, ARCHS["smallest"]), expected("smallest"))


def test_boxes() -> None:
    boxes = extract.boxes(SPACE, ARCHS["smallest"])
    assert jax.tree.leaves(boxes["dense"]) == []  # skipped
    assert boxes["tied"]["mix"]["kernel"] == chunked_arrays.Box(
        (1, 0, 0, 0, 0), (2, 1, 1, 192, 192)
    )
    # A transform sees all places, and its own parameters are needed whole.
    assert boxes["tied"]["depthwise"]["kernel"].stop == (2, 5, 5, 1, 192)
    assert boxes["tied"]["transforms"]["depthwise/kernel"]["to3"].stop == (2, 9, 9)
    dense = extract.boxes(SPACE, ARCHS["other"])["dense"]["conv"]["kernel"]
    assert dense == chunked_arrays.Box((0, 1, 1, 0, 0), (1, 2, 2, 288, 288))
    # Tied blocks need what any of them needs, whichever comes last.
    own = {n: dataclasses.replace(b, transforms=()) for n, b in SPACE.blocks.items()}
    plain = dataclasses.replace(SPACE, blocks=own)
    for left, right in ((3, 5), (5, 3)):
        tied = extract.boxes(plain, arch(192, left, right, 1, 0, 1))["tied"]["depthwise"]["kernel"]
        assert tied == chunked_arrays.Box((0, 0, 0, 0, 0), (1, 5, 5, 1, 192))


@pytest.mark.parametrize("sizes", [(7, 3, 5), (7, 4, 5), (6, 5, 4), (6, 4, 2), (5, 5, 1)])
def test_a_cut_of_the_union_of_boxes_is_the_cut_of_all(sizes: tuple[int, ...]) -> None:
    full, *parts = [{"kernel": np.zeros((k, k, 2 * k, k), np.float32)} for k in sizes]
    full["kernel"] = np.random.default_rng(0).random(full["kernel"].shape)
    block = SPACE.blocks["dense"]
    edges = [slicing.needed(block, part, full)[("kernel",)] for part in parts]
    one, other = (chunked_arrays.Box(*map(tuple, zip(*e, strict=True))) for e in edges)
    both = {"kernel": full["kernel"][one.union(other).slices()]}
    for part in parts:
        equal(slicing.cut(both, part), slicing.cut(full, part))


def test_what_cannot_be_read(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    read = functools.partial(extract.read_part, space=SPACE, arch=ARCHS["smallest"])
    with pytest.raises(UserError, match="there is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no checkpoint of step 7, only of 1"):
        read(written, step=7)
    with checkpoint.Checkpoints(tmp_path / "small") as checkpoints:
        small = jax.tree.map(lambda leaf: leaf[..., :99], arrays(0))
        checkpoints.save(1, {"params": small, "ema": None}, {})
        checkpoints.save(2, {"params": {"head": small["head"]}, "ema": None}, {})
    with pytest.raises(UserError, match=r"has no 'ema', only params; this run kept no average"):
        read(tmp_path / "small", subtree="ema")
    with pytest.raises(UserError, match=r"has params/\S+ as \[2, .*99\], of which a subnet needs"):
        read(tmp_path / "small", step=1)
    with pytest.raises(UserError, match=r"has no array params/\S+, of which .*take the space"):
        read(tmp_path / "small", step=2)


@pytest.mark.parametrize("kept", [None, 0.5])
@pytest.mark.parametrize("recorded", [True, False])
def test_damaged(
    written: pathlib.Path, tmp_path: pathlib.Path, kept: float | None, recorded: bool
) -> None:
    shutil.copytree(written, tmp_path / "copy")
    folder = tmp_path / "copy" / "1"
    # All files of numbers: how these are spread over files differs; those of the index are small.
    for data in [path for path in folder.rglob("d/*") if path.stat().st_size > 2**19]:
        content = data.read_bytes()
        data.unlink()
        if kept is not None:
            data.write_bytes(content[: int(kept * len(content))])
    if not recorded:
        (folder / record.NAME).unlink()
    with pytest.raises(UserError, match=r"step 1 in .*copy is damaged .*there is no earlier one"):
        extract.read_part(tmp_path / "copy", SPACE, ARCHS["largest"])


PROCESS = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
address, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, rank)
from supernet_jax.runtime import sharding
from supernet_jax.storage import checkpoint
value = np.arange(2 * 512 * 512, dtype=np.float32).reshape(2, 512, 512)
mesh = sharding.data_mesh()
trees = {"params": {"w": value, "odd": value[0, :511, :511]}}
places = sharding.place(mesh, trees, rules=sharding.SHARDED)
split = jax.tree.map(
    lambda x, p: jax.make_array_from_callback(x.shape, p, lambda i: x[i]), trees, places
)
with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(1, split, {})
    checkpoints.save(2, {"params": sharding.replicate(mesh, trees["params"])}, {})
"""


def test_written_by_two_processes(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", PROCESS, address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(rank), tmp_path], **pipes) for rank in (0, 1)]
    try:
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            assert "target_byte_size" not in err  # what Orbax says of small chunks
    finally:
        for process in processes:
            process.kill()
    value = np.arange(2 * 512 * 512, dtype=np.float32).reshape(2, 512, 512)
    box = chunked_arrays.Box((1, 0, 0), (2, 256, 128))
    for step in (1, 2):
        before = stored_bytes()
        found = checkpoint.read_slices(tmp_path, {"w": box, "odd": None}, step=step)
        assert stored_bytes() - before <= 256 * 128 * 4 * 1.3 + INDEX
        equal(found, {"w": value[box.slices()], "odd": None})
        equal(checkpoint.restore_params(tmp_path, step=step)["odd"], value[0, :511, :511])


def test_chunks_are_few_files(written: pathlib.Path) -> None:
    files = json.loads((written / "1" / record.NAME).read_text())
    assert len(files) < 40
