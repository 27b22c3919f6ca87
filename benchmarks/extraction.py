"""Extraction out of a large checkpoint: what is read and held, and what small chunks cost.

    python benchmarks/extraction.py --quick
    python benchmarks/extraction.py

A wide space of MobileNet's blocks, random parameters, split over 8 (virtual) devices as training
with `train.shard_params` has them, are saved as a checkpoint. Then each subnet is read, calibrated,
extracted and proven in a process of its own with one device. "Read" is what TensorStore took from
files, of which a part is the index of chunks; the process's own count of read bytes (Linux) has
Orbax's metadata as well. Memory is above that of a process that knows the space and reads nothing.
The smallest subnet is the same in supernets of each size.

Last, seconds to save and to restore the checkpoint on 8 devices, in turn with Orbax's own chunks,
one for what a device holds of an array.
"""

import functools
import json
import pathlib
import resource
import shutil
import tempfile
import time

import jax
import measure
import numpy as np

MB = 1e6
PIXELS, IMAGES = 8, 16
DEVICES = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
ONE = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}


def main() -> None:
    """Writes, reads and prints, or is one of the processes."""
    if measure.is_child():
        what = {"write": write, "take": take, "times": times}
        print(json.dumps(what[measure.asked()[0]](*measure.asked()[1:])))
        return
    parser = measure.parser(__doc__)
    parser.add_argument("--folder", type=pathlib.Path, help="for checkpoints (default: temporary)")
    arguments = parser.parse_args()
    sizes = [256] if arguments.quick else [1024, 1536]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        names = ["smallest", "middle", "largest", "whole supernet"]
        names = names[:1] if arguments.quick else names
        taken = [row for size in sizes for row in subnets(pathlib.Path(folder), size, names)]
        columns = ["supernet, MB", "subnet", "its parameters, MB", "read, MB", "ratio"]
        columns += ["read by the process, MB", "memory to read, MB", "in all, MB"]
        measure.table([*columns, "to read, s", "in all, s"], [list(r.values()) for r in taken])
        asked = ["times", folder, sizes[0], 1 if arguments.quick else arguments.rounds]
        timed = measure.fresh(__file__, asked, **DEVICES)
    measure.timings_table(timed, ["job"])
    measure.write(arguments.json, {"subnets": taken, "times": timed})


def subnets(folder, width, names):
    """Figures of each subnet of one supernet, and of reading all of it."""
    written = measure.fresh(__file__, ["write", str(folder / str(width)), width], **DEVICES)
    nothing = measure.fresh(__file__, ["take", None, width, "nothing"], **ONE)["peak"]
    for name in names:
        found = measure.fresh(__file__, ["take", str(folder / str(width)), width, name], **ONE)
        yield {
            "supernet": written["bytes"] / MB,
            "subnet": name,
            "parameters": found["own"] / MB,
            "read": found["read"] / MB,
            "ratio": found["read"] / found["own"],
            "process": found["process"] / MB,
            "memory": (found["peak_read"] - nothing) / MB,
            "memory_all": (found["peak"] - nothing) / MB,
            "read_s": found["read_s"],
            "seconds": found["seconds"],
        }
    shutil.rmtree(folder / str(width))


@functools.cache
def space_of(width):
    """A space whose last stage has up to so many channels; its smallest subnet does not depend on
    it, as long as `width` is 1024 at least, or below 256.
    """
    from supernet_jax.spaces.mobilenet import Stage, mobilenet

    low = 512 if width >= 1024 else 32
    widths = tuple(sorted({low, *range(3 * low // 2, width + 1, low // 2), width}))
    return mobilenet(
        "wide",
        resolutions=(PIXELS,),
        stem=(low // 8,),
        stem_stride=1,
        stages=(
            Stage((low // 4, low // 2), (1, 2), (3, 5), (2, 4), 2),
            Stage(widths, (2, 4, 8), (3, 5, 7), (2, 3, 4), 2),
            Stage(widths, (2, 4, 8), (3, 5), (3, 4), 1),
        ),
        last=(low, 2 * low),
        classes=100,
        head_ratio=1,
    )


def arch_of(space, name):
    """An arch of the space by its name."""
    from supernet_jax.elastic import choices

    if name == "middle":
        return jax.tree.map(lambda choice: np.int32(len(choice) // 2), space.menu)
    return choices.smallest(space.menu) if name == "smallest" else choices.largest(space.menu)


def made(width):
    """Random parameters, split over the devices."""
    from supernet_jax.elastic import shared_params
    from supernet_jax.runtime import sharding

    shapes = {"params": shared_params.parameter_shapes(space_of(width))}
    rng, mesh = np.random.default_rng(0), sharding.data_mesh()
    places = sharding.place(mesh, shapes, rules=sharding.SHARDED)
    draw = lambda s: 0.05 * rng.standard_normal(s.shape, np.float32)  # noqa: E731
    return jax.tree.map(lambda s, p: jax.device_put(draw(s), p), shapes, places)


def write(folder, width):
    """Writes the checkpoint."""
    from supernet_jax.storage.checkpoint import Checkpoints

    state = made(width)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, {})
    return {"bytes": size_of(state)}


def take(folder, width, name):
    """Reads one subnet (or all parameters, or nothing), and takes it out."""
    from supernet_jax.networks import extract

    space = space_of(width)
    arch = arch_of(space, name)
    extract.boxes(space, arch)
    jax.block_until_ready(jax.numpy.ones(3) + 1)
    if name == "nothing":
        return {"peak": peak()}
    before, start = process_bytes(), time.perf_counter()
    part = read(folder, space, arch, whole=name == "whole supernet")
    found = {
        "read_s": time.perf_counter() - start,
        "read": stored_bytes(),
        "process": process_bytes() - before,
        "own": size_of(part.params),
        "peak_read": peak(),
    }
    if name != "whole supernet":
        found["own"] = size_of(taken(part, arch)["params"])
    return {**found, "peak": peak(), "seconds": time.perf_counter() - start}


def read(folder, space, arch, *, whole):
    """What the subnet runs on: its part, or all shared parameters."""
    from supernet_jax.networks import extract
    from supernet_jax.storage import checkpoint

    if whole:
        return extract.Part(space, checkpoint.restore_params(folder))
    return extract.read_part(folder, space, arch)


def taken(part, arch):
    """The variables of the network, calibrated, and proven to be the subnet."""
    from supernet_jax.elastic import strategies
    from supernet_jax.evaluation import evaluate
    from supernet_jax.networks import extract
    from supernet_jax.runtime import hardware

    space, params = part
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (1, IMAGES, PIXELS, PIXELS, 3), np.uint8)
    prepare = lambda images: images.astype(np.float32) / 255  # noqa: E731
    calibrate = functools.partial(
        evaluate.calibrate, space, arch=arch, size=PIXELS, prepare=prepare
    )
    statistics = jax.jit(
        lambda params, images: calibrate(
            params=params, calibration=images, strategy=strategies.sliced
        ),
        compiler_options=hardware.runs_once(),
    )
    stats = statistics(params, pixels)
    module, variables = extract.extract(space, params, arch, stats)
    extract.prove(space, params, arch, stats, module, variables, prepare(pixels[0]))
    return variables


def times(folder, width, rounds):
    """Seconds to save and to restore, with Orbax's own chunks and with ours."""
    import orbax.checkpoint as ocp

    from supernet_jax.storage import checkpoint

    rows = []
    for kind in ("8 devices", "1 device"):
        state = made(width)
        if kind == "1 device":
            state = jax.device_put(state, jax.devices()[0])
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )

        def plain(i, state=state):
            shutil.rmtree(f"{folder}/plain", ignore_errors=True)
            with ocp.CheckpointManager(f"{folder}/plain") as manager:
                manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave(state)))

        def ours(i, state=state):
            shutil.rmtree(f"{folder}/ours", ignore_errors=True)
            with checkpoint.Checkpoints(f"{folder}/ours") as checkpoints:
                checkpoints.save(1, state, {})

        def restored(name, target=target):
            return lambda i: checkpoint.restore(f"{folder}/{name}", target)

        saves = measure.in_turn({"Orbax's chunks": plain, "small chunks": ours}, rounds)
        loads = {"Orbax's chunks": restored("plain"), "small chunks": restored("ours")}
        loads = measure.in_turn(loads, rounds)
        for job, found in (("save", saves), ("restore", loads)):
            rows += measure.rows(found, base="Orbax's chunks", job=f"{job}, {kind}")
    return rows


def size_of(tree):
    """Bytes of arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def stored_bytes():
    """Bytes that TensorStore has read from files in this process."""
    import tensorstore

    metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/")
    found = {m["name"]: m["values"] for m in metrics}
    return sum(value["value"] for value in found["/tensorstore/kvstore/file/bytes_read"])


def process_bytes():
    """Bytes that this process has asked to read of anything (Linux)."""
    lines = pathlib.Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def peak():
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
