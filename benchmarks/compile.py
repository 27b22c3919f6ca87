"""Time to the first step, with an empty and with a filled cache of compiled programs.

    python benchmarks/compile.py --quick
    python benchmarks/compile.py --space attentivenas --resolution 128 --batch 32

Every figure is of a fresh process: the training step (largest, smallest and 2 random subnets,
distillation) and the evaluator (calibration and evaluation of 8 archs), with random subnets and
candidates masked and switched. The cache is a temporary folder of each round, empty for "cold", as
"cold" left it for "warm"; it takes every program, however quickly it was compiled.
"""

import itertools
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
STAGES = ("imports", "set-up", "trace", "lower", "compile", "first run", "all")
CANDIDATES = 8
SMALL = "small"  # the space of --quick: one stage


def main() -> None:
    """Runs the comparison and prints it, or is one of its processes."""
    if BORN in os.environ:
        print(json.dumps(child(*json.loads(sys.argv[1]))))
        return
    import measure

    from supernet_jax import config

    parser = measure.parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: attentivenas)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--jobs", nargs="+", default=JOBS, choices=JOBS)
    parser.add_argument("--strategies", nargs="+", choices=["masked", "switched"])
    arguments = parser.parse_args()
    quick = arguments.quick
    space = arguments.space or (SMALL if quick else "attentivenas")
    strategies = arguments.strategies or (["masked"] if quick else ["masked", "switched"])
    size = arguments.resolution or measure.SIZES.get(space, 8)
    kinds = [(job, s) for job in arguments.jobs for s in strategies]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for i in range(1 if quick else arguments.rounds):
        for job, strategy in kinds:
            what = [job, space, strategy, size, arguments.batch, arguments.dtype]
            with tempfile.TemporaryDirectory(prefix="supernet-compile-") as cache:
                for state in ("cold", "warm"):
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
    """Builds one program and runs it once. Returns the seconds of each stage."""
    moments = [float(os.environ[BORN])]
    import jax

    from supernet_jax import machine

    machine.collect_rarely()  # as every command does
    moments.append(time.time())
    made = space_of(space, size)
    run, given, how = {"train": training, "evaluate": evaluation}[job](
        made, strategy, size, batch, dtype
    )
    jax.block_until_ready(given)
    moments.append(time.time())
    traced = run.trace(*given, **how)
    moments.append(time.time())
    lowered = traced.lower()
    moments.append(time.time())
    compiled = lowered.compile()
    moments.append(time.time())
    jax.block_until_ready(compiled(*given))
    moments.append(time.time())
    spent = [b - a for a, b in itertools.pairwise(moments)]
    return dict(zip(STAGES, [*spent, moments[-1] - moments[0]], strict=True))


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
    """The jitted step, its arguments, and its static ones."""
    import train_step

    from supernet_jax import train

    recipe, state, data = train_step.prepared(space, strategy, size, batch, dtype)
    return train.make_step(recipe), (state, data), {"resolutions": (size,) * 4}


def evaluation(space, strategy, size, batch, dtype):
    """The jitted evaluator, its arguments, and no static ones."""
    import evaluation as bench
    import jax
    import jax.numpy as jnp

    from supernet_jax import choices, config, evaluate

    params, data = bench.prepared(space, size, batch, 1)
    archs = choices.sample(space.menu, jax.random.key(1), (CANDIDATES,))
    strategy = bench.STRATEGIES[strategy]
    how = evaluate.Program(space, bench.prepare, strategy, config.dtype(dtype), size, None)

    @jax.jit
    def run(params, archs, data, batches, count):  # both programs of `evaluate`, one in the other
        given = params, archs, count, True
        stats = evaluate.calibrator(how)(*given, data.calibration)
        return evaluate.scorer(how)(*given, stats, data.images, data.labels, batches)

    batches = jnp.array([0, len(data.labels)], jnp.int32)
    return run, (params, archs, data, batches, jnp.full((1,), CANDIDATES, jnp.int32)), {}


if __name__ == "__main__":
    main()
