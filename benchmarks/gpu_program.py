"""What the programs of a training step do on a GPU that need not be there: kernels, bytes, memory.

    pip install "jax[cuda13]"
    python benchmarks/gpu_program.py --quick
    python benchmarks/gpu_program.py --space attentivenas --resolution 224 --batch 128

XLA compiles for an H100 from a description of it, on any Linux machine that has JAX's plug-in for
CUDA; nothing runs. The counts are exact, of one program for each kind of member and one for the
update: kernels, those of them that move less than a megabyte, where being started takes longer than
running, and bytes read and written if no kernel finds anything in a cache. These over the card's
bandwidth bound the time of a program from below wherever arithmetic is not what takes longest; how
near it comes is for a GPU to say. Kernels are not tuned without one, so the compiler may choose
others there.
"""

import collections
import dataclasses
import functools
import re
import time

import jax
import jax.numpy as jnp
import measure
from compile import SMALL, space_of  # the scripts beside this one
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from scaling import computations, result_bytes, runs
from train_step import recipe_of

from supernet_jax.experiment import config
from supernet_jax.runtime import native
from supernet_jax.training import train_step
from supernet_jax.training.recipe import Batch

# As the driver describes an H100 SXM with 80 GB; NVIDIA H100 Tensor Core GPU data sheet.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84978434048 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BANDWIDTH = 3.35e12  # bytes/s, of the data sheet
SMALL_KERNEL = 1e6  # bytes
RESOLUTIONS = {"digits": 8, "cifar": 32, "attentivenas": 224}
FREE = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple"}
HOLDERS = {"while", "conditional", "call"}  # what is in them is counted by itself
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\([^=]*?\)|\S+) ([a-z][\w\-]*)\((.*)$")


def main() -> None:
    """Compiles the pieces of a step and prints what they do."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: cifar)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--pieces", nargs="+", default=list(PIECES), choices=PIECES)
    arguments = parser.parse_args()
    name = arguments.space or (SMALL if arguments.quick else "cifar")
    size = arguments.resolution or RESOLUTIONS.get(name, 8)
    try:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=H100
        )
    except Exception as error:  # whatever a missing or another plug-in says
        parser.error(f'JAX cannot compile for a GPU here ({error}); pip install "jax[cuda13]"')
    place = SingleDeviceSharding(found.devices[0])
    report = []
    with native.aside():
        for piece, (run, *args) in pieces(space_of(name, size), size, arguments).items():
            given = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), args
            )
            begin = time.perf_counter()
            compiled = run.trace(*given).lower(lowering_platforms=("cuda",)).compile()
            seconds = time.perf_counter() - begin
            about = {"space": name, "pixels": size, "batch": arguments.batch}
            about |= {"dtype": arguments.dtype, "piece": piece}
            report.append({**about, **counts(compiled), "compile_s": seconds})
    columns = {
        "kernels": "kernels",
        "small": "under 1 MB",
        "gb": "GB read, written",
        "ms": "ms at 3.35 TB/s",
        "temporary_gb": "temporary, GB",
        "compile_s": "compile, s",
    }
    keys = [*about, *columns]
    measure.table([*about, *columns.values()], [[row[key] for key in keys] for row in report])
    measure.write(arguments.json, report)


PIECES = ("largest", "smallest", "random", "update")


def pieces(space, size, arguments):
    """Functions with the shapes of their arguments, by name; those that `arguments` wants."""
    recipe = recipe_of(space, "masked", arguments.dtype, n_random=2)
    step, state = train_step.Step(recipe), train_step.shapes(recipe)
    shape = (arguments.batch, size, size, 3)
    batch = Batch(
        jax.ShapeDtypeStruct(shape, jnp.uint8),
        *(jax.ShapeDtypeStruct(shape[:1], jnp.int32) for _ in range(2)),
    )
    shared = dataclasses.replace(state, opt_state=None, ema=None)
    given = jax.eval_shape(step.begin, shared, batch)
    largest, smallest = (functools.partial(step.fixed, place=i, size=size) for i in range(2))
    random = functools.partial(step.random, size=size)
    carry = jax.eval_shape(step.start, state.params)
    _, teacher, first = jax.eval_shape(largest, shared, given, None, carry)
    _, _, second = jax.eval_shape(smallest, shared, given, teacher, carry)
    draw = functools.partial(step.draw, sizes=(size,) * 2)
    archs = jax.eval_shape(draw, shared, given, teacher)
    place = jax.ShapeDtypeStruct((), jnp.int32)
    _, own = jax.eval_shape(random, shared, given, teacher, carry, archs, place)
    third = {"loss/random_1": own["loss"], "loss/random_2": own["loss"]}
    found = {
        "largest": (jax.jit(largest, donate_argnums=3), shared, given, None, carry),
        "smallest": (jax.jit(smallest, donate_argnums=3), shared, given, teacher, carry),
        "random": (
            jax.jit(random, donate_argnums=3),
            *(shared, given, teacher, carry, archs, place),
        ),
        "update": (
            jax.jit(functools.partial(step.finish, members=4), donate_argnums=0),
            *(state, carry, {**first, **second, **third}, archs),
        ),
    }
    return {name: found[name] for name in arguments.pieces}


def counts(compiled):
    """What a program does."""
    lines = computations(compiled.as_text())
    times, main = runs(lines), next(reversed(lines))
    moved = []
    for name in (main, *times):
        moved += traffic(lines, name) * times.get(name, 1)
    return {
        "kernels": len(moved),
        "small": sum(one < SMALL_KERNEL for one in moved),
        "gb": sum(moved) / 1e9,
        "ms": sum(moved) / BANDWIDTH * 1e3,
        "temporary_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9,
    }


def traffic(lines: dict[str, list[str]], name: str) -> list[int]:
    """Bytes that each kernel of a computation reads and writes."""
    shapes: dict[str, str] = {}
    found = []
    for line in lines[name]:
        parsed = INSTRUCTION.match(line)
        if parsed is None:
            continue
        result, shape, code, rest = parsed.groups()
        shapes[result] = shape
        if code in FREE | HOLDERS:
            continue
        operands = re.findall(r"%([\w.\-]+)", rest[: rest.index(")")])
        fused = re.search(r"calls=%([\w.\-]+)", rest)
        parts = sliced(lines[fused[1]]) if fused else {}
        read = {o: parts.get(i, result_bytes(shapes.get(o, ""))) for i, o in enumerate(operands)}
        found.append(result_bytes(shape) + sum(read.values()))
    return found


def sliced(lines: list[str]) -> dict[int, int]:
    """Of a fusion, the operands of which it reads nothing but slices: their place, and bytes."""
    places: dict[str, int] = {}
    taken: dict[int, int] = {}
    used: dict[int, bool] = collections.defaultdict(bool)  # otherwise than by slices
    for line in lines:
        parsed = INSTRUCTION.match(line)
        if parsed is None:
            continue
        result, shape, code, rest = parsed.groups()
        if code == "parameter":
            places[result] = int(re.match(r"\d+", rest)[0])
            continue
        for operand in re.findall(r"%([\w.\-]+)", rest[: rest.index(")")]):
            if operand in places and code in ("slice", "dynamic-slice"):
                place = places[operand]
                taken[place] = taken.get(place, 0) + result_bytes(shape)
            elif operand in places and code in ("bitcast", "convert") and "ROOT" not in line:
                places[result] = places[operand]
            elif operand in places:
                used[places[operand]] = True
    return {place: size for place, size in taken.items() if not used[place]}


if __name__ == "__main__":
    main()
