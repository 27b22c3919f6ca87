"""Which examples make up a batch: of training, of evaluation, of calibration."""

import functools

import numpy as np

from supernet_jax.data.images import Images, select
from supernet_jax.data.splits import CALIBRATION, EVALUATION, ORDER, random_stream


def batch_indices(n: int, batch: int, *, seed: int, step: int) -> np.ndarray:
    """Which examples make up the batch of a step: a pure function of (seed, step).

    Every epoch is a fresh permutation. Batches run on over the end of an epoch, so no example is
    dropped: the first `n * epochs` places of the stream hold each example `epochs` times.

    Args:
        n: number of examples, at least 1.
        batch: examples of a batch, B; it may exceed n.
        seed: at least 0.
        step: at least 0.

    Returns:
        int64 [B], in 0..n-1.
    """
    start, stop = int(step) * batch, (int(step) + 1) * batch
    epochs = range(start // n, (stop - 1) // n + 1)
    parts = [_order(n, seed, e)[max(start - e * n, 0) : stop - e * n] for e in epochs]
    return np.concatenate(parts)


@functools.lru_cache(maxsize=2)  # a batch touches two epochs at most, unless it exceeds an epoch
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch, int64 [n]."""
    order = random_stream(seed, ORDER, epoch).permutation(n)
    order.setflags(write=False)  # it is shared by all who ask
    return order


def shuffled(images: Images, *, seed: int) -> Images:
    """The examples in random order; nothing is decoded."""
    order = random_stream(seed, EVALUATION).permutation(len(images.labels))
    return select(images, order)


def padded_batches(images: Images, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """All examples in order, in chunks of one size for evaluation.

    Returns:
        Inputs uint8 (of speech float32) [ceil(N / B), B, ...], zero where padded, and labels int32
        [ceil(N / B), B, ...], -1 where padded.
    """
    chunks, own = -(-len(images.labels) // batch), images.images[:]
    pixels = np.zeros((chunks * batch, *own.shape[1:]), own.dtype)
    labels = np.full((chunks * batch, *images.labels.shape[1:]), -1, np.int32)
    pixels[: len(images.labels)] = own
    labels[: len(images.labels)] = images.labels[:]
    rows = (chunks, batch)
    return pixels.reshape(*rows, *pixels.shape[1:]), labels.reshape(*rows, *labels.shape[1:])


def calibration_subset(images: Images, *, batches: int, batch: int, seed: int) -> np.ndarray:
    """Examples drawn without replacement, to calibrate BatchNorm on.

    Where there are too few, fewer batches come back, but at least one, which then may be smaller:
    the shape tells what was used.

    Returns:
        uint8, of speech float32, [batches, B, ...].
    """
    n = len(images.labels)
    batch = min(batch, n)
    batches = min(batches, n // batch)
    chosen = random_stream(seed, CALIBRATION).permutation(n)[: batches * batch]
    return images.images[chosen].reshape(batches, batch, *images.images.shape[1:])
