"""Depthwise convolution, normalisation and swish, forwards and back: by XLA and compiled kernels.

    python benchmarks/kernels.py --quick
    JAX_NUM_CPU_DEVICES=4 python benchmarks/kernels.py --rounds 15

In turn, on a CPU. With several devices the batch is split over them; virtual ones share the cores,
so the ratio says something, and the time of one row beside another does not.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import measure

from supernet_jax.nn import batch_norm, depthwise
from supernet_jax.runtime import native, sharding

# Images, kernel and stride of the second to the fifth stage of a MobileNet at 224 pixels.
CASES = (
    ((32, 56, 56, 96), 3, 1),
    ((32, 28, 28, 144), 5, 1),
    ((32, 28, 28, 192), 3, 2),
    ((32, 14, 14, 480), 5, 1),
)


def main() -> None:
    """Compares the two and prints it."""
    arguments = measure.parser(__doc__).parse_args()
    mesh, report = sharding.data_mesh(), []
    for shape, k, stride in CASES[-1:] if arguments.quick else CASES:
        x = sharding.split(mesh, jax.random.normal(jax.random.key(0), shape))
        vectors = jnp.ones((k, k, 1, shape[-1])) / k**2, jnp.ones(shape[-1]), jnp.zeros(shape[-1])
        given = (x, *sharding.replicate(mesh, vectors))
        runs = {
            name: lambda i, run=run, given=given: run(*given)
            for name, run in (
                ("XLA", program(native.aside(), stride, given)),
                ("compiled kernels", program(contextlib.nullcontext(), stride, given)),
            )
        }
        about = {"devices": mesh.size, "shape": " x ".join(map(str, shape))}
        about |= {"kernel": k, "stride": stride}
        timings = measure.in_turn(runs, arguments.rounds)
        report += measure.rows(timings, base="XLA", **about)
    measure.timings_table(report, ["devices", "shape", "kernel", "stride"])
    measure.write(arguments.json, report)


def program(
    how: contextlib.AbstractContextManager[None], stride: int, given: tuple[jax.Array, ...]
) -> Any:
    """The compiled gradient with respect to all operands."""

    def loss(x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        y = depthwise.depthwise(x, kernel, stride)
        y, _ = batch_norm.batch_norm(y, scale, bias, swish=True)
        return jnp.sum(y * y)

    with how:
        return jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*given).compile()


if __name__ == "__main__":
    main()
