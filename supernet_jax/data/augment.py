"""Pixels normalised, cropped and mirrored, utterances cut, on the device, inside jit.

Shapes: B images of a batch, H x W pixels of C channels (1 for grey).
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError

Array = jax.Array


def normalise(
    images: Array, *, mean: tuple[float, ...], std: tuple[float, ...], dtype: Any = jnp.float32
) -> Array:
    """Pixels as numbers around zero: `(image / 255 - mean) / std`, computed in float32.

    Args:
        images: uint8 [..., H, W, C].
        mean: C numbers, of pixels in 0..1.
        std: C numbers, of pixels in 0..1, above 0.
        dtype: of the result.

    Returns:
        [..., H, W, C] of `dtype`.
    """
    chex.assert_axis_dimension(images, -1, len(mean))
    shape = (1,) * (images.ndim - 1) + (len(mean),)
    scale = (1 / (255 * np.array(std))).astype(np.float32).reshape(shape)
    shift = (-np.array(mean) / np.array(std)).astype(np.float32).reshape(shape)
    return (images.astype(jnp.float32) * scale + shift).astype(dtype)


def begun_elsewhere(features: Array, key: Array, example_ids: Array) -> Array:
    """Each utterance from a random frame on, its beginning behind its end: the beginning of that is
    a random part of the utterance.

    Args:
        features: [B, T, F].
        key: as of `augment`.
        example_ids: as of `augment`.
    """

    def one(features: Array, example_id: Array) -> Array:
        own = jax.random.fold_in(key, example_id)
        return jnp.roll(features, -jax.random.randint(own, (), 0, len(features)), axis=0)

    return jax.vmap(one)(features, example_ids)


def augment(images: Array, key: Array, example_ids: Array, *, pad: int, flip: bool) -> Array:
    """Crop each image at random out of itself with a border of zeros, then maybe mirror it.

    The crop and the flip of an example depend on `key` and its id alone: not on its place in the
    batch, the rest of the batch or the number of devices. A key made from (seed, step) makes them
    a function of (seed, step, example).

    Args:
        images: uint8 [B, H, W, C].
        key: one typed key, consumed here.
        example_ids: int32 [B], for instance each image's index in the training data. Two copies
            of an id in one batch are treated alike.
        pad: width of the border; the crop moves by -pad..pad pixels on each axis, uniformly.
        flip: whether to mirror left and right with probability 1/2.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        UserError: if the border is negative, or wide enough for a crop without any image in it.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    _, height, width, _ = images.shape
    if not 0 <= pad < min(height, width):
        raise UserError(
            f"pad is {pad}, but crops of {height} x {width} images allow 0 to "
            f"{min(height, width) - 1}"
        )

    def draw(example_id: Array) -> Array:
        # bits modulo 2 pad + 1 are uniform to one part in 1e8, and cheaper than `randint`
        bits = jax.random.bits(jax.random.fold_in(key, example_id), (3,), jnp.uint32)
        return (bits % np.array([2 * pad + 1, 2 * pad + 1, 2], np.uint32)).astype(jnp.int32)

    down, right, coin = jax.vmap(draw)(example_ids).T
    mirrored = coin[:, None] == 1
    if pad == 0:
        return jnp.where(mirrored[..., None, None], images[:, :, ::-1], images) if flip else images
    rows = jnp.arange(height)[None, :] + (down - pad)[:, None]
    columns = jnp.arange(width)[None, :]
    if flip:
        columns = jnp.where(mirrored, width - 1 - columns, columns)
    columns = columns + (right - pad)[:, None]
    return _pixels_at(images, rows, columns)


def _pixels_at(images: Array, rows: Array, columns: Array) -> Array:
    """Each image at its own rows and columns, 0 where they lie outside it.

    One gather per axis and one mask for both: on a CPU faster than `vmap` of `dynamic_slice`, a
    mask per gather, one-hot products, or selecting among shifted images (by far the slowest).

    Args:
        images: [B, H, W, C].
        rows: int [B, H].
        columns: int [B, W].
    """
    _, height, width, _ = images.shape
    taken = jnp.take_along_axis(images, jnp.clip(rows, 0, height - 1)[:, :, None, None], axis=1)
    taken = jnp.take_along_axis(taken, jnp.clip(columns, 0, width - 1)[:, None, :, None], axis=2)
    rows_inside, columns_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    inside = rows_inside[:, :, None, None] & columns_inside[:, None, :, None]
    return jnp.where(inside, taken, jnp.zeros((), images.dtype))


def erase(
    images: Array,
    key: Array,
    example_ids: Array,
    *,
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: float = 0.3,
) -> Array:
    """Fills a random rectangle of some images with random pixels.

    Zhong et al. 2020 (random erasing, arXiv:1708.04896), algorithm 1: the rectangle's share of the
    area is uniform, and so is its height over its width. The algorithm draws again until one fits;
    here sides are cut to the image, so that each image is decided by its id in one go.

    Args:
        images: uint8 [B, H, W, C].
        key: one typed key, consumed here.
        example_ids: int32 [B].
        probability: of erasing, in [0, 1].
        area: smallest and largest share of the image, in (0, 1].
        ratio: smallest height over width, in (0, 1]; the largest is its reciprocal.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        UserError: a number is out of range.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    if not (0 <= probability <= 1 and 0 < area[0] <= area[1] <= 1 and 0 < ratio <= 1):
        raise UserError(
            f"random erasing has probability={probability}, area={area}, ratio={ratio}; the first "
            "must lie in [0, 1], the others in (0, 1], the smaller area first"
        )
    _, height, width, channels = images.shape

    def one(image: Array, example_id: Array) -> Array:
        numbers_key, pixels_key = jax.random.split(jax.random.fold_in(key, example_id))
        coin, share, shape, down, right = jax.random.uniform(numbers_key, (5,))
        share = height * width * (area[0] + share * (area[1] - area[0]))
        shape = ratio + shape * (1 / ratio - ratio)
        tall = jnp.clip(jnp.round(jnp.sqrt(share * shape)), 1, height)
        wide = jnp.clip(jnp.round(jnp.sqrt(share / shape)), 1, width)
        top = jnp.floor(down * (height - tall + 1))
        left = jnp.floor(right * (width - wide + 1))
        rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        noise = jax.random.bits(pixels_key, (height, width, channels), jnp.uint8)
        return jnp.where(inside & (coin < probability), noise, image)

    return jax.vmap(one)(images, example_ids)


def mixup(
    inputs: Array, labels: Array, key: Array, example_ids: Array, *, alpha: float, classes: int
) -> tuple[Array, Array]:
    """Each image mixed with the next one of the batch, and so are their labels.

    Zhang et al. 2018 (mixup, arXiv:1710.09412), section 2: `v x + (1 - v) x'` with v from
    Beta(alpha, alpha), for images and one-hot labels alike. v depends on `key` and the image's id
    alone; the partner is the next image of the batch, the first one for the last.

    Args:
        inputs: float [B, ...].
        labels: integers [B], in [0, classes).
        key: one typed key, consumed here.
        example_ids: int32 [B].
        alpha: above 0; the smaller, the less is mixed.
        classes: K.

    Returns:
        Mixed inputs, and labels as float32 [B, K] that sum to 1.

    Raises:
        UserError: alpha is not above 0.
    """
    if not alpha > 0:
        raise UserError(f"mixup has alpha={alpha}; it must be above 0, commonly 0.2")
    chex.assert_equal_shape_prefix([inputs, labels, example_ids], 1)

    def draw(example_id: Array) -> Array:
        return jax.random.beta(jax.random.fold_in(key, example_id), alpha, alpha)

    own = jax.vmap(draw)(example_ids)
    return _with_next(inputs, own), _with_next(_one_hot(labels, classes), own)


def cutmix(
    inputs: Array, labels: Array, key: Array, example_ids: Array, *, alpha: float, classes: int
) -> tuple[Array, Array]:
    """A rectangle of each image taken from the next one of the batch; labels by its share.

    Yun et al. 2019 (CutMix, arXiv:1905.04899), section 3.1: the rectangle has the image's shape, a
    share of 1 - v of its area with v from Beta(alpha, alpha), and its middle anywhere; what lies
    outside of the image is cut off, and the label is by the share that is left. What is drawn
    depends on `key` and the image's id alone; the partner is as in `mixup`.

    Args:
        inputs: float [B, H, W, C].
        labels: integers [B], in [0, classes).
        key: one typed key, consumed here.
        example_ids: int32 [B].
        alpha: above 0; 1 makes all shares equally likely.
        classes: K.

    Returns:
        Inputs, and labels as float32 [B, K] that sum to 1.

    Raises:
        UserError: alpha is not above 0.
    """
    if not alpha > 0:
        raise UserError(f"cutmix has alpha={alpha}; it must be above 0, commonly 1")
    chex.assert_rank(inputs, 4)
    chex.assert_equal_shape_prefix([inputs, labels, example_ids], 1)
    _, height, width, _ = inputs.shape

    def draw(example_id: Array) -> Array:
        share_key, place_key = jax.random.split(jax.random.fold_in(key, example_id))
        side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
        down, right = jax.random.uniform(place_key, (2,))

        def covered(count: int, middle: Array) -> Array:
            length, at = jnp.floor(side * count), jnp.floor(middle * count)
            first = at - jnp.floor(length / 2)
            return (jnp.arange(count) >= first) & (jnp.arange(count) < first + length)

        return covered(height, down)[:, None] & covered(width, right)[None, :]

    theirs = jax.vmap(draw)(example_ids)
    mixed = jnp.where(theirs[..., None], jnp.roll(inputs, -1, axis=0), inputs)
    return mixed, _with_next(_one_hot(labels, classes), 1 - jnp.mean(theirs, (1, 2)))


def mix(
    inputs: Array,
    labels: Array,
    key: Array,
    example_ids: Array,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    classes: int,
) -> tuple[Array, Array]:
    """`mixup` or `cutmix`; with both, a coin for each image decides.

    Args:
        inputs: float [B, H, W, C].
        labels: integers [B], in [0, classes).
        key: one typed key, consumed here.
        example_ids: int32 [B].
        mixup_alpha: of `mixup`, 0 for none of it.
        cutmix_alpha: of `cutmix`, 0 for none of it; not both are 0.
        classes: K.

    Returns:
        Inputs, and labels as float32 [B, K] that sum to 1.

    Raises:
        UserError: an alpha is below 0, or both are 0.
    """
    if not cutmix_alpha:
        return mixup(inputs, labels, key, example_ids, alpha=mixup_alpha, classes=classes)
    if not mixup_alpha:
        return cutmix(inputs, labels, key, example_ids, alpha=cutmix_alpha, classes=classes)
    first, second, coins = jax.random.split(key, 3)
    blended = mixup(inputs, labels, first, example_ids, alpha=mixup_alpha, classes=classes)
    pasted = cutmix(inputs, labels, second, example_ids, alpha=cutmix_alpha, classes=classes)
    coin = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(coins, i)))(example_ids)

    def either(a: Array, b: Array) -> Array:
        return jnp.where(coin.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return either(blended[0], pasted[0]), either(blended[1], pasted[1])


def _one_hot(labels: Array, classes: int) -> Array:
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)


def _with_next(x: Array, share: Array) -> Array:
    """Each of a batch times its share, and the next one times the rest."""
    v = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return v * x + (1 - v) * jnp.roll(x, -1, axis=0)
