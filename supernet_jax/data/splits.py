"""Cutting a dataset in parts by seed, and what tells one dataset from another."""

import hashlib
from typing import Any

import numpy as np

from supernet_jax.data.decode import AS_THEY_LIE
from supernet_jax.data.images import Images, Stored, select
from supernet_jax.errors import UserError

# What a stream of random numbers is for.
SPLIT, ORDER, CALIBRATION, CROP, STATISTICS, EVALUATION, SECOND = range(7)
SAMPLE = 2048  # images of a stored part that mean and deviation are taken from


def random_stream(seed: int, purpose: int, *more: int) -> np.random.Generator:
    """Random numbers of their own for each purpose (a spawn key, so none can coincide)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *more)))


def count(
    held_out: float | int,
    labels: np.ndarray,
    *,
    what: str,
    remedy: str = "take fewer, or add some",
    things: str = "images",
) -> int:
    """How many examples to take away, given a fraction or a number.

    Raises:
        UserError: it is neither, or takes the last image of a class. It begins with `what`, and
            ends with `remedy`, unless no number at all would do.
    """
    n, classes = len(labels), len(np.unique(labels))
    fraction = isinstance(held_out, float)
    if isinstance(held_out, bool) or not (0 < held_out < 1 if fraction else held_out >= 1):
        raise UserError(
            f"{what} is {held_out}; give a fraction between 0 and 1, or a whole number of {things} "
            "from 1"
        )
    wanted = max(1, round(held_out * n)) if fraction else int(held_out)
    if wanted > n - classes:
        if n == classes:
            raise UserError(
                f"{what} {held_out} would take {wanted} of {n} training {things}, but each of the "
                f"{classes} classes has one alone, which it must keep; add {things}"
            )
        raise UserError(
            f"{what} {held_out} would take {wanted} of {n} training {things}; at most "
            f"{n - classes} can go, so that each of the {classes} classes keeps one: {remedy}"
        )
    return wanted


def split(images: Images, count: int, *, rng: np.random.Generator) -> tuple[Images, Images]:
    """All but `count` images in the order they had, and those, in random order.

    Each class gives its exact share rounded down or up (largest remainders, ties at random), less
    only where it would lose its last image. The order is random so that the first few of a part
    stand for all of it, even where a source lists one class after the other.
    """
    labels = images.labels
    sizes = np.bincount(labels)
    take = count * sizes // len(labels)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-(count * sizes % len(labels))[order], kind="stable")]
    while missing := count - take.sum():
        room = order[take[order] < sizes[order] - 1]
        take[room[:missing]] += 1
    classes = (rng.permutation(np.flatnonzero(labels == label)) for label in range(len(sizes)))
    chosen = rng.permutation(np.concatenate([c[:k] for c, k in zip(classes, take, strict=True)]))
    rest = np.setdiff1d(np.arange(len(labels)), chosen)
    return select(images, rest), select(images, chosen)


def second_part(images: Images, share: float, *, seed: int) -> tuple[Images, Images]:
    """Training examples for weights, and others for what a sampler learns.

    Args:
        images: the training examples.
        share: of the second part, above 0 and below 1.
        seed: of the split.

    Raises:
        UserError: one of the parts would have no example.
    """
    n = len(images.labels)
    wanted = round(share * n)
    if not 0 < wanted < n:
        raise UserError(
            f"data.second {share} of {n} training examples leaves one part without any; give a "
            "share nearer to one half"
        )
    order = random_stream(seed, SECOND).permutation(n)
    return select(images, np.sort(order[wanted:])), select(images, np.sort(order[:wanted]))


def sample(images: Images) -> np.ndarray:
    """What mean and deviation are taken from: all in memory, or up to `SAMPLE` of stored images."""
    if isinstance(images.images, np.ndarray):
        return images.images
    n = len(images.labels)
    chosen = random_stream(0, STATISTICS).permutation(n)[:SAMPLE]
    return images.images[np.sort(chosen)]


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, from exact integer sums."""
    total = squares = np.zeros(images[0].size, np.uint64)
    for start in range(0, len(images), 1024):  # sums over so many fit uint32
        chunk = images[start : start + 1024].reshape(-1, total.size)
        total = total + chunk.sum(0, dtype=np.uint32)
        squares = squares + np.square(chunk, dtype=np.uint32).sum(0, dtype=np.uint32)
    count = images[..., 0].size
    mean, squares = (v.reshape(-1, images.shape[-1]).sum(0) / count for v in (total, squares))
    variance = squares - mean**2
    std = np.sqrt(np.maximum(variance, 1))  # a constant channel must not divide by zero
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def fingerprint(*parts: Images, about: Any) -> str:
    """The first 16 hex digits of a SHA-256 over everything that tells datasets apart."""
    digest = hashlib.sha256(repr(about).encode())
    for part in parts:
        digest.update(repr(part.images.shape).encode())
        if isinstance(part.images, Stored):
            digest.update(_identity(part.images))
        else:
            digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.astype("<i4").data)
    return digest.hexdigest()[:16]


def _identity(stored: Stored) -> bytes:
    """The files, which of them these are, and how they are decoded."""
    about: tuple = (stored.source.identity(), stored.crop)
    if stored.how != AS_THEY_LIE:  # of the others the fingerprint is older than this setting
        about = (*about, *stored.how)
    return repr(about).encode() + stored.places.astype("<i8").tobytes()
