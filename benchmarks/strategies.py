"""Which strategy is faster here: masked or switched, in training and in evaluation.

    python benchmarks/strategies.py --space digits --json strategies.json
    python benchmarks/strategies.py --space cifar --resolution 16 --batch 32

Times the gradient of random members of a step, and candidates calibrated and evaluated, with both
strategies in turn on the same inputs. Prints compile times, medians, spreads and the ratio; the
defaults in `supernet_jax/config.py` (FASTEST) are what this shows.
"""

import argparse
import functools
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax import choices, config, network
from supernet_jax.evaluate import EvaluationData, evaluate

STRATEGIES = {"masked": network.masked, "switched": network.switched}


def main() -> None:
    """Runs the comparison and prints it."""
    arguments = parse()
    space = config.SPACES[arguments.space].build(classes=10, input_channels=3)
    resolution = arguments.resolution or space.resolutions[0]
    params = network.init(space, jax.random.key(0))
    images = np.random.default_rng(0).integers(
        0, 256, (arguments.batch, resolution, resolution, 3), np.uint8
    )
    jobs = {
        "train": training_jobs(space, params, images, resolution, arguments.members),
        "evaluate": evaluation_jobs(space, params, images, arguments.candidates),
    }
    report = {
        "space": space.name,
        "resolution": resolution,
        "batch": arguments.batch,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.processor() or platform.machine()}, {platform.system()}",
        "jax": jax.__version__,
        "jobs": {job: compare(runs, arguments.repeats) for job, runs in jobs.items()},
    }
    for job, figures in report["jobs"].items():
        for name in STRATEGIES:
            f = figures[name]
            print(
                f"{job:<9} {name:<9} compile {f['compile_s']:7.1f} s   "
                f"median {f['median_ms']:9.1f} ms   ({f['min_ms']:.1f} to {f['max_ms']:.1f})"
            )
        print(f"{job:<9} switched / masked: {figures['ratio']:.2f}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=1)


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="digits", choices=sorted(config.SPACES))
    parser.add_argument("--resolution", type=int, default=0, help="pixels; 0: the smallest")
    parser.add_argument("--batch", type=int, default=64, help="images")
    parser.add_argument("--members", type=int, default=2, help="random members of a step")
    parser.add_argument("--candidates", type=int, default=8, help="archs per evaluation")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


def training_jobs(space, params, images, resolution, members):
    """Per strategy a function that computes gradients of random members."""
    labels = jnp.arange(len(images)) % space.classes
    inputs = jnp.asarray(images, jnp.float32) / 255.0

    def gradient(strategy, params, archs):
        def loss(params, arch):
            logits = strategy(space, params, arch, inputs, resolution=resolution).logits
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])

        def add(total, arch):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, arch)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), archs)[0]

    programs = {n: jax.jit(functools.partial(gradient, s)) for n, s in STRATEGIES.items()}
    # New archs in every repeat: a constant arch would fold the switch away.
    return {
        name: lambda i, program=program: program(
            params, choices.sample(space.menu, jax.random.key(i), (members,))
        )
        for name, program in programs.items()
    }


def evaluation_jobs(space, params, images, candidates):
    """Per strategy a function that calibrates and evaluates random candidates."""
    labels = np.arange(len(images), dtype=np.int32) % space.classes
    data = EvaluationData(jnp.asarray(images[None]), jnp.asarray(images[None]), labels[None])

    def prepare(images):
        return images.astype(jnp.float32) / 255.0

    def run(strategy, i):
        archs = choices.sample(space.menu, jax.random.key(i), (candidates,))
        archs = choices.replace(archs, space.resolution, jnp.zeros(candidates, jnp.int32))
        how = {"prepare": prepare, "strategy": strategy, "chunk": candidates}
        return list(evaluate(space, params, archs, data, **how))

    return {name: functools.partial(run, strategy) for name, strategy in STRATEGIES.items()}


def compare(runs, repeats):
    """Compile time, and times of the strategies in turn."""
    compile_s, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        compile_s[name] = timed(run, 0)
    for i in range(1, repeats + 1):
        for name, run in runs.items():
            times[name].append(1e3 * timed(run, i))
    figures = {
        name: {
            "compile_s": compile_s[name],
            "median_ms": statistics.median(times[name]),
            "min_ms": min(times[name]),
            "max_ms": max(times[name]),
        }
        for name in runs
    }
    ratio = figures["switched"]["median_ms"] / figures["masked"]["median_ms"]
    return {**figures, "ratio": ratio}


def timed(run, i):
    """Seconds of one call, its result waited for."""
    start = time.perf_counter()
    jax.block_until_ready(run(i))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
