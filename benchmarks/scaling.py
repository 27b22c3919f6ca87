"""What one training step costs each of several devices, with the state whole and split.

    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py

Devices are virtual ones of this machine, each count in a fresh process, then two processes that
train together. Virtual devices share the machine's cores, so the time says nothing of real ones:
what does is the work of a device as the compiler counts it, the bytes that collectives move, and
the memory. The batch is the same for every count. The compiler counts the work of a loop once;
collectives in a loop are counted as often as they run.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
import measure
import numpy as np
from train_step import recipe_of

from supernet_jax.elastic.space import Space
from supernet_jax.runtime import hardware, native, sharding
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training import recipe, train_step

ROOT = pathlib.Path(__file__).parent.parent
RULES = {"whole": sharding.REPLICATED, "split": sharding.SHARDED}
BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}
BYTES |= {"s16": 2, "u16": 2, "s8": 1, "u8": 1}
# Bytes that a device sends in a ring of n, as a multiple of the size of the result.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}
COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(SENT)})(?:-done)?\(")
COLUMNS = {
    "devices": "devices",
    "processes": "processes",
    "state": "state",
    "mflops": "Mflop",
    "accessed_mb": "MB read, written",
    "sent_kb": "kB sent",
    "params_kb": "parameters, kB",
    "state_kb": "all state, kB",
    "arguments_kb": "arguments, kB",
    "temporary_kb": "temporary, kB",
    "step_ms": "step, ms",
}


def main() -> None:
    """Starts a process for each case and prints what they found."""
    arguments = command_line().parse_args()
    if arguments.child:
        print(json.dumps(child(arguments)))
        return
    counts = (1, 8) if arguments.quick else (1, 2, 4, 8)
    cases = [(devices, 1, state) for devices in counts for state in RULES]
    cases += [] if arguments.quick else [(4, 2, state) for state in RULES]
    rows = []
    for devices, processes, state in cases:
        rows.append(case(devices, processes, state, arguments))
        print(f"{devices} devices, {processes} processes, state {state}: done", file=sys.stderr)
    measure.table(list(COLUMNS.values()), [[row[key] for key in COLUMNS] for row in rows])
    print("\ncollectives:")
    for row in rows:
        counted = ", ".join(f"{n} {kind}" for kind, n in row["collectives"].items()) or "none"
        print(f"{row['devices']} devices, {row['processes']} processes, {row['state']}: {counted}")
    measure.write(arguments.json, rows)


def command_line() -> argparse.ArgumentParser:
    """The options, those of the processes that this one starts included."""
    parser = measure.parser(__doc__)
    spaces = ["small", *sorted(measure.SIZES)]
    parser.add_argument("--space", default="small", choices=spaces)
    parser.add_argument("--batch", type=int, default=64, help="images per step, over all devices")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--state", default="whole", choices=sorted(RULES), help=argparse.SUPPRESS)
    parser.add_argument("--coordinator", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def case(devices, processes, state, arguments):
    """The figures of one case, from the first of its processes."""
    sys.path.insert(0, str(ROOT / "launch"))
    import local

    command = [sys.executable, __file__, "--child", "--state", state, "--space", arguments.space]
    command += ["--batch", str(arguments.batch), "--rounds", str(arguments.rounds)]
    if processes > 1:
        command += ["--coordinator", f"localhost:{local.free_port()}"]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        native.SWITCH: "0",  # the compiler counts no work of what it did not make
        "JAX_NUM_CPU_DEVICES": str(devices // processes),
    }
    workers = [
        subprocess.Popen(
            [*command, "--process", str(i)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(processes)
    ]
    said = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"{devices} devices in {processes} processes failed")
    return json.loads(said[0].splitlines()[-1])


def child(arguments):
    """Compiles the step, reads the compiler's figures, and runs it a few times."""
    if arguments.coordinator:
        jax.distributed.initialize(arguments.coordinator, 2, arguments.process)
    pixels = measure.SIZES.get(arguments.space, 8)
    is_small = arguments.space == "small"
    space = small() if is_small else measure.space_of(arguments.space, pixels=pixels)
    recipe = recipe_of(space, "masked", "float32", n_random=1)
    mesh, rules = sharding.data_mesh(), RULES[arguments.state]
    where = train_step.places(recipe, mesh, rules)

    def create():
        return train_step.create(recipe)

    state = jax.jit(create, out_shardings=where, compiler_options=hardware.runs_once())()
    batch = sharding.split(mesh, batch_of(arguments.batch, pixels, space.task.classes))
    made = jax.jit(
        train_step.Step(recipe, mesh=mesh, rules=rules),
        static_argnames="sizes",
        donate_argnames="state",
    )
    step = made.lower(state, batch, resolutions=(pixels,) * 3)
    # The figures are those of the optimised program; machine code need not be.
    compiled = step.compile(compiler_options=hardware.runs_once())
    shapes = jax.eval_shape(create)
    return {
        "devices": mesh.size,
        "processes": jax.process_count(),
        "state": arguments.state,
        **compiled_figures(compiled, mesh.size),
        "params_kb": sharding.bytes_per_device(shapes.params, where.params) / 1e3,
        "state_kb": sharding.bytes_per_device(shapes, where) / 1e3,
        "step_ms": step_time(compiled, state, batch, arguments.rounds) * 1e3,
    }


def small() -> Space:
    """A space that compiles in seconds: one stage of up to two blocks, for 8 x 8 pixels."""
    return mobilenet(
        "small",
        resolutions=(8,),
        stem=(32,),
        stem_stride=2,
        stages=(Stage((64, 128), (1, 2), (3,), (4,), 1, squeeze=True),),
        last=(128, 256),
        classes=10,
        input_channels=3,
        head_ratio=2,
    )


def batch_of(count: int, pixels: int, classes: int) -> recipe.Batch:
    """Noise with labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, pixels, pixels, 3), np.uint8)
    labels = rng.integers(0, classes, count, np.int32)
    return recipe.Batch(images, labels, np.arange(count, dtype=np.int32))


def compiled_figures(compiled, devices):
    """Work, memory and messages of one device in one step."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    kinds: dict[str, int] = {}
    sent = 0.0
    for kind, size, times in collectives(compiled.as_text()):
        kinds[kind] = kinds.get(kind, 0) + times
        sent += SENT[kind](devices) * size * times
    return {
        "mflops": cost["flops"] / 1e6,
        "accessed_mb": cost["bytes accessed"] / 1e6,
        "sent_kb": sent / 1e3,
        "collectives": kinds,
        "arguments_kb": memory.argument_size_in_bytes / 1e3,
        "temporary_kb": memory.temp_size_in_bytes / 1e3,
    }


def collectives(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, bytes of the result and number of runs of every collective of a compiled program."""
    lines = computations(text)
    times = runs(lines)
    for name, body in lines.items():
        for line in body:
            found = COLLECTIVE.search(line)
            if found:
                yield found[2], result_bytes(found[1]), times.get(name, 1)


def computations(text: str) -> dict[str, list[str]]:
    """The lines of every computation of a compiled program."""
    lines: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head[1]
        lines.setdefault(name, []).append(line)
    return lines


def runs(lines: dict[str, list[str]]) -> dict[str, int]:
    """How often each loop's body runs, loops around it included, where the program knows."""
    loops: dict[str, tuple[str, int]] = {}
    for outer, body in lines.items():
        for line in body:
            inner = re.search(r" while\(.*body=%?([\w.\-]+)", line)
            known = re.search(r"known_trip_count[^0-9]*(\d+)", line)
            if inner:
                loops[inner[1]] = (outer, int(known[1]) if known else 1)

    def of(name: str) -> int:
        outer, count = loops.get(name, ("", 1))
        return count * (of(outer) if outer in loops else 1)

    return {name: of(name) for name in loops}


def result_bytes(text: str) -> int:
    """Bytes of a result as the compiler writes its shape: `f32[3,4]{1,0}`, or several."""
    total = 0
    for dtype, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", text):
        total += BYTES[dtype] * int(np.prod([int(size) for size in shape.split(",") if size]))
    return total


def step_time(compiled, state, batch, rounds):
    """Median seconds of a step."""
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
