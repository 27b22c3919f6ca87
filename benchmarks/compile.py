"""Time to the first step, with nothing kept and with what an earlier process kept.

    python benchmarks/compile.py --quick
    python benchmarks/compile.py --space attentivenas --resolution 128 --batch 32

Every figure is of a fresh process: the training step (largest, smallest and 2 random subnets,
distillation) and the evaluator (calibration and evaluation of 8 archs), with random subnets and
candidates masked and switched; the step also block by block. "cold" begins with an empty folder,
"warm" with what "cold" left in it. The folder takes every program, however quickly it was compiled.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

BORN = "SUPERNET_BENCHMARK_BORN"  # the moment at which a child was started, seconds since 1970
JOBS = ("train", "evaluate")
BLOCKS = "blockwise"  # of the training step only
STRATEGIES = ("masked", "switched", BLOCKS)
STAGES = ("imports", "set-up", "trace", "compile or load", "first run", "all")
CACHES = ("cold", "warm")
CANDIDATES = 8
EVENTS = {  # of JAX, and the stage that they belong to
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "compile",
}
SMALL = "small"  # the space of --quick: one stage


def main() -> None:
    """Runs the comparison and prints it, or is one of its processes."""
    if BORN in os.environ:
        print(json.dumps(child(*json.loads(sys.argv[1]))))
        return
    import measure

    from supernet_jax.experiment import config

    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: attentivenas)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES)
    arguments = parser.parse_args()
    quick = arguments.quick
    space = arguments.space or (SMALL if quick else "attentivenas")
    strategies = arguments.strategies or (["masked"] if quick else ["masked", "switched"])
    size = arguments.resolution or measure.SIZES.get(space, 8)
    kinds = [
        (job, s) for job in arguments.jobs for s in strategies if (job, s) != ("evaluate", BLOCKS)
    ]
    if not kinds:
        parser.error(f"the evaluator is not measured {BLOCKS}; give another of --strategies")
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for i in range(1 if quick else arguments.rounds):
        for job, strategy in kinds:
            what = [job, space, strategy, size, arguments.batch, arguments.dtype]
            with tempfile.TemporaryDirectory(prefix="supernet-compile-") as cache:
                for state in CACHES:
                    found.setdefault((job, strategy, state), []).append(spawned(what, cache))
                    print(f"round {i + 1}: {job}, {strategy}, {state}", file=sys.stderr)
    about = {"space": space, "pixels": size, "batch": arguments.batch, "dtype": arguments.dtype}
    report = [
        {**about, "job": job, "strategy": strategy, "cache": state, "rounds": len(runs)}
        | {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
        | {"all, from": min(r["all"] for r in runs), "all, to": max(r["all"] for r in runs)}
        for (job, strategy, state), runs in found.items()
    ]
    keys = ["job", "strategy", "cache", *STAGES, "all, from", "all, to"]
    print(f"{space}, {size} px, {arguments.batch} images, {arguments.dtype}; seconds:")
    measure.table(keys, [[row[key] for key in keys] for row in report])
    measure.write(arguments.json, report)


def spawned(what: list, cache: str) -> dict[str, float]:
    """Seconds of each stage in a process of its own."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        BORN: repr(time.time()),
    }
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), json.dumps(what)]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout)


def child(job, space, strategy, size, batch, dtype):
    """Makes the programs of a job and runs each once. Returns the seconds of each stage."""
    born = float(os.environ[BORN])
    import jax

    from supernet_jax.runtime import hardware

    hardware.collect_rarely()  # as every command does
    if job == "train":
        hardware.keep_memory()  # as that command does
    imported = time.time()
    prepared = {"train": training, "evaluate": evaluation}[job]
    run = prepared(space_of(space, size), strategy, size, batch, dtype)
    spans: dict[str, list[tuple[float, float]]] = {"trace": [], "compile": []}

    def note(event, seconds, **_):
        if event in EVENTS:
            now = time.time()
            spans[EVENTS[event]].append((now - seconds, now))

    jax.monitoring.register_event_duration_secs_listener(note)
    ready = time.time()
    jax.block_until_ready(run())
    ended = time.time()
    tracing, compiling = covered(spans["trace"]), covered(spans["compile"])
    # What a program does while another one is made is not in it; threads trace and compile at once.
    running = ended - ready - covered([*spans["trace"], *spans["compile"]])
    spent = imported - born, ready - imported, tracing, compiling, running, ended - born
    return dict(zip(STAGES, spent, strict=True))


def covered(spans):
    """Seconds that some span covers; a function within a function is traced within its trace."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def space_of(name, size):
    """A space of the library, or the small one."""
    import measure

    from supernet_jax.spaces import mobilenet

    if name != SMALL:
        return measure.space_of(name, pixels=size)
    stage = mobilenet.Stage((8, 16), (1, 2), (3, 5), (1, 2), 2)
    sizes = {"stem": (8,), "stem_stride": 1, "stages": (stage,), "last": (16,), "classes": 10}
    return mobilenet.mobilenet(SMALL, resolutions=(size,), **sizes)


def training(space, strategy, size, batch, dtype):
    """A function that takes one step."""
    import jax
    import train_step as bench

    from supernet_jax.runtime import sharding
    from supernet_jax.training import loop, train_step

    recipe = bench.recipe_of(space, strategy, dtype, n_random=2)
    mesh, rules = sharding.data_mesh(), sharding.REPLICATED
    data = sharding.split(mesh, bench.images(space, size, batch))
    state = jax.block_until_ready(loop.creator(recipe, mesh, rules=rules)())
    step = train_step.Step(recipe, mesh=mesh)
    return lambda: step(state, data, sizes=(size,) * 4)


def evaluation(space, strategy, size, batch, dtype):
    """A function that runs both programs of an evaluation."""
    import evaluation as bench
    import jax
    import jax.numpy as jnp

    from supernet_jax.elastic import choices
    from supernet_jax.evaluation import programs
    from supernet_jax.experiment import config

    params, data = jax.block_until_ready(bench.prepared(space, size, batch, 1))
    archs = jax.device_get(choices.sample(space.menu, jax.random.key(1), (CANDIDATES,)))
    strategy = bench.STRATEGIES[strategy]
    how = programs.How(space, bench.prepare, strategy, config.dtype(dtype))
    program = programs.Program(how, size, None)
    programs = programs.calibrator(program), programs.scorer(program)
    given = params, archs, jnp.full((1,), CANDIDATES, jnp.int32), True

    def run():
        stats = programs[0](*given, data.calibration)
        batches = jnp.array([0, len(data.real)], jnp.int32)
        return programs[1](*given, stats, (data.inputs, data.targets, data.real), batches)

    return run


if __name__ == "__main__":
    main()
