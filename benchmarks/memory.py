"""Memory: of evaluation by the number of candidates, and of a training step as it is planned.

    python benchmarks/memory.py --quick
    python benchmarks/memory.py

Evaluation: in a process of its own for each number of candidates, the most that it held (of a GPU
too), and what it held after the first candidates and at the end. Compiling takes more than running,
so only the last two show what candidates leave behind.

Training: the temporary memory that the compiler plans for a step of the largest subnet alone, of
the sandwich (largest, smallest, 2 random), and of both with `train.remat`. Nothing is run.
"""

import json
import resource

import jax
import measure

MB = 1e6


def main() -> None:
    """Measures both and prints them, or is one of the processes."""
    if measure.is_child():
        print(
            json.dumps({"held": held, "planned": planned}[measure.asked()[0]](*measure.asked()[1:]))
        )
        return
    from supernet_jax.experiment import config

    parser = measure.parser(__doc__)
    spaces = ["small", *sorted(config.SPACES)]
    parser.add_argument("--space", default="small", choices=spaces, help="of evaluation")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--candidates", type=int, nargs="+", help="(default: 10 and 10,000)")
    parser.add_argument("--step-space", choices=spaces, help="of the step (default: cifar)")
    parser.add_argument("--step-resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    counts = arguments.candidates or ([10, 100] if arguments.quick else [10, 10_000])
    about = about_of(arguments.space, arguments.resolution, arguments)
    evaluations = [measure.fresh(__file__, ["held", n, *about]) for n in counts]
    print(f"evaluation: {about[0]}, {about[1]} px, {about[2]} images a batch, {about[3]}; MB")
    columns = ["candidates", "most held", "after the first 10", "at the end", "most on the device"]
    measure.table(columns, [list(row.values()) for row in evaluations])
    space = arguments.step_space or ("small" if arguments.quick else "cifar")
    about = about_of(space, arguments.step_resolution, arguments)
    steps = measure.fresh(__file__, ["planned", *about])
    print(f"training step: {about[0]}, {about[1]} px, {about[2]} images, {about[3]}")
    columns = ["step", "temporary, MB", "arguments, MB", "times the largest alone"]
    measure.table(columns, [list(row.values()) for row in steps])
    measure.write(arguments.json, {"evaluation": evaluations, "step": steps})


def about_of(space, pixels, arguments):
    """What a process is told: space, pixels, images and dtype."""
    return [space, pixels or measure.SIZES.get(space, 8), arguments.batch, arguments.dtype]


def held(count, name, size, batch, dtype):
    """Megabytes that a process holds that evaluates so many candidates."""
    from compile import space_of  # the script beside this one
    from evaluation import population, prepare, prepared

    from supernet_jax.evaluation import evaluate
    from supernet_jax.experiment import config

    space = space_of(name, size)
    params, data = prepared(space, size, batch, 1)
    archs = population(space.menu, None, count, 0)
    strategy = config.strategy("auto", job="evaluate", backend=jax.default_backend())
    how = evaluate.How(space, prepare, strategy, dtype=config.dtype(dtype), chunk=10)
    correct, first = 0, 0.0
    for _, result in evaluate.evaluate(how, params, archs, data):
        correct += int(result.correct.sum())
        first = first or resident()
    statistics = jax.devices()[0].memory_stats() or {}  # a CPU has none
    return {
        "candidates": count,
        "most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB,
        "first": first,
        "end": resident(),
        "device": statistics.get("peak_bytes_in_use", 0) / MB,
    }


def resident() -> float:
    """Megabytes that this process holds now (Linux)."""
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / MB


def planned(name, size, batch, dtype):
    """Megabytes of each kind of step, as the compiler plans them."""
    from compile import space_of
    from train_step import prepared

    space = space_of(name, size)
    recipe, state, data = prepared(space, "masked", size, batch, dtype)
    alone = recipe.sampler._replace(fixed=recipe.sampler.fixed[:1], n_random=0)
    kinds = {
        "largest alone": recipe._replace(sampler=alone),
        "sandwich": recipe,
        "largest alone, remat": recipe._replace(sampler=alone, remat=True),
        "sandwich, remat": recipe._replace(remat=True),
    }
    plans = {kind: plan(recipe, state, data, size) for kind, recipe in kinds.items()}
    base = plans["largest alone"].temp_size_in_bytes
    return [
        {
            "step": kind,
            "temporary": found.temp_size_in_bytes / MB,
            "arguments": found.argument_size_in_bytes / MB,
            "ratio": found.temp_size_in_bytes / base,
        }
        for kind, found in plans.items()
    ]


def plan(recipe, state, data, size):
    """What the compiler plans for one step."""
    from supernet_jax.runtime import hardware
    from supernet_jax.training import train_step

    members = len(recipe.sampler.fixed) + recipe.sampler.n_random
    lowered = jax.jit(
        train_step.Step(recipe), static_argnames="resolutions", donate_argnames="state"
    ).lower(state, data, resolutions=(size,) * members)
    # Buffers are planned for the optimised program; machine code need not be.
    return lowered.compile(compiler_options=hardware.runs_once()).memory_analysis()


if __name__ == "__main__":
    main()
