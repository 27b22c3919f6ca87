"""Memory: of evaluation, of a training step, and of parameters that are split over devices.

    python benchmarks/memory.py --quick
    python benchmarks/memory.py

Evaluation: in a process of its own for each number of candidates, the most that it held (of a GPU
too), and what it held after the first candidates and at the end. Compiling takes more than running,
so only the last two show what candidates leave behind.

Training: the temporary memory that the compiler plans for a step of the largest subnet alone, of
the sandwich (largest, smallest, 2 random), and of both with `train.remat`. Nothing is run.

Paths: the temporary memory that the compiler plans for the gradient of a code in a search of
NAS-Bench-201 by gradients, where all options are mixed, and where each edge runs two
(ProxylessNAS). Nothing is run.

Split: what the compiler plans on each of several virtual devices of this machine for programs that
take parameters split over all of them, in bytes of all parameters together: those that make the
first state, those of the largest subnet's blocks, and those that evaluate. Nothing is run. Few and
small images are given, so that activations are little beside weights.
"""

import json
import math
import os
import resource

import jax
import measure

MB = 1e6


def main() -> None:
    """Measures both and prints them, or is one of the processes."""
    if measure.is_child():
        what, *about = measure.asked()
        print(json.dumps(CHILDREN[what](*about)))
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
    parser.add_argument("--split-space", choices=spaces, help="(default: attentivenas)")
    parser.add_argument("--split-classes", type=int, default=10)
    parser.add_argument("--devices", type=int, default=8, help="virtual ones")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    arguments = parser.parse_args()
    figures = {name: SECTIONS[name](arguments) for name in arguments.sections}
    measure.write(arguments.json, figures)


def evaluation_section(arguments):
    """Measures evaluations and prints them."""
    counts = arguments.candidates or ([10, 100] if arguments.quick else [10, 10_000])
    about = about_of(arguments.space, arguments.resolution, arguments)
    evaluations = [measure.fresh(__file__, ["held", n, *about]) for n in counts]
    print(f"evaluation: {about[0]}, {about[1]} px, {about[2]} images a batch, {about[3]}; MB")
    columns = ["candidates", "most held", "after the first 10", "at the end", "most on the device"]
    measure.table(columns, [list(row.values()) for row in evaluations])
    return evaluations


def step_section(arguments):
    """Plans steps and prints them."""
    space = arguments.step_space or ("small" if arguments.quick else "cifar")
    about = about_of(space, arguments.step_resolution, arguments)
    steps = measure.fresh(__file__, ["planned", *about])
    print(f"training step: {about[0]}, {about[1]} px, {about[2]} images, {about[3]}")
    columns = ["step", "temporary, MB", "arguments, MB", "times the largest alone"]
    measure.table(columns, [list(row.values()) for row in steps])
    return steps


def paths_section(arguments):
    """Plans gradients of codes and prints them."""
    cells, channels = (1, 4) if arguments.quick else (1, 16)
    found = measure.fresh(__file__, ["code_gradients", cells, channels, arguments.batch])
    print(f"code: NAS-Bench-201, 32 px, C={channels}, N={cells}, {arguments.batch} images")
    measure.table(["what runs", "temporary, MB"], [list(row.values()) for row in found])
    return found


def split_section(arguments):
    """Plans what takes split parameters and prints it."""
    name = arguments.split_space or ("small" if arguments.quick else "attentivenas")
    devices = arguments.devices
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    about = [name, 8 if name in ("small", "digits") else 32, devices, arguments.split_classes]
    found = {
        what: measure.fresh(__file__, [what, *about], JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
        for what in ("first_state", "blocks", "evaluations")
    }
    size = found["first_state"]["parameters"] / MB
    print(f"split over {devices} devices: {name}, {about[1]} px, {devices} images, {size:.1f} MB")
    print(f"first state: most temporary {found['first_state']['temporary']:.2f} of all parameters")
    columns = ["block", "its weights", "forwards: temporary", "put out", "backwards: temporary"]
    measure.table([*columns, "put out"], [list(row.values()) for row in found["blocks"]])
    columns = ["program", "parameters", "arguments", "temporary"]
    measure.table(columns, [list(row.values()) for row in found["evaluations"]])
    return found


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
    strategy = config.strategy("masked", backend=jax.default_backend())
    how = evaluate.How(space, prepare, strategy, dtype=config.dtype(dtype), chunk=10)
    correct, first = 0, 0.0
    for _, result in evaluate.evaluate(how, params, archs, data):
        correct += float(result.value.sum())
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


def code_gradients(cells, channels, batch):
    """Megabytes of the gradient of a code, of all options and of two paths."""
    import jax.numpy as jnp

    from supernet_jax.elastic import shared_params
    from supernet_jax.elastic.mixed import mixed
    from supernet_jax.spaces import NasBench201

    space = NasBench201(cells=cells, channels=channels).build()
    size = space.sizes[0]
    params = shared_params.parameter_shapes(space)
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    code = jax.tree.map(lambda c: jax.ShapeDtypeStruct((len(c),), jnp.float32), space.menu)
    pairs = jax.tree.map(lambda c: jax.ShapeDtypeStruct((2,), jnp.int32), space.menu)

    def loss(code, params, images, pairs, two):
        how = {"size": size, "paths": pairs if two else None}
        return jnp.mean(jnp.square(mixed(space, params, code, images, **how).logits))

    found = []
    for name, two in (("all options", False), ("two paths", True)):
        program = jax.jit(jax.value_and_grad(loss), static_argnums=4)
        planned = program.lower(code, params, images, pairs, two).compile().memory_analysis()
        found.append({"runs": name, "temporary": planned.temp_size_in_bytes / MB})
    return found


def plan(recipe, state, data, size):
    """What the compiler plans for one step."""
    from supernet_jax.runtime import hardware
    from supernet_jax.training import train_step

    members = len(recipe.sampler.fixed) + recipe.sampler.n_random
    lowered = jax.jit(
        train_step.Step(recipe), static_argnames="sizes", donate_argnames="state"
    ).lower(state, data, sizes=(size,) * members)
    # Buffers are planned for the optimised program; machine code need not be.
    return lowered.compile(compiler_options=hardware.runs_once()).memory_analysis()


def split_space(name, size, devices, classes):
    """A space, the mesh of all devices, how its parameters are split there, and their bytes."""
    from compile import space_of

    from supernet_jax.elastic import shared_params
    from supernet_jax.experiment import config
    from supernet_jax.runtime import sharding

    if name == "small":
        space = space_of(name, size)
    else:
        made = config.SPACES[name].build(classes=classes, input_channels=3)
        space = measure.at_resolution(made, size)
    mesh = sharding.data_mesh()
    assert mesh.size == devices
    shapes = shared_params.parameter_shapes(space)
    where = sharding.place(mesh, {"params": shapes}, rules=sharding.SHARDED)["params"]
    total = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    return space, mesh, where, total


def first_state(*about):
    """Most temporary memory of the programs that make the first state."""
    from train_step import recipe_of

    from supernet_jax.runtime import sharding
    from supernet_jax.training import train_step

    space, mesh, where, total = split_space(*about)
    recipe = recipe_of(space, "masked", "float32", n_random=1)
    key = sharding.replicate(mesh, jax.random.key_data(jax.random.key(0)))
    programs = {group.program: group for group in train_step.starters(recipe, key, where)}
    lowered = [run.lower(*group.arguments) for run, group in programs.items()]
    places = train_step.places(recipe, mesh, sharding.SHARDED)
    params = shapes_at(train_step.shapes(recipe).params, where)
    rest = jax.jit(
        lambda key, params: train_step.create(recipe, key, params),
        out_shardings=places,
        donate_argnums=1,
    )
    lowered.append(rest.lower(key, params))
    plans = [program.compile().memory_analysis() for program in lowered]
    most = max(plan.temp_size_in_bytes for plan in plans)
    return {"parameters": total, "temporary": most / total}


def blocks(name, size, devices, classes):
    """The update, and the programs of the largest subnet's blocks, each kind once."""
    from supernet_jax.elastic import choices
    from supernet_jax.elastic.blockwise import Blockwise, Mode

    space, mesh, where, total = split_space(name, size, devices, classes)
    run = Blockwise(space, mesh=mesh, where=where)
    plan = run.plan(choices.largest(space.menu), Mode(size, devices))
    rows, seen = [], set()
    for operation, request in zip(plan.wiring.operations, plan.requests, strict=True):
        if request in seen:
            continue
        seen.add(request)
        program = request.compiled()
        forward, backward = (made.memory_analysis() for made in (program.forward, program.backward))
        rows.append(
            {
                "block": operation.block or "between",
                "weights": sum(4 * math.prod(w.shape) for w in request.weights) / total,
                "forward": forward.temp_size_in_bytes / total,
                "activations": forward.output_size_in_bytes / total,
                "backward": backward.temp_size_in_bytes / total,
                # Sums of gradients are donated: their parts are there before and after.
                "gradients": (backward.output_size_in_bytes - backward.alias_size_in_bytes) / total,
            }
        )
    finish = update(space, mesh).memory_analysis()
    added = finish.output_size_in_bytes - finish.alias_size_in_bytes
    found = {"block": "update", "weights": 1.0, "forward": finish.temp_size_in_bytes / total}
    found |= {"activations": added / total, "backward": 0.0, "gradients": 0.0}
    return [found, *sorted(rows, key=lambda row: -row["weights"])]


def update(space, mesh):
    """The compiled program that updates parameters and momentum, both split."""
    import jax.numpy as jnp
    from train_step import recipe_of

    from supernet_jax.runtime import sharding
    from supernet_jax.training import train_step

    recipe = recipe_of(space, "masked", "float32", n_random=1)
    places = train_step.places(recipe, mesh, sharding.SHARDED)
    state = shapes_at(train_step.shapes(recipe), places)
    one = jax.ShapeDtypeStruct((), jnp.float32)
    losses = {f"loss/{role}": one for role in ("largest", "smallest", "random_1")}
    metrics = losses | {"accuracy/largest": one, "accuracy/smallest": one}
    arch = jax.tree.map(lambda _: jax.ShapeDtypeStruct((1,), jnp.int32), space.menu)
    step = train_step.Step(recipe, mesh=mesh, rules=sharding.SHARDED)
    return step.finish.lower(state, state.params, metrics, arch, members=3).compile()


def evaluations(name, size, devices, classes):
    """The program that scores candidates, with whole and with split parameters."""
    import numpy as np
    from evaluation import prepare

    from supernet_jax.elastic import choices, shared_params, strategies
    from supernet_jax.evaluation import programs
    from supernet_jax.runtime import hardware, sharding

    space, mesh, where, total = split_space(name, size, devices, classes)
    shapes = shared_params.parameter_shapes(space)
    statistics = sum(leaf.size for leaf in jax.tree.leaves(shared_params.zero_stats(space)))
    archs = jax.device_get(choices.sample(space.menu, jax.random.key(1), (2,)))
    images = jax.ShapeDtypeStruct((1, devices, size, size, 3), np.uint8)
    labels = jax.ShapeDtypeStruct((1, devices), np.int32)
    stats = jax.ShapeDtypeStruct((2, statistics), np.float32)
    specs = tuple(place.spec for place in jax.tree.leaves(where))
    group = sharding.candidates_mesh(list(mesh.devices.flat), 1)
    rows = []
    for kind, splits in (("whole", ()), ("split", specs)):
        how = programs.How(space, prepare, strategies.masked)
        run = programs.scorer(programs.Program(how, size, group, splits))
        operands = (archs, np.ones(1, np.int32), True, stats, images, labels, np.array([0, 1]))
        lowered = run.lower(shapes, *operands)
        plan = lowered.compile(compiler_options=hardware.runs_once()).memory_analysis()
        rows.append(
            {
                "program": f"evaluation, parameters {kind}",
                "parameters": total / MB,
                "arguments": plan.argument_size_in_bytes / total,
                "temporary": plan.temp_size_in_bytes / total,
            }
        )
    return rows


def shapes_at(shapes, where):
    """Shapes with the shardings of a tree."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, where
    )


CHILDREN = {
    "held": held,
    "planned": planned,
    "code_gradients": code_gradients,
    "first_state": first_state,
    "blocks": blocks,
    "evaluations": evaluations,
}
SECTIONS = {
    "evaluation": evaluation_section,
    "step": step_section,
    "paths": paths_section,
    "split": split_section,
}

if __name__ == "__main__":
    main()
