"""Batch normalisation and swish: the operation alone, forward, and with its gradient.

    python benchmarks/norm.py --quick
    python benchmarks/norm.py --json norm.json

In turn: the formula under autodiff, the operation with its own gradient by XLA, and, on one CPU
device, the same by the compiled kernels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measure

from supernet_jax.nn import batch_norm
from supernet_jax.runtime import native

SHAPES = [(32, 64, 64, 96), (32, 32, 32, 192), (32, 16, 16, 384), (32, 8, 8, 1200)]


def main() -> None:
    """Runs the comparison and prints it."""
    parser = measure.parser(__doc__)
    arguments = parser.parse_args()
    report = []
    for shape in SHAPES[-1:] if arguments.quick else SHAPES:
        for job, timings in compare(shape, arguments.rounds).items():
            about = {"shape": " x ".join(map(str, shape)), "job": job}
            report += measure.rows(timings, base="autodiff", **about)
    measure.timings_table(report, ["shape", "job"])
    measure.write(arguments.json, report)


def compare(shape: tuple[int, ...], rounds: int) -> dict[str, dict[str, measure.Timing]]:
    """Times of each way, forward and with the gradient."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, g = (jax.random.normal(key, shape) for key in keys[:2])
    vectors = [jax.random.normal(key, shape[-1:]) for key in keys[2:]]
    found = {}
    for job, make in (("forward", forward), ("forward and gradient", with_gradient)):
        programs = {name: jax.jit(make(way)) for name, way in ways(x).items()}
        runs = {
            name: lambda i, program=program: program(x, *vectors, g)
            for name, program in programs.items()
        }
        found[job] = measure.in_turn(runs, rounds)
    return found


def ways(x: jax.Array) -> dict[str, Callable[..., jax.Array]]:
    """What is compared, each `(x, scale, bias) -> y`."""
    own = functools.partial(batch_norm.batch_norm, swish=True)
    found = {"autodiff": formula, "own gradient, XLA": lambda *args: own(*args)[0]}
    if native.takes_norm(x):
        found["own gradient, XLA"] = lambda *args: batch_norm._batch_norm(
            batch_norm.PLAIN, True, *args
        )[0]
        found["own gradient, compiled"] = lambda *args: own(*args)[0]
    return found


def formula(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """As the textbook has it."""
    mean = jnp.mean(x, (0, 1, 2))
    variance = jnp.mean(jnp.square(x - mean), (0, 1, 2))
    return jax.nn.swish((x - mean) * (jax.lax.rsqrt(variance + batch_norm.EPSILON) * scale) + bias)


def forward(way: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The operation alone."""
    return lambda x, scale, bias, g: way(x, scale, bias)


def with_gradient(way: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The operation and its gradients."""

    def run(x: jax.Array, scale: jax.Array, bias: jax.Array, g: jax.Array) -> Any:
        y, back = jax.vjp(way, x, scale, bias)
        return y, back(g)

    return run


if __name__ == "__main__":
    main()
