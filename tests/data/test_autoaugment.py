"""Operations on pixels against Pillow, and policies, erasing and mixing by example."""

import collections
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from supernet_jax.data import augment, autoaugment
from supernet_jax.data.autoaugment import NUMBER, OPERATIONS, Operation
from supernet_jax.errors import UserError
from supernet_jax.runtime import sharding
from supernet_jax.training.losses import loss

SIZE = 24  # equalizing does nothing to images of fewer than 256 pixels


def batch(count: int = 4, channels: int = 3, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    images = rng.integers(20, 200, (count, SIZE, SIZE, channels), np.uint8)
    images[0] = np.linspace(0, 255, SIZE, dtype=np.uint8)[:, None, None]  # few, far values
    return images


@functools.cache
def applied() -> Callable:
    return jax.jit(autoaugment.applied)


def done(images: Any, name: str, level: float, sign: float = 1.0) -> Any:
    count = len(images)
    operation = Operation(
        np.full(count, NUMBER[name], np.int32),
        np.full(count, level, np.float32),
        np.full(count, sign, np.float32),
    )
    return np.asarray(applied()(images, operation))


def enhanced(kind: Any, image: Any, level: float) -> Any:
    return kind(image).enhance(level * 0.18 + 0.1)


PILLOW: dict[str, Callable] = {
    "auto-contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "posterize": lambda image, level: ImageOps.posterize(image, 4 + int(level / 10 * 4)),
    "solarize": lambda image, level: ImageOps.solarize(image, int(level / 10 * 256)),
    "contrast": lambda image, level: enhanced(ImageEnhance.Contrast, image, level),
    "brightness": lambda image, level: enhanced(ImageEnhance.Brightness, image, level),
    "color": lambda image, level: enhanced(ImageEnhance.Color, image, level),
    "sharpness": lambda image, level: enhanced(ImageEnhance.Sharpness, image, level),
}


@pytest.mark.parametrize("level", [3.0, 9.0])
@pytest.mark.parametrize("name", PILLOW)
def test_operations_are_those_of_pillow(name: str, level: float) -> None:
    images = batch()
    found = done(images, name, level)
    for own, image in zip(found, images, strict=True):
        wanted = np.asarray(PILLOW[name](Image.fromarray(image), level), np.int32)
        assert np.abs(wanted - own).max() <= 1  # rounding of float32
        assert np.mean(wanted != own) < 0.05


def test_solarize_add() -> None:
    images = batch()
    wanted = np.where(images < 128, np.minimum(images.astype(int) + 55, 255), images)
    np.testing.assert_array_equal(done(images, "solarize-add", 5.0), wanted)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_translations_are_whole_pixels_and_fill_with_grey(sign: float) -> None:
    images, by = batch(), 9  # of 24 pixels, 0.9 * 0.45 of which are 9.72
    moved = done(images, "translate-x", 9.0, sign)
    wanted = np.full_like(images, 128)
    if sign > 0:
        wanted[:, :, :-by] = images[:, :, by:]
    else:
        wanted[:, :, by:] = images[:, :, :-by]
    np.testing.assert_array_equal(moved, wanted)
    down = done(images.swapaxes(1, 2), "translate-y", 9.0, sign)
    np.testing.assert_array_equal(down, wanted.swapaxes(1, 2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shear_and_rotation_are_affine_maps(sign: float) -> None:
    images = batch()
    level, slope = 9.5, 0.285 * sign  # at which no place is equally near to two pixels
    sheared = done(images, "shear-x", level, sign)
    y, x = np.mgrid[:SIZE, :SIZE]
    source = np.round(x + slope * y).astype(int)
    inside = ((source >= 0) & (source < SIZE))[None, :, :, None]
    wanted = np.where(inside, images[:, y, np.clip(source, 0, SIZE - 1)], 128)
    np.testing.assert_array_equal(sheared, wanted)
    other = done(images.swapaxes(1, 2), "shear-y", level, sign)
    np.testing.assert_array_equal(other, sheared.swapaxes(1, 2))
    rotated = done(images, "rotate", level, sign)
    for own, image in zip(rotated, images, strict=True):  # clockwise
        turned = Image.fromarray(image).rotate(-28.5 * sign, fillcolor=(128, 128, 128))
        np.testing.assert_array_equal(own, turned)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_has_its_own_operation(name: str) -> None:
    """Its neighbours in the batch, which have none, are not touched."""
    images = batch()
    number = np.asarray([0, NUMBER[name], 0, 0], np.int32)
    numbers = Operation(number, np.full(4, 7.0, np.float32), np.ones(4, np.float32))
    found = np.asarray(applied()(images, numbers))
    np.testing.assert_array_equal(found[[0, 2, 3]], images[[0, 2, 3]])
    np.testing.assert_array_equal(found[1], done(images, name, 7.0)[1])
    assert (name == "identity") == np.array_equal(found[1], images[1])
    assert found.dtype == np.uint8


def test_grey_images() -> None:
    images = batch(channels=1)
    for name in ("color", "identity"):
        np.testing.assert_array_equal(done(images, name, 9.0), images)
    assert not np.array_equal(done(images, "contrast", 9.0), images)


def erased(images: Any, key: Any, ids: Any) -> Any:
    return augment.erase(images, key, ids, probability=0.7)


def mixed(images: Any, key: Any, ids: Any) -> Any:
    """How much of each image is left."""
    inputs = np.zeros((len(ids), 1, 1, 1), np.float32)
    labels = np.arange(len(ids), dtype=np.int32)
    _, targets = augment.mixup(inputs, labels, key, ids, alpha=0.5, classes=len(ids))
    return jnp.diagonal(targets)


BY_EXAMPLE = {
    "autoaugment": autoaugment.auto_augment,
    "randaugment": functools.partial(autoaugment.rand_augment, deviation=0.5),
    "erase": erased,
    "mixup": mixed,
}


@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_what_is_drawn_depends_on_key_and_example_alone(name: str) -> None:
    one = jax.jit(BY_EXAMPLE[name])
    images, ids = np.repeat(batch(1, seed=1), 8, axis=0), np.arange(8, dtype=np.int32)
    found = np.asarray(one(images, jax.random.key(0), ids))
    order = np.asarray([3, 1, 0, 2, 7, 6, 5, 4])
    np.testing.assert_array_equal(one(images, jax.random.key(0), ids[order]), found[order])
    assert len(np.unique(found.reshape(8, -1), axis=0)) > 3, "examples differ"
    assert not np.array_equal(one(images, jax.random.key(1), ids), found)


def test_the_table_is_the_published_one() -> None:
    """How often each operation is in it, and the sums of its probabilities and levels."""
    published = {
        "equalize": (12, 8.0, 55),
        "color": (9, 5.0, 37),
        "solarize": (8, 4.6, 41),
        "rotate": (7, 4.6, 39),
        "shear-y": (4, 2.6, 14),
        "solarize-add": (2, 1.4, 10),
        "shear-x": (2, 0.2, 9),
        "posterize": (2, 1.2, 8),
        "auto-contrast": (2, 1.0, 9),
        "invert": (1, 0.4, 9),
        "translate-y": (1, 0.8, 9),
    }
    steps = [step for pair in autoaugment.V0 for step in pair]
    for name in {name for name, _, _ in steps} | set(published):
        own = [step[1:] for step in steps if step[0] == name]
        chance, level = (sum(column) for column in zip(*own, strict=True))
        assert (len(own), round(chance, 6), level) == published[name], name


def test_levels_vary_by_the_deviation() -> None:
    """Each operation's by itself, and never beyond 0 to 10."""
    count, key = 20_000, jax.random.key(0)
    ids = np.arange(count, dtype=np.int32)
    given = [Operation(np.zeros(count), np.full(count, x), np.ones(count)) for x in (4.0, 10.0)]
    vary = jax.jit(functools.partial(autoaugment.varied, deviation=0.5))
    middle, edge = (np.asarray(made.level) for made in vary(given, key, ids))
    assert abs(middle.mean() - 4) < 0.02 and abs(middle.std() - 0.5) < 0.01  # 5 standard errors
    assert edge.max() == 10 and abs(np.mean(edge == 10) - 0.5) < 0.02
    assert abs(np.corrcoef(middle, edge)[0, 1]) < 0.04
    assert autoaugment.varied(given, key, ids, 0.0) == given
    with pytest.raises(UserError, match="deviation is -1"):
        autoaugment.varied(given, key, ids, -1)


def test_every_row_of_the_policy_is_drawn() -> None:
    """Equally often, each operation with its probability and level, in both directions."""
    assert len(autoaugment.V0) == 25 and len(autoaugment.RAND) == 14
    count = 20_000
    draw = jax.jit(autoaugment._drawn_pair)
    pair = jax.device_get(draw(jax.random.key(0), np.arange(count, dtype=np.int32)))
    for i, (number, level, sign) in enumerate(pair):
        wanted: collections.Counter = collections.Counter()
        for row in autoaugment.V0:
            name, chance, strength = row[i]
            wanted[NUMBER[name], strength] += chance / 25
            wanted[0, strength] += (1 - chance) / 25
        found = collections.Counter(zip(number.tolist(), level.tolist(), strict=True))
        assert set(found) == {what for what, chance in wanted.items() if chance > 1e-9}
        for what, chance in wanted.items():  # five standard deviations
            assert found[what] / count == pytest.approx(chance, abs=5 * (chance / count) ** 0.5)
        assert set(sign.tolist()) == {-1.0, 1.0} and abs(sign.mean()) < 5 / count**0.5
    first, second = (one.number != 0 for one in pair)  # rows are drawn as wholes
    both = sum(one[1] * other[1] for one, other in autoaugment.V0) / 25
    assert np.mean(first & second) == pytest.approx(both, abs=5 / count**0.5)


def test_devices_need_nothing_of_each_other() -> None:
    """Images stay where they are: a batch on 8 devices is the batch on one."""
    mesh = sharding.data_mesh()
    images, ids, key = batch(16), np.arange(16, dtype=np.int32), jax.random.key(0)
    policy = jax.jit(autoaugment.auto_augment)
    spread = sharding.split(mesh, (images, ids))
    program = policy.lower(spread[0], key, spread[1]).compile()
    assert not re.findall(r"all-\w+|collective-\w+", program.as_text())
    found = program(spread[0], key, spread[1])
    np.testing.assert_array_equal(found, policy(images, key, ids))


def test_erasing_fills_one_rectangle() -> None:
    images = np.full((64, 16, 20, 2), 7, np.uint8)
    ids = np.arange(64, dtype=np.int32)
    how = {"probability": 0.5, "area": (0.1, 0.3)}
    found = np.asarray(augment.erase(images, jax.random.key(0), ids, **how))
    touched = [np.any(image != 7, axis=-1) for image in found]
    some = [mask for mask in touched if mask.any()]
    assert 16 < len(some) < 48  # four standard deviations
    for mask in some:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.9, "noise may be 7 by chance, once in 65,536 pixels"
        assert 0.05 < box.size / mask.size < 0.36  # rounded sides
    square = {"probability": 1.0, "area": (0.25, 0.25), "ratio": 1.0}
    for image in np.asarray(augment.erase(images, jax.random.key(0), ids, **square)):
        mask = np.any(image != 7, axis=-1)  # 9 * 9 is nearest to a quarter of 16 * 20
        assert (mask.any(1).sum(), mask.any(0).sum()) == (9, 9) and mask.sum() > 75
    with pytest.raises(UserError, match="probability=2"):
        augment.erase(images, jax.random.key(0), ids, probability=2.0)


def test_mixup_mixes_images_and_labels_alike() -> None:
    inputs = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1)
    labels, ids = np.asarray([0, 1, 2, 3], np.int32), np.arange(4, dtype=np.int32)
    mix = functools.partial(augment.mixup, alpha=1.0, classes=4)
    images, targets = mix(inputs, labels, jax.random.key(0), ids)
    np.testing.assert_allclose(np.asarray(images).reshape(4, 4), targets)
    np.testing.assert_allclose(np.sum(targets, -1), 1, rtol=1e-6)
    assert np.count_nonzero(np.asarray(targets)) == 8  # itself and the next
    many = mixed(None, jax.random.key(0), np.arange(2000, dtype=np.int32))
    mean, square = float(np.mean(many)), float(np.mean(np.square(many)))
    assert mean == pytest.approx(0.5, abs=0.04)  # of Beta(1/2, 1/2), five standard deviations
    assert square - mean**2 == pytest.approx(1 / 8, abs=0.02)
    with pytest.raises(UserError, match="alpha=0"):
        augment.mixup(inputs, labels, jax.random.key(0), ids, alpha=0.0, classes=4)


def test_cutmix_pastes_one_rectangle_and_counts_it() -> None:
    count, height, width = 200, 12, 8
    inputs = np.zeros((count, height, width, 1), np.float32)
    inputs += np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    labels, ids = np.arange(count, dtype=np.int32), np.arange(count, dtype=np.int32)
    cut = jax.jit(functools.partial(augment.cutmix, alpha=1.0, classes=count))
    images, targets = map(np.asarray, cut(inputs, labels, jax.random.key(0), ids))
    assert images.shape == (count, height, width, 1)
    shares = []
    for i, (image, target) in enumerate(zip(images[..., 0], targets, strict=True)):
        pasted = image == (i + 1) % count
        assert np.all(pasted | (image == i))
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
        assert np.all(np.abs(np.diff(rows.astype(int))).sum() <= 2)  # one piece
        shares.append(pasted.mean())
        assert target[(i + 1) % count] == pytest.approx(shares[-1], abs=1e-6)
        assert target[i] == pytest.approx(1 - shares[-1], abs=1e-6)
    # By hand: of v = 1 - s^2 uniform, a side s whose middle is anywhere covers s - s^2 / 4 of an
    # axis on average, both alike; over s with density 2 s. Rounded sides cover a little less;
    # the rest is three standard errors.
    sides = np.linspace(0, 1, 10_001)
    mean = np.mean(2 * sides * (sides - sides**2 / 4) ** 2)
    assert np.mean(shares) == pytest.approx(mean, abs=0.04)
    with pytest.raises(UserError, match="cutmix has alpha=0"):
        augment.cutmix(inputs, labels, jax.random.key(0), ids, alpha=0.0, classes=count)


def test_a_coin_decides_between_mixup_and_cutmix() -> None:
    count = 64
    inputs = np.random.default_rng(0).normal(size=(count, 6, 6, 2)).astype(np.float32)
    labels = np.arange(count, dtype=np.int32)
    mix = functools.partial(augment.mix, mixup_alpha=0.8, cutmix_alpha=1.0, classes=count)
    both, targets = map(np.asarray, jax.jit(mix)(inputs, labels, jax.random.key(3), labels))
    following = np.roll(inputs, -1, 0)
    pasted = ((both == inputs) | (both == following)).reshape(count, -1).all(1)
    assert 12 < pasted.sum() < 52  # five standard deviations
    own = np.diagonal(targets)
    share = own.reshape(-1, 1, 1, 1)
    wanted = share * inputs + (1 - share) * following
    np.testing.assert_allclose(both[~pasted], wanted[~pasted], atol=1e-6)
    taken = (both == inputs).reshape(count, -1).mean(1)
    np.testing.assert_allclose(own[pasted], taken[pasted], atol=1e-6)


def test_increased_operations_change_more_the_higher_the_level() -> None:
    levels = np.asarray([0.0, 5.0, 10.0], np.float32)
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8), 3, 0)
    six = ("posterize", "solarize", "contrast", "brightness", "color", "sharpness")
    for name, sign in itertools.product(OPERATIONS, (1.0, -1.0)):
        number = np.full(3, NUMBER[name], np.int32)
        made = autoaugment.increased(Operation(number, levels, np.full(3, sign, np.float32)))
        if name not in six:
            np.testing.assert_array_equal(made.level, levels)
            continue
        changed = np.asarray(applied()(images, made), int) - images
        none, middle, most = np.abs(changed).mean((1, 2, 3))
        # An enhancement by a factor of 1 rounds down.
        assert none <= 1 and most > middle > none, name


def test_cross_entropy_takes_mixed_labels() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    labels = np.asarray([0, 4, 2, 1], np.int32)
    whole = loss.cross_entropy(logits, labels, smoothing=0.1)
    hot = loss.cross_entropy(logits, np.eye(5, dtype=np.float32)[labels], smoothing=0.1)
    np.testing.assert_allclose(hot, whole, rtol=1e-6)
    other = np.asarray([1, 0, 0, 0], np.int32)
    half = np.float32(0.5) * (
        np.eye(5, dtype=np.float32)[labels] + np.eye(5, dtype=np.float32)[other]
    )
    wanted = (loss.cross_entropy(logits, labels) + loss.cross_entropy(logits, other)) / 2
    np.testing.assert_allclose(loss.cross_entropy(logits, half), wanted, rtol=1e-6)


def test_mistakes_are_named() -> None:
    images, ids = batch(), np.arange(4, dtype=np.int32)
    for how in ({"layers": 0}, {"magnitude": 11.0}):
        with pytest.raises(UserError, match="RandAugment has layers"):
            autoaugment.rand_augment(images, jax.random.key(0), ids, **how)
