"""AutoAugment and RandAugment on the device, on uint8 batches, inside jit.

Each image has its own operation, yet not every operation is computed for every image: all geometric
ones are one affine map (one gather), all that act on a pixel's value alone are one table of 256
values, the rest blends the image with a grey or a smoothed one. Those three steps run for the whole
batch with numbers that leave an image as it is where it drew another operation.

What is drawn for an image depends on `key` and its id alone, as in `augment.augment`.

Operations and their strengths are those of Cubuk et al. 2019 (AutoAugment, arXiv:1805.09501),
table 6, its ranges divided into levels 0 to 10; "solarize-add", which the table does not have, adds
0 to 110 below 128, as in the code of EfficientNet. Those on values agree with Pillow to a grey
level. Geometric ones take the nearest pixel and fill with grey 128.

Posterizing keeps 4 to 8 bits, as in the table and in the code of AttentiveNAS. EfficientNet's keeps
0 to 4; at its level 2, which "v0" has, no bit is left.

Shapes: B images of a batch, H x W pixels of C channels.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError

Array = jax.Array
OPERATIONS = (
    "identity",
    "shear-x",
    "shear-y",
    "translate-x",
    "translate-y",
    "rotate",
    "auto-contrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize-add",
    "contrast",
    "brightness",
    "color",
    "sharpness",
)
NUMBER = {name: i for i, name in enumerate(OPERATIONS)}
FILL = 128
# The 14 of RandAugment (Cubuk et al. 2020, arXiv:1909.13719), section 3.
RAND = tuple(NUMBER[name] for name in OPERATIONS if name not in ("invert", "solarize-add"))
# AutoAugment's policy for ImageNet as EfficientNet, AttentiveNAS and AlphaNet use it ("v0"): 25
# pairs of (operation, probability, level). It is not the one that the paper's table 9 prints.
V0 = (
    (("equalize", 0.8, 1), ("shear-y", 0.8, 4)),
    (("color", 0.4, 9), ("equalize", 0.6, 3)),
    (("color", 0.4, 1), ("rotate", 0.6, 8)),
    (("solarize", 0.8, 3), ("equalize", 0.4, 7)),
    (("solarize", 0.4, 2), ("solarize", 0.6, 2)),
    (("color", 0.2, 0), ("equalize", 0.8, 8)),
    (("equalize", 0.4, 8), ("solarize-add", 0.8, 3)),
    (("shear-x", 0.2, 9), ("rotate", 0.6, 8)),
    (("color", 0.6, 1), ("equalize", 1.0, 2)),
    (("invert", 0.4, 9), ("rotate", 0.6, 0)),
    (("equalize", 1.0, 9), ("shear-y", 0.6, 3)),
    (("color", 0.4, 7), ("equalize", 0.6, 0)),
    (("posterize", 0.4, 6), ("auto-contrast", 0.4, 7)),
    (("solarize", 0.6, 8), ("color", 0.6, 9)),
    (("solarize", 0.2, 4), ("rotate", 0.8, 9)),
    (("rotate", 1.0, 7), ("translate-y", 0.8, 9)),
    (("shear-x", 0.0, 0), ("solarize", 0.8, 4)),
    (("shear-y", 0.8, 0), ("color", 0.6, 4)),
    (("color", 1.0, 0), ("rotate", 0.6, 2)),
    (("equalize", 0.8, 4), ("equalize", 0.0, 8)),
    (("equalize", 1.0, 4), ("auto-contrast", 0.6, 2)),
    (("shear-y", 0.4, 7), ("solarize-add", 0.6, 7)),
    (("posterize", 0.8, 2), ("solarize", 0.6, 10)),
    (("solarize", 0.6, 8), ("equalize", 0.6, 1)),
    (("color", 0.8, 6), ("rotate", 0.4, 5)),
)


class Operation(NamedTuple):
    """What is done to each image.

    Attributes:
        number: int32 [B], place in `OPERATIONS`.
        level: float32 [B], strength, 0 to 10. The strongest are 10 for most operations; posterize
            and solarize are strongest at 0, and enhancements change nothing at 5.
        sign: float32 [B], 1 or -1: the direction of geometric operations.
    """

    number: Array
    level: Array
    sign: Array


def rand_augment(
    images: Array,
    key: Array,
    example_ids: Array,
    *,
    layers: int = 2,
    magnitude: float = 9.0,
    deviation: float = 0.0,
    increasing: bool = False,
) -> Array:
    """So many operations in a row, drawn uniformly, all at one magnitude.

    Cubuk et al. 2020 (arXiv:1909.13719), algorithm 1.

    Args:
        images: uint8 [B, H, W, C].
        key: one typed key, consumed here.
        example_ids: int32 [B].
        layers: N of the paper, at least 1.
        magnitude: M of the paper, 0 to 10.
        deviation: of each level around that, normally distributed and clipped to 0..10.
        increasing: whether operations that would be weakest at 10 or in the middle are made
            stronger with the level as the others are, see `increased`.

    Returns:
        uint8 [B, H, W, C].

    Raises:
        UserError: a number is out of range.
    """
    if layers < 1 or not 0 <= magnitude <= 10:
        raise UserError(
            f"RandAugment has layers={layers}, magnitude={magnitude}; they must be at least 1, and "
            "0 to 10"
        )
    draws = _draws(key, example_ids, 2 * layers)
    operations = []
    for which, coin in zip(draws[:layers], draws[layers:], strict=True):
        number = jnp.asarray(RAND, jnp.int32)[_index(which, len(RAND))]
        level = jnp.full(number.shape, magnitude, jnp.float32)
        operations.append(Operation(number, level, _sign(coin)))
    for operation in varied(operations, key, example_ids, deviation):
        images = applied(images, increased(operation) if increasing else operation)
    return images


def increased(operation: Operation) -> Operation:
    """The operations at levels at which they change more the higher the level was, from nothing at
    0: posterizing and solarizing from the other end; enhancements from the middle, in either
    direction by their sign (timm's "inc1").
    """
    turned = _any_of(operation, "posterize", "solarize")
    enhanced = _any_of(operation, "contrast", "brightness", "color", "sharpness")
    level = jnp.where(turned, 10 - operation.level, operation.level)
    return operation._replace(
        level=jnp.where(enhanced, 5 + operation.sign * operation.level / 2, level)
    )


def auto_augment(images: Array, key: Array, example_ids: Array, *, deviation: float = 0.0) -> Array:
    """One of 25 pairs of operations, each with its probability and level (policy "v0").

    Cubuk et al. 2019 (arXiv:1805.09501), section 3; the table is EfficientNet's.

    Args:
        images: uint8 [B, H, W, C].
        key: one typed key, consumed here.
        example_ids: int32 [B].
        deviation: of each level around the table's, normally distributed and clipped to 0..10.

    Returns:
        uint8 [B, H, W, C].
    """
    for operation in varied(_drawn_pair(key, example_ids), key, example_ids, deviation):
        images = applied(images, operation)
    return images


def varied(
    operations: list[Operation], key: Array, example_ids: Array, deviation: float
) -> list[Operation]:
    """The operations with normally distributed levels around theirs, clipped to 0..10.

    Args:
        operations: numbers of B images each.
        key: that they were drawn with.
        example_ids: int32 [B].
        deviation: standard deviation; 0 changes nothing.

    Raises:
        UserError: it is negative.
    """
    if deviation < 0:
        raise UserError(f"data.deviation is {deviation}, but must be at least 0")
    if not deviation:
        return operations
    noise_key = jax.random.fold_in(key, 2**31)  # which is no image's id
    noise = [jax.scipy.special.ndtri(x) for x in _draws(noise_key, example_ids, len(operations))]
    levels = [o.level + deviation * n for o, n in zip(operations, noise, strict=True)]
    return [
        o._replace(level=jnp.clip(level, 0.0, 10.0))
        for o, level in zip(operations, levels, strict=True)
    ]


def _drawn_pair(key: Array, example_ids: Array) -> list[Operation]:
    """Both operations of a row of `V0`, each replaced by none with its probability's complement."""
    numbers = np.asarray([[NUMBER[name] for name, _, _ in pair] for pair in V0], np.int32)
    chances = np.asarray([[chance for _, chance, _ in pair] for pair in V0], np.float32)
    levels = np.asarray([[level for _, _, level in pair] for pair in V0], np.float32)
    which, *draws = _draws(key, example_ids, 5)
    pair = _index(which, len(V0))

    def one(i: int) -> Operation:
        taken = draws[i] < jnp.asarray(chances)[pair, i]
        number = jnp.where(taken, jnp.asarray(numbers)[pair, i], NUMBER["identity"])
        return Operation(number, jnp.asarray(levels)[pair, i], _sign(draws[2 + i]))

    return [one(0), one(1)]


def applied(images: Array, operation: Operation) -> Array:
    """Does to each image its operation.

    Args:
        images: uint8 [B, H, W, C].
        operation: of each image.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    images = _moved(images, operation)
    images = _looked_up(images, operation)
    return _blended(images, operation)


def _draws(key: Array, example_ids: Array, count: int) -> list[Array]:
    """Uniform numbers in [0, 1) for each image: so many arrays of [B]."""
    one = lambda i: jax.random.uniform(jax.random.fold_in(key, i), (count,))  # noqa: E731
    return list(jax.vmap(one)(example_ids).T)


def _index(uniform: Array, count: int) -> Array:
    return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def _sign(uniform: Array) -> Array:
    return jnp.where(uniform < 0.5, -1.0, 1.0)


def _is(operation: Operation, name: str) -> Array:
    return operation.number == NUMBER[name]


def _any_of(operation: Operation, *names: str) -> Array:
    return jnp.isin(operation.number, jnp.asarray([NUMBER[name] for name in names]))


def _moved(images: Array, operation: Operation) -> Array:
    """Shear, translation, rotation: pixel (x, y) comes from (a x + b y + c, d x + e y + f)."""
    batch, height, width, channels = images.shape
    signed = operation.sign * operation.level / 10
    shear, shift = 0.3 * signed, 0.45 * signed
    angle = jnp.where(_is(operation, "rotate"), jnp.pi / 6 * signed, 0.0)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    b = jnp.where(_is(operation, "shear-x"), shear, sine)
    d = jnp.where(_is(operation, "shear-y"), shear, -sine)
    c = middle_x - cosine * middle_x - sine * middle_y
    c = jnp.where(_is(operation, "translate-x"), jnp.trunc(shift * width), c)
    f = middle_y - cosine * middle_y + sine * middle_x
    f = jnp.where(_is(operation, "translate-y"), jnp.trunc(shift * height), f)
    x, y = jnp.arange(width)[None, None, :], jnp.arange(height)[None, :, None]
    at = lambda number: number[:, None, None]  # noqa: E731
    columns = jnp.round(at(cosine) * x + at(b) * y + at(c)).astype(jnp.int32)
    rows = jnp.round(at(d) * x + at(cosine) * y + at(f)).astype(jnp.int32)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    flat = images.reshape(batch, height * width, channels)
    taken = jnp.take_along_axis(flat, places.reshape(batch, height * width, 1), axis=1)
    return jnp.where(inside[..., None], taken.reshape(images.shape), jnp.uint8(FILL))


def _looked_up(images: Array, operation: Operation) -> Array:
    """All that depends on a pixel's value, its channel and statistics of the image."""
    batch, height, width, channels = images.shape
    level = operation.level[:, None, None]
    values = jnp.arange(256, dtype=jnp.float32)[None, :, None]
    counts = _histogram(images)
    factor = _factor(level)
    mean = jnp.round(jnp.mean(_grey(images), axis=(1, 2)))[:, None]  # [B, 1, 1]
    threshold, added = jnp.trunc(level / 10 * 256), jnp.trunc(level / 10 * 110)
    kept = 2.0 ** (4 - jnp.trunc(level / 10 * 4))  # values per step: 4 to 8 leading bits stay
    tables = {
        "auto-contrast": _stretched(values, counts),
        "equalize": _equalized(values, counts),
        "invert": 255 - values,
        "posterize": jnp.floor(values / kept) * kept,
        "solarize": jnp.where(values < threshold, values, 255 - values),
        "solarize-add": jnp.where(values < 128, values + added, values),
        "contrast": jnp.floor(jnp.clip(mean + factor * (values - mean), 0, 255)),
        "brightness": jnp.floor(jnp.clip(factor * values, 0, 255)),
    }
    shape = (batch, 256, channels)
    table = jnp.broadcast_to(values, shape)
    for name, mapped in tables.items():
        table = jnp.where(_is(operation, name)[:, None, None], jnp.clip(mapped, 0, 255), table)
    flat = images.reshape(batch, height * width, channels).astype(jnp.int32)
    found = jnp.take_along_axis(table.astype(jnp.uint8), flat, axis=1)
    return found.reshape(images.shape)


def _histogram(images: Array) -> Array:
    """How many pixels have each value: float32 [B, 256, C].

    Under `vmap`, the compiler sees that no image counts for another and leaves a batch on its
    devices; with indices of images, it adds up the counts of all of them.
    """
    batch, _, _, channels = images.shape
    flat = images.reshape(batch, -1, channels).astype(jnp.int32)
    count = lambda values: jnp.zeros(256, jnp.float32).at[values].add(1.0)  # noqa: E731
    return jax.vmap(jax.vmap(count, 1, 1))(flat)


def _stretched(values: Array, counts: Array) -> Array:
    """From the smallest value that occurs to the largest, stretched to 0..255."""
    there = counts > 0
    low = jnp.min(jnp.where(there, values, 255.0), axis=1, keepdims=True)
    high = jnp.max(jnp.where(there, values, 0.0), axis=1, keepdims=True)
    span = high - low
    stretched = jnp.floor((values - low) * (255 / jnp.maximum(span, 1)) + 1e-3)
    return jnp.where(span > 0, stretched, values)


def _equalized(values: Array, counts: Array) -> Array:
    """Every value about equally often; the last that occurs does not count towards a step."""
    there = counts > 0
    last = jnp.max(jnp.where(there, values, 0.0), axis=1, keepdims=True)
    total = jnp.sum(counts, axis=1, keepdims=True)
    of_last = jnp.sum(jnp.where(values == last, counts, 0.0), axis=1, keepdims=True)
    step = jnp.floor((total - of_last) / 255)
    before = jnp.cumsum(counts, axis=1) - counts
    spread = jnp.floor((before + jnp.floor(step / 2)) / jnp.maximum(step, 1))
    return jnp.where(step > 0, jnp.minimum(spread, 255.0), values)


def _blended(images: Array, operation: Operation) -> Array:
    """Colour and sharpness: away from, or towards, a grey or a smoothed image."""
    color = _is(operation, "color")[:, None, None, None]
    enhanced = color | _is(operation, "sharpness")[:, None, None, None]
    pixels = images.astype(jnp.float32)
    base = jnp.where(color, _grey(images), _smoothed(pixels))
    factor = _factor(operation.level)[:, None, None, None]
    blend = jnp.floor(jnp.clip(base + factor * (pixels - base), 0, 255)).astype(jnp.uint8)
    return jnp.where(enhanced, blend, images)


def _factor(level: Array) -> Array:
    """0.1 to 1.9: 1 keeps the image."""
    return level / 10 * 1.8 + 0.1


def _grey(images: Array) -> Array:
    """Brightness as a whole number, float32 [B, H, W, 1]: ITU-R 601 for three channels."""
    channels = images.shape[-1]
    weights = np.asarray([0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels)
    weighed = images.astype(jnp.float32) * weights.astype(np.float32).reshape(1, 1, 1, -1)
    return jnp.round(jnp.sum(weighed, axis=-1, keepdims=True))


def _smoothed(pixels: Array) -> Array:
    """A 3 x 3 mean in which the middle counts five times; the border stays as it is."""
    padded = jnp.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = pixels.shape[1:3]
    around = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    smooth = jnp.round((around + 4 * pixels) / 13)
    rows, columns = np.arange(height), np.arange(width)
    inside = ((rows > 0) & (rows < height - 1))[:, None] & ((columns > 0) & (columns < width - 1))
    return jnp.where(inside[None, :, :, None], smooth, pixels)
