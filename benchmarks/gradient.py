"""Tracing, compiling and running one member's gradient: largest, masked, switched.

    python benchmarks/gradient.py --quick
    python benchmarks/gradient.py --space attentivenas --resolution 128 --batch 32

Each variant has a process of its own, with nothing in any cache:

- largest: the largest subnet, sliced; on CPU also without the compiled kernels;
- masked: a random arch; "in loops" runs blocks that are alike in one loop, which is not done;
- switched: a random arch; "forward" without gradient, which is what evaluation runs; "unrolled" as
  a topology of the user's own, which has no loops.

"trace" is until the compiler is handed the program. The loss is the sum of squared logits.
"""

import functools
import json
import statistics
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import measure


class Variant(NamedTuple):
    """What is traced, compiled and run."""

    strategy: str
    forward: bool = False  # without gradient
    loops: bool = False  # asks for loops where the strategy has none
    unrolled: bool = False  # has none where the strategy has some
    native: bool = True


VARIANTS: Mapping[str, Variant] = {
    "largest": Variant("sliced"),
    "largest, not native": Variant("sliced", native=False),
    "masked": Variant("masked"),
    "masked, in loops": Variant("masked", loops=True),
    "switched": Variant("switched"),
    "switched, forward": Variant("switched", forward=True),
    "switched, forward, unrolled": Variant("switched", forward=True, unrolled=True),
}
QUICK = ("largest", "masked")


def main() -> None:
    """Starts a process for each variant and prints what they found."""
    if measure.is_child():
        print(json.dumps(child(*measure.asked())))
        return
    from compile import SMALL

    from supernet_jax.experiment import config

    parser = measure.parser(__doc__)
    parser.add_argument("--space", choices=sorted(config.SPACES), help="(default: attentivenas)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the space's)")
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    arguments = parser.parse_args()
    space = arguments.space or (SMALL if arguments.quick else "attentivenas")
    size = arguments.resolution or measure.SIZES.get(space, 8)
    rounds = 3 if arguments.quick else arguments.rounds
    report = []
    for name in arguments.variants or (QUICK if arguments.quick else VARIANTS):
        what = [name, space, size, arguments.batch, arguments.dtype, rounds]
        environment = {} if VARIANTS[name].native else {"SUPERNET_NATIVE": "0"}
        report.append({"variant": name} | measure.fresh(__file__, what, **environment))
        print(json.dumps(report[-1]), file=sys.stderr)  # all is not lost if the next one is ended
    print(f"{space}, {size} px, {arguments.batch} images, {arguments.dtype}:")
    columns = ["", "trace, s", "compile, s", "run, s", "from", "to", "temporary, MB"]
    measure.table(columns, [list(row.values()) for row in report])
    measure.write(arguments.json, report)


def child(name, space_name, size, batch, dtype, rounds):
    """Seconds of one variant's stages, and the memory that the compiler plans."""
    import jax
    import jax.numpy as jnp
    from compile import space_of  # the script beside this one

    from supernet_jax.elastic import choices, shared_params, strategies
    from supernet_jax.experiment import config
    from supernet_jax.runtime import hardware

    variant = VARIANTS[name]
    space = space_of(space_name, size)
    how = {"size": size, "dtype": config.dtype(dtype)}
    if variant.loops:
        how["loops"] = True
    run = {
        "sliced": strategies.sliced,
        "masked": strategies.masked,
        "switched": strategies.switched,
    }
    strategy = functools.partial(run[variant.strategy], unrolled(space, variant.unrolled), **how)
    make = functools.partial(shared_params.init, space)
    params = jax.jit(make, compiler_options=hardware.runs_once())(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (batch, size, size, 3))
    if variant.strategy == "sliced":
        archs = [()] * (rounds + 1)
        strategy = at_arch(strategy, choices.largest(space.menu))
    else:
        drawn = choices.sample(space.menu, jax.random.key(2), (rounds + 1,))
        archs = [jax.tree.map(jnp.asarray, arch) for arch in choices.unstack(drawn)]

    def loss(params, arch, images):
        return jnp.sum(strategy(params, arch, images).logits ** 2)

    given = jax.block_until_ready((params, archs[0], images))
    start = time.perf_counter()
    lowered = jax.jit(loss if variant.forward else jax.grad(loss)).lower(*given)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    runs = [
        measure.timed(lambda i: compiled(params, archs[i], images), i) for i in range(rounds + 1)
    ]
    return {
        "trace": traced - start,
        "compile": done - traced,
        "run": statistics.median(runs[1:]),
        "from": min(runs[1:]),
        "to": max(runs[1:]),
        "temporary": compiled.memory_analysis().temp_size_in_bytes / 1e6,
    }


def at_arch(strategy, arch):
    """A concrete arch, whatever is passed."""
    return lambda params, _, images: strategy(params, arch, images)


def unrolled(space, wanted):
    """The same chain of blocks as a plain topology, in which no strategy sees neighbours."""
    import dataclasses

    def forward(run, x):
        return functools.reduce(lambda value, name: run(name, value), space.blocks, x)

    return dataclasses.replace(space, forward=forward) if wanted else space


if __name__ == "__main__":
    main()
