"""Where the time of a training step goes, by kind of operation and by operation.

    python benchmarks/profile_step.py --quick
    python benchmarks/profile_step.py --space attentivenas --resolution 128 --batch 32 --largest

One step is traced by JAX's profiler, after a few that are timed without it. Every event that names
an operation of the compiled program is put into a kind by what the program says of it; an operation
into which the compiler fused several is a matrix product if it holds one, else a reduction if it
holds one. Shares are of the summed time of operations, on CPU over all threads. On GPU the profiler
runs operations one by one, also those that otherwise run as a CUDA graph.

Work and bytes are the compiler's counts, which take the body of a loop once: `--largest`, which
profiles a step of the largest subnet alone, has hardly any loops, while the random members of the
whole step are one. Kernels that XLA does not know count as nothing. The model's own work, three
times the forward pass of each member, is stated beside it.
"""

import collections
import pathlib
import re
import statistics
import tempfile
import time

import jax
import measure
from compile import SMALL, space_of  # the script beside this one
from scaling import computations
from train_step import prepared

from supernet_jax.elastic import choices
from supernet_jax.evaluation import costs
from supernet_jax.experiment import config
from supernet_jax.training import train_step

MATRIX, DEPTHWISE, ELEMENTWISE, REDUCTION, COLLECTIVE, COPY = (
    "matrix products",
    "depthwise convolutions",
    "elementwise",
    "reductions",
    "collectives",
    "copies",
)
PRODUCTS = {"dot", "convolution"}
REDUCTIONS = {"reduce", "reduce-window", "select-and-scatter"}
COLLECTIVES = re.compile(r"(all-(reduce|gather|to-all)|reduce-scatter|collective-)")
COPIES = {
    *("copy", "transpose", "bitcast", "reshape", "slice", "dynamic-slice", "concatenate", "pad"),
    *("dynamic-update-slice", "broadcast", "gather", "reverse", "copy-start", "copy-done"),
}
UNKNOWN = "not of the program"  # kernels and copies of which the profiler names no operation
HOLDERS = {"while", "conditional", "call"}  # what runs in them is traced by itself
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\(")
NOTHING = {"parameter", "constant", "tuple", "get-tuple-element"}


def main() -> None:
    """Profiles a step and prints where its time went."""
    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: digits)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--strategy", default="masked", choices=["masked", "switched"])
    parser.add_argument("--largest", action="store_true", help="the largest subnet alone")
    parser.add_argument("--top", type=int, default=15, help="operations to list")
    parser.add_argument("--trace", type=pathlib.Path, help="folder in which to keep the trace")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    name = arguments.space or (SMALL if arguments.quick else "digits")
    size = arguments.resolution or measure.SIZES.get(name, 8)
    space = space_of(name, size)
    recipe, state, data = prepared(
        space, arguments.strategy, size, arguments.batch, arguments.dtype
    )
    if arguments.largest:
        alone = recipe.sampler._replace(fixed=recipe.sampler.fixed[:1], n_random=0)
        recipe = recipe._replace(sampler=alone)
    members = len(recipe.sampler.fixed) + recipe.sampler.n_random
    step = jax.jit(train_step.Step(recipe), static_argnames="sizes", donate_argnames="state").lower(
        state, data, sizes=(size,) * members
    )
    compiled = step.compile()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.trace or pathlib.Path(temporary)
        seconds = run(compiled, state, data, rounds, folder)
        times = operations(folder)
    kinds = kinds_of(compiled.as_text())
    report = {
        "space": space.name,
        "pixels": size,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "members": members,
        "step_s": seconds,
        **rates(compiled, seconds),
        "model_gflops_per_s": model_flops(recipe, arguments) / seconds / 1e9,
        "kinds": by_kind(times, kinds),
        "operations": by_operation(times, kinds, arguments.top),
    }
    show(report)
    measure.write(arguments.json, report)


def run(compiled, state, data, rounds, folder):
    """Median seconds of a step, one more of which is traced into a folder."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, data))
        times.append(time.perf_counter() - begin)
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(compiled(state, data))
    return statistics.median(times[1:])


def operations(folder: pathlib.Path) -> dict[str, tuple[float, int]]:
    """Milliseconds and number of events of every operation in the newest trace of a folder."""
    files = sorted(folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for some, is_device in ((devices, True), (planes, False)):  # on CPU the host is the device
        found: dict[str, tuple[float, int]] = {}
        for plane in some:
            lines = list(plane.lines)
            # Lines that a profiler derives from the streams would count everything twice.
            streams = [line for line in lines if line.name.startswith("Stream")] or lines
            for line in streams:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op", event.name if is_device else None)
                    if name is not None:
                        spent, count = found.get(str(name), (0.0, 0))
                        found[str(name)] = (spent + event.duration_ns / 1e6, count + 1)
        if found:
            return found
    raise SystemExit(f"{files[-1]} names no operation of the program")


def kinds_of(text: str) -> dict[str, str]:
    """The kind of every instruction of a compiled program; "" for those that hold others."""
    bodies = computations(text)
    codes = {
        name: {found[2] for line in body if (found := INSTRUCTION.match(line))}
        for name, body in bodies.items()
    }
    kinds = {}
    for body in bodies.values():
        for line in body:
            found = INSTRUCTION.match(line)
            if found and found[2] in HOLDERS:
                kinds[found[1]] = ""
            elif found and found[2] not in NOTHING:
                called = re.search(r"calls=%?([\w.\-]+)", line)
                inside = codes.get(called[1], set()) if called else {found[2]}
                kinds[found[1]] = kind(line, inside)
    return kinds


def kind(line: str, inside: set[str]) -> str:
    """The kind of one instruction: its line, and the codes of all that is fused into it."""
    target = re.search(r'custom_call_target="([^"]*)"', line)
    name = target[1].lower() if target else ""
    grouped = re.search(r"feature_group_count=(\d+)", line)
    if (grouped and int(grouped[1]) > 1) or re.search(r'op_name="[^"]*/depthwise', line):
        return DEPTHWISE
    if any(COLLECTIVES.match(code) for code in inside):
        return COLLECTIVE
    if inside & PRODUCTS or re.search("gemm|conv|matmul|cublas|cudnn", name):
        return MATRIX
    if inside & REDUCTIONS:
        return REDUCTION
    return COPY if inside <= COPIES | NOTHING else ELEMENTWISE


def by_kind(times, kinds):
    """Rows: the kinds, the most expensive first."""
    spent: dict[str, float] = collections.defaultdict(float)
    counts: dict[str, int] = collections.defaultdict(int)
    for name, (ms, count) in times.items():
        if found := kinds.get(name, UNKNOWN):
            spent[found] += ms
            counts[found] += count
    total = sum(spent.values())
    order = sorted(spent, key=spent.__getitem__, reverse=True)
    return [
        {"kind": k, "ms": spent[k], "percent": 100 * spent[k] / total, "runs": counts[k]}
        for k in order
    ]


def by_operation(times, kinds, count):
    """Rows: the most expensive operations."""
    shown = [name for name in times if kinds.get(name, UNKNOWN)]
    order = sorted(shown, key=lambda name: times[name][0], reverse=True)[:count]
    return [
        {
            "operation": name,
            "kind": kinds.get(name, UNKNOWN),
            "ms": times[name][0],
            "runs": times[name][1],
        }
        for name in order
    ]


def rates(compiled, seconds):
    """What the program does in a second, by the compiler's counts."""
    cost = compiled.cost_analysis()
    gflop, gb = (cost.get(key, 0.0) / 1e9 for key in ("flops", "bytes accessed"))
    return {"gflop": gflop, "gb": gb, "gflops_per_s": gflop / seconds, "gb_per_s": gb / seconds}


def model_flops(recipe, arguments):
    """Of a step: 2 operations a MAC, 3 passes; random members count as their strategy's largest."""
    macs = costs.macs(recipe.space)
    fixed = [float(macs(arch)) for arch in recipe.sampler.fixed]
    largest = float(macs(choices.largest(recipe.space.menu)))
    return 6 * arguments.batch * (sum(fixed) + recipe.sampler.n_random * largest)


def show(report):
    """Prints the report."""
    about = ("space", "pixels", "batch", "dtype", "members")
    measured = {
        "step_s": "step, s",
        "gflop": "Gflop",
        "gb": "GB read, written",
        "gflops_per_s": "Gflop/s",
        "gb_per_s": "GB/s",
        "model_gflops_per_s": "model's Gflop/s",
    }
    columns = [*about, *measured.values()]
    measure.table(columns, [[report[key] for key in (*about, *measured)]])
    for rows in (report["kinds"], report["operations"]):
        measure.table(list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
