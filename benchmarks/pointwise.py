"""A 1x1 convolution's gradient with respect to its weights: images as they are, and as a matrix.

    python benchmarks/pointwise.py --quick
    python benchmarks/pointwise.py --batch 32

Both are one product: of `[B, H, W, C]`, and of `[B * H * W, C]`. The library writes the second.
"""

import functools

import jax
import jax.numpy as jnp
import measure

from supernet_jax.experiment import config

SHAPES = ((24, 96, 64), (32, 144, 32), (128, 768, 8))  # channels in, out, pixels of a side


def main() -> None:
    """Compares the two and prints it."""
    parser = measure.parser(__doc__)
    parser.add_argument("--batch", type=int, default=32, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else arguments.rounds
    batch = 4 if arguments.quick else arguments.batch
    report = []
    for c, features, pixels in SHAPES:
        shape = (batch, pixels, pixels)
        runs = {
            f"[{', '.join(letters)}]": gradient(shape, c, features, flat, arguments.dtype)
            for flat, letters in ((False, ("B", "H", "W", "C")), (True, ("B * H * W", "C")))
        }
        timings = measure.in_turn(runs, rounds)
        about = {"channels": f"{c} to {features}", "pixels": pixels, "batch": batch}
        report += measure.rows(timings, base="[B, H, W, C]", dtype=arguments.dtype, **about)
    measure.timings_table(report, ("channels", "pixels", "batch", "dtype"))
    measure.write(arguments.json, report)


def gradient(shape, c, features, flat, dtype):
    """A function that computes the weights' gradient once."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*shape, c)).astype(config.dtype(dtype))
    g = jax.random.normal(keys[1], (*shape, features)).astype(x.dtype)
    w = jax.random.normal(keys[2], (c, features)).astype(x.dtype)

    def product(x, w):
        if flat:
            return jnp.dot(x.reshape(-1, c), w).reshape(*shape, features)
        return jnp.dot(x, w)

    @jax.jit
    def run(x, w, g):
        return jax.vjp(functools.partial(product, x), w)[1](g)

    return lambda _: run(x, w, g)


if __name__ == "__main__":
    main()
