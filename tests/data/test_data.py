"""Datasets: splits, sources, order and augmentation, and one line for every mistake."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DATA
from image_files import folder, noise, png, tfds_data, tiny
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from supernet_jax import data
from supernet_jax.data import splits
from supernet_jax.data.augment import augment, normalise
from supernet_jax.errors import UserError

Path = pathlib.Path


def arrays(n=60, classes=3, test=12, shape=(4, 4, 3)):
    """The arrays of an npz file; every training image tells its own index in its first pixel."""
    x = noise(0, n, *shape)
    x.reshape(n, -1)[:, 0] = np.arange(n)
    return {
        "x_train": x,
        "y_train": np.arange(n) % classes,
        "x_test": noise(1, test, *shape),
        "y_test": np.arange(test) % classes,
    }


def npz(path, **changes):
    kept = {k: v for k, v in (arrays() | changes).items() if v is not None}
    np.savez(path / "d.npz", **kept)
    return f"npz:{path}/d.npz"


# --- splits ---------------------------------------------------------------------------------


def test_splits_are_disjoint_complete_and_stratified(tmp_path):
    y = np.repeat([0, 1, 2], [30, 20, 10])
    d = data.load(npz(tmp_path, y_train=y), held_out=0.35, seed=3)
    ids = [part.images[:, 0, 0, 0].tolist() for part in (d.train, d.held_out)]
    assert sorted(ids[0] + ids[1]) == list(range(60))
    for part, own in zip((d.train, d.held_out), ids, strict=True):
        np.testing.assert_array_equal(part.labels, y[own])  # labels stay with their images
        assert part.labels.dtype == np.int32
    # 21 of 60: the exact shares are 10.5, 7 and 3.5, so one of the halves goes up
    assert np.bincount(d.held_out.labels).tolist() in ([11, 7, 3], [10, 7, 4])
    # in random order, so that its first half holds no single class alone
    assert len(set(d.held_out.labels[:10].tolist())) > 1


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_remainders_go_up(tmp_path, seed):
    y = np.repeat([0, 1, 2], [33, 17, 10])  # the exact shares of 6 are 3.3, 1.7 and 1
    d = data.load(npz(tmp_path, y_train=y), held_out=6, seed=seed)
    assert np.bincount(d.held_out.labels).tolist() == [3, 2, 1]


def test_split_follows_the_seed_and_the_test_part_does_not():
    a, b, c = (data.load("digits", held_out=100, seed=s) for s in (0, 0, 1))
    for left, right in zip(
        a.train + a.held_out + a.test, b.train + b.held_out + b.test, strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert not np.array_equal(a.held_out.images, c.held_out.images)
    np.testing.assert_array_equal(a.test.images, c.test.images)
    np.testing.assert_array_equal(a.test.labels, c.test.labels)


def test_classes_with_few_images_keep_one(tmp_path):
    y = np.repeat([0, 1, 2], [57, 2, 1])
    d = data.load(npz(tmp_path, y_train=y), held_out=57, seed=0)  # the most that can go
    assert np.bincount(d.train.labels).tolist() == [1, 1, 1]


@pytest.mark.parametrize("count", [1, 7, 30])
def test_held_out_as_a_count(tmp_path, count):
    d = data.load(npz(tmp_path), held_out=count, seed=0)
    assert len(d.held_out.labels) == count and len(d.train.labels) == 60 - count


# --- what a dataset says about itself -------------------------------------------------------


def test_mean_and_std_are_those_of_train_alone(tmp_path):
    d = data.load(npz(tmp_path), held_out=0.5, seed=0)
    scaled = d.train.images / 255
    np.testing.assert_allclose(d.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(d.std, scaled.std((0, 1, 2)), rtol=1e-9)


def test_statistics_over_many_chunks():
    images = noise(0, 2500, 2, 2, 3)  # more than two chunks of 1024
    mean, std = splits.statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-9)


def test_a_constant_channel_has_a_std_above_zero(tmp_path):
    x = arrays()["x_train"]
    x[..., 2] = 9
    assert data.load(npz(tmp_path, x_train=x), held_out=0.5, seed=0).std[2] == 1 / 255


@pytest.mark.parametrize("changed", ["x_train", "y_train", "x_test", "y_test", "class_names"])
def test_the_fingerprint_sees_every_change(tmp_path, changed):
    before = data.load(npz(tmp_path), held_out=0.5, seed=0).fingerprint
    if changed == "class_names":
        value = np.array(["x", "y", "z"])
    else:
        value = arrays()[changed]
        value[0] = (value[0] + 1) % 3
    assert data.load(npz(tmp_path, **{changed: value}), held_out=0.5, seed=0).fingerprint != before


def test_pack_keeps_parts_names_and_fingerprint(tmp_path):
    name = folder(tmp_path / "f", parts=("",))  # without a test part
    data.pack(name, str(tmp_path / "packed.npz"))
    a = data.load(name, held_out=2, seed=5)
    b = data.load("npz:packed.npz", data_dir=str(tmp_path), held_out=2, seed=5)
    assert dataclasses.replace(b, name=name).fingerprint == a.fingerprint
    assert a.class_names == b.class_names == ("cat", "dog")
    np.testing.assert_array_equal(a.test.images, b.test.images)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["f", "packed.npz"]  # no part left over


# --- sources --------------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    d = data.load("digits", held_out=0.2, seed=0)
    assert d.train.images.shape == (1150, 8, 8, 1) and d.train.images.dtype == np.uint8
    assert len(d.test.labels) == 359 and len(d.held_out.labels) == 288
    assert d.class_names == tuple("0123456789")
    raw = load_digits()
    first = data.read("digits").train  # in the order of scikit-learn
    at = [
        i
        for i, x in enumerate(raw.images)
        if np.allclose(x * 255 / 16, first.images[0, ..., 0], atol=0.5)
    ]
    assert raw.target[at].tolist() == [first.labels[0]] and d.train.images.max() == 255


@pytest.mark.parametrize("shape", [(4, 4), (4, 5, 1), (4, 4, 3)])
def test_npz_shapes(tmp_path, shape):
    d = data.load(npz(tmp_path, **arrays(shape=shape)), held_out=0.5, seed=0)
    assert d.test.images.shape == (12, *(shape if len(shape) == 3 else (*shape, 1)))
    np.testing.assert_array_equal(
        d.test.images.reshape(12, -1), noise(1, 12, *shape).reshape(12, -1)
    )
    assert d.class_names == ("0", "1", "2")


def test_folder_reads_pixels_labels_and_names(tmp_path):
    name = folder(tmp_path)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    source = data.read(name)
    np.testing.assert_array_equal(
        source.train.images, [noise(10 * c + i, 4, 4, 3) for c in range(2) for i in range(5)]
    )
    assert source.train.labels.tolist() == [0] * 5 + [1] * 5
    np.testing.assert_array_equal(source.test.images[7], noise(112, 4, 4, 3))
    assert source.class_names == ("cat", "dog")


def test_folder_without_test_part_sets_a_fifth_aside(tmp_path):
    source = data.read(folder(tmp_path, parts=("",)))
    assert source.test.labels.tolist() in ([0, 1], [1, 0]) and len(source.train.labels) == 8
    np.testing.assert_array_equal(source.test.images, data.read(f"folder:{tmp_path}").test.images)


def test_grey_stays_one_channel_until_a_colour_image_comes(tmp_path):
    name = folder(tmp_path, shape=(4, 4))
    grey = data.read(name)
    assert grey.train.images.shape == (10, 4, 4, 1)
    (tmp_path / "test" / "cat" / "0.png").write_bytes(png(noise(0, 4, 4, 3)))
    colour = data.read(name)
    assert colour.train.images.shape == (10, 4, 4, 3)
    np.testing.assert_array_equal(colour.train.images[..., 2], grey.train.images[..., 0])


def test_transparency_is_dropped(tmp_path):
    name = folder(tmp_path)
    pixels = noise(0, 4, 4, 4)
    (tmp_path / "train" / "cat" / "0.png").write_bytes(png(pixels))
    np.testing.assert_array_equal(data.read(name).train.images[0], pixels[..., :3])


def test_size_brings_mixed_sizes_together(tmp_path):
    name = folder(tmp_path)
    even = np.full((9, 6, 3), 77, np.uint8)
    (tmp_path / "train" / "dog" / "2.png").write_bytes(png(even))
    source = data.read(name, size=2)
    assert source.train.images.shape == (10, 2, 2, 3) and source.test.images.shape[1:] == (2, 2, 3)
    assert (source.train.images[7] == 77).all()


def test_size_resizes_arrays_as_it_resizes_files(tmp_path):
    source = data.read(npz(tmp_path), size=8)
    expected = Image.fromarray(arrays()["x_train"][5]).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(source.train.images[5], np.asarray(expected))


def test_tfds_needs_no_tensorflow(tmp_path):
    name = tfds_data(tmp_path, {"train": tiny(200), "test": tiny(4)}, classes=("no", "yes"))
    source = data.read(name, data_dir=str(tmp_path))
    # more images than a thread takes at once, still in order
    np.testing.assert_array_equal(source.train.images, [noise(i, 4, 4, 3) for i in range(200)])
    assert source.train.labels.tolist() == [i % 2 for i in range(200)]
    assert source.class_names == ("no", "yes") and source.test.labels.tolist() == [0, 1, 0, 1]
    assert "tensorflow" not in sys.modules


def test_tfds_test_part_falls_back_to_validation_and_to_a_fifth(tmp_path):
    name = tfds_data(tmp_path / "v", {"train": tiny(10), "validation": tiny(4)})
    assert len(data.read(name, data_dir=str(tmp_path / "v")).test.labels) == 4
    name = tfds_data(tmp_path / "t", {"train": tiny(10)})
    assert len(data.read(name, data_dir=str(tmp_path / "t")).test.labels) == 2


@pytest.mark.skipif(not (DATA / "cifar10").exists(), reason=f"no CIFAR-10 in {DATA}")
def test_tfds_cifar10():
    d = data.load("tfds:cifar10", data_dir=str(DATA), held_out=5000, seed=0)
    assert d.train.images.shape == (45000, 32, 32, 3)
    assert np.bincount(d.train.labels).tolist() == [4500] * 10
    assert np.bincount(d.held_out.labels).tolist() == [500] * 10
    assert np.bincount(d.test.labels).tolist() == [1000] * 10
    assert d.class_names[:2] == ("airplane", "automobile")
    # the widely published statistics of CIFAR-10's training images; JPEG smooths a little
    np.testing.assert_allclose(d.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)
    np.testing.assert_allclose(d.std, (0.2470, 0.2435, 0.2616), atol=2e-3)


# --- mistakes -------------------------------------------------------------------------------


def changed(key, index, value):
    def make(path):
        x = arrays()[key].astype(np.int64) if key.startswith("y") else arrays()[key]
        x[index] = value
        return npz(path, **{key: x})

    return make


def arranged(**changes):
    return lambda path: npz(path, **changes)


def raw_file(content):
    def make(path):
        (path / "d.npz").write_bytes(content)
        return f"npz:{path}/d.npz"

    return make


def truncated_npz(path):
    name = npz(path)
    whole = (path / "d.npz").read_bytes()
    (path / "d.npz").write_bytes(whole[: len(whole) // 2])
    return name


def flipped_npz(path):
    name = npz(path)
    whole = bytearray((path / "d.npz").read_bytes())
    whole[500] ^= 255
    (path / "d.npz").write_bytes(whole)
    return name


def bare_npy(path):
    np.save(path / "d.npy", np.zeros(3))
    return f"npz:{path}/d.npy"


def in_folder(change, **how):
    def make(path):
        name = folder(path, **how)
        change(path)
        return name

    return make


def broken_image(path):
    (path / "train/cat/1.png").write_bytes(b"not an image")
    whole = png(noise(0, 64, 64, 3))
    (path / "test/dog/3.png").write_bytes(whole[: len(whole) // 2])


def many_broken(path):
    for i in range(12):
        (path / f"train/dog/x{i:02}.png").write_bytes(b"")


def deep_image(path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path / "train/cat/1.png")


def other_size(path):
    (path / "test/dog/3.png").write_bytes(png(noise(0, 5, 4, 3)))


def of_tfds(**how):
    return lambda path: tfds_data(path, **how)


def truncated_tfds(path):
    name = tfds_data(path, {"train": tiny(), "test": tiny()})
    file = next(path.rglob("tiny-test*"))
    file.write_bytes(file.read_bytes()[:70000])
    return name


BAD_TFDS = [*tiny(3), (b"rubbish", 0)]
MISTAKES = {
    "unknown kind": (lambda path: "digit", ["'digit'", "tfds:NAME", "did you mean digits"]),
    "bare name": (lambda path: "cifar10", ["did you mean tfds:cifar10"]),
    "digits with a tail": (lambda path: "digits:8", ["'digits:8'"]),
    "kind without a path": (lambda path: "npz:", ["'npz:'", "did you mean npz:PATH"]),
    "missing npz": (lambda path: f"npz:{path}/none.npz", ["none.npz", "no file"]),
    "folder as npz": (lambda path: f"npz:{path}", ["is a folder, not a npz"]),
    "truncated npz": (truncated_npz, ["d.npz is not a npz file", "or was cut short"]),
    "flipped bit in npz": (flipped_npz, ["x_train", "d.npz is not a npz file"]),
    "text as npz": (raw_file(b"hello"), ["d.npz is not a npz file of plain arrays"]),
    "empty npz": (raw_file(b""), ["d.npz is empty, so it was cut short"]),
    "pickled npz": (arranged(y_train=np.array([{}] * 60, object)), ["pickle"]),
    "bare npy": (bare_npy, ["d.npy", "numpy.savez"]),
    "missing keys": (arranged(y_test=None, x_test=None), ["no x_test, y_test", "only x_train"]),
    "float images": (arranged(x_train=np.zeros((60, 4, 4, 3))), ["train", "float64", "uint8"]),
    "flat images": (arranged(x_test=np.zeros((12, 48), np.uint8)), ["test", "[12, 48]"]),
    "no images": (
        arranged(x_test=np.zeros((0, 4, 4, 3), np.uint8), y_test=np.zeros(0, int)),
        ["test", "[0, 4, 4, 3]", "not empty"],
    ),
    "test images of another size": (
        arranged(x_test=np.zeros((12, 5, 4, 3), np.uint8)),
        ["(4, 4, 3)", "(5, 4, 3)", "size"],
    ),
    "float labels": (arranged(y_train=np.zeros(60)), ["float64", "integers"]),
    "labels of no number": (arranged(y_train=np.array(["a"] * 60)), ["<U1", "integers"]),
    "one-hot labels": (arranged(y_train=np.eye(60, dtype=int)), ["[60, 60]", "[60]"]),
    "too few labels": (arranged(y_test=np.arange(11) % 3), ["[11]", "12 images"]),
    "negative label": (changed("y_train", 7, -1), ["train", "index 7", "is -1", "0 to 2"]),
    "test label out of range": (changed("y_test", 5, 3), ["test", "index 5", "is 3", "0 to 2"]),
    "absurd label": (changed("y_train", 7, 10**12), ["index 7", "1000000000000"]),
    "gap in the labels": (changed("y_train", 7, 4), ["'3'", "no training image"]),
    "more labels than names": (arranged(class_names=np.array(["a", "b"])), ["index 2", "0 to 1"]),
    "missing folder": (lambda path: f"folder:{path}/none", ["none", "does not exist"]),
    "empty folder": (lambda path: f"folder:{path}", ["no image", ".png"]),
    "train without test": (lambda path: folder(path, parts=("train",)), ["train alone"]),
    "class without image": (in_folder(lambda p: (p / "train/eel").mkdir()), ["train/eel"]),
    "classes that differ": (
        in_folder(lambda p: (p / "test/dog").rename(p / "test/fox")),
        ["dog, fox", "differ"],
    ),
    "broken images": (
        in_folder(broken_image),
        ["2 images", "train/cat/1.png (not an image)", "test/dog/3.png (", "truncated"],
    ),
    "many broken images": (in_folder(many_broken), ["12 images", "x00.png", "and 2 more"]),
    "deep image": (in_folder(deep_image), ["train/cat/1.png", "8 bits"]),
    "mixed sizes": (in_folder(other_size), ["test/dog/3.png", "(5, 4)", "(4, 4)", "size"]),
    "no fifth to set aside": (lambda path: folder(path, parts=("",), n=1), ["test part", "0.2"]),
    "tfds: nothing there": (lambda path: "tfds:tiny", ["tiny", "array_record", "there: nothing"]),
    "tfds: known, not prepared": (lambda path: "tfds:mnist", ["tfds build mnist", "data_dir"]),
    "tfds: no name at all": (lambda path: "tfds:../x", ["../x", "not prepared"]),
    "tfds: as tfrecord": (
        of_tfds(splits={"train": tiny(2)}, file_format="tfrecord"),
        ["tiny", "array_record", "tfds build"],
    ),
    "tfds: no labels": (of_tfds(splits={"train": tiny(2)}, supervised=False), ["class label"]),
    "tfds: unlabelled": (
        of_tfds(splits={"train": tiny(), "test": [(tiny(1)[0][0], -1)]}),
        ["test", "index 0", "is -1"],
    ),
    "tfds: broken image": (of_tfds(splits={"train": BAD_TFDS}), ["tiny train [3] (not an image)"]),
    "tfds: empty split": (of_tfds(splits={"train": tiny(), "test": []}), ["split test", "tiny"]),
    "tfds: truncated": (truncated_tfds, ["tiny test", "prepare"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(tmp_path, mistake):
    make, words = MISTAKES[mistake]
    name = make(tmp_path)
    with pytest.raises(UserError) as caught:
        data.load(name, data_dir=str(tmp_path), held_out=0.2, seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_ten_of_many_broken_images_are_named(tmp_path):
    name = in_folder(many_broken)(tmp_path)
    with pytest.raises(UserError) as caught:
        data.load(name, held_out=0.2, seed=0)
    assert [f"x{i:02}.png" in str(caught.value) for i in range(12)] == [True] * 10 + [False] * 2


def test_tfds_names_the_nearest_prepared(tmp_path):
    tfds_data(tmp_path, {"train": tiny(2)})
    with pytest.raises(UserError, match="did you mean tfds:tiny"):
        data.load("tfds:tny", data_dir=str(tmp_path), held_out=1, seed=0)


@pytest.mark.parametrize("held_out", [0, 1.0, 0.0, -3, -0.5, True, 58, 0.99, float("nan")])
def test_impossible_held_out(tmp_path, held_out):
    with pytest.raises(UserError, match="held_out"):
        data.load(npz(tmp_path), held_out=held_out, seed=0)


@pytest.mark.parametrize("how", [{"seed": -1}, {"seed": 0, "size": 0}])
def test_impossible_seed_and_size(how):
    with pytest.raises(UserError, match="at least"):
        data.load("digits", held_out=0.2, **how)


@pytest.mark.parametrize("place", ["none/x.npz", "."])
def test_pack_to_nowhere_leaves_nothing(tmp_path, place):
    name = npz(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(UserError, match=r"exists already|there is no folder"):
        data.pack(name, str(home / place))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["d.npz", "home"]


# --- batches --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (12, 4), (5, 13), (7, 1), (1, 3)])
def test_every_example_once_per_epoch(n, batch):
    steps = [data.batch_indices(n, batch, seed=1, step=t) for t in range(4 * n)]
    assert all(ids.shape == (batch,) and ids.dtype == np.int64 for ids in steps)
    stream = np.concatenate(steps)
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : epoch * n + n].tolist()) == list(range(n))


def test_batches_are_a_function_of_seed_and_step():
    def at(seed, step):
        return data.batch_indices(100, 30, seed=seed, step=step).tolist()

    forward = [at(0, t) for t in range(12)]
    assert [at(0, t) for t in reversed(range(12))] == forward[::-1]
    assert at(1, 0) != forward[0]
    # the order of the second epoch is another one, and so are those of neighbouring seeds
    orders = {tuple(data.batch_indices(100, 100, seed=s, step=t)) for s in (0, 1) for t in (0, 1)}
    assert len(orders) == 4


def test_a_batch_may_be_changed_by_its_owner():
    data.batch_indices(8, 8, seed=0, step=0)[:] = 0
    assert sorted(data.batch_indices(8, 8, seed=0, step=0).tolist()) == list(range(8))


def test_padded_batches():
    images = data.Images(noise(0, 7, 2, 2, 1), np.arange(7, dtype=np.int32))
    pixels, labels = data.padded_batches(images, 3)
    assert pixels.shape == (3, 3, 2, 2, 1) and pixels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 2], [3, 4, 5], [6, -1, -1]] and labels.dtype == np.int32
    np.testing.assert_array_equal(pixels.reshape(9, 2, 2, 1)[:7], images.images)
    assert not pixels[2, 1:].any()


def test_calibration_subset():
    images = data.Images(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.zeros(50, np.int32))

    def drawn(**how):
        return data.calibration_subset(images, **how)

    some = drawn(batches=3, batch=8, seed=0)
    assert some.shape == (3, 8, 1, 1, 1) and len(np.unique(some)) == 24
    np.testing.assert_array_equal(some, drawn(batches=3, batch=8, seed=0))
    assert not np.array_equal(some, drawn(batches=3, batch=8, seed=1))
    assert drawn(batches=30, batch=8, seed=0).shape == (6, 8, 1, 1, 1)  # fewer batches
    assert drawn(batches=2, batch=80, seed=0).shape == (1, 50, 1, 1, 1)  # one smaller batch


# --- augmentation ---------------------------------------------------------------------------

PAD = 2
crop = jax.jit(augment, static_argnames=("pad", "flip"))


def batch_of(n):
    return noise(0, n, 6, 5, 3), np.arange(100, 100 + n, dtype=np.int32)


def test_augment_gives_a_crop_with_zeros_or_its_mirror_image():
    images, ids = batch_of(400)
    out = np.asarray(crop(images, jax.random.key(0), ids, pad=PAD, flip=True))
    assert out.shape == images.shape and out.dtype == np.uint8
    bordered = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    seen = np.zeros((5, 5, 2), int)
    for before, after in zip(bordered, out, strict=True):
        for y, x, mirrored in np.ndindex(seen.shape):
            view = before[y : y + 6, x : x + 5]
            seen[y, x, mirrored] += np.array_equal(view[:, ::-1] if mirrored else view, after)
    assert seen.sum() == 400  # each is exactly one of the 50 views
    # all equally likely: 8 expected of each, the 50 counts lie within 5 sigma (chi-squared)
    assert ((seen - 8) ** 2 / 8).sum() < 49 + 5 * np.sqrt(2 * 49)


def test_augment_of_an_example_ignores_the_rest_of_the_batch():
    images, ids = batch_of(8)
    key = jax.random.key(1)
    whole = crop(images, key, ids, pad=PAD, flip=True)
    order = np.array([5, 2, 7])
    np.testing.assert_array_equal(
        crop(images[order], key, ids[order], pad=PAD, flip=True), whole[order]
    )
    assert not np.array_equal(crop(images, jax.random.key(2), ids, pad=PAD, flip=True), whole)
    assert not np.array_equal(crop(images, key, ids + 1, pad=PAD, flip=True), whole)


def test_augment_does_not_depend_on_the_device_count():
    images, ids = batch_of(16)
    key = jax.random.key(1)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    sharded = crop(
        *(jax.device_put(images, split), key, jax.device_put(ids, split)), pad=PAD, flip=True
    )
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(sharded, crop(images, key, ids, pad=PAD, flip=True))


def test_augment_without_pad_or_flip_leaves_that_part_alone():
    images, ids = batch_of(64)
    key = jax.random.key(3)
    np.testing.assert_array_equal(crop(images, key, ids, pad=0, flip=False), images)
    flipped = np.asarray(crop(images, key, ids, pad=0, flip=True))
    mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(images, flipped, strict=True)]
    same = [np.array_equal(a, b) for a, b in zip(images, flipped, strict=True)]
    assert np.logical_xor(mirrored, same).all() and 10 < sum(mirrored) < 54


@pytest.mark.parametrize("pad", [-1, 5])
def test_augment_refuses_crops_without_image(pad):
    images, ids = batch_of(1)
    with pytest.raises(UserError, match=rf"pad is {pad}, .* 0 to 4"):
        crop(images, jax.random.key(0), ids, pad=pad, flip=False)


def test_normalise_gives_mean_zero_and_deviation_one():
    d = data.load("digits", held_out=0.2, seed=0)
    out = normalise(jnp.asarray(d.train.images), mean=d.mean, std=d.std)
    assert out.dtype == jnp.float32
    assert abs(float(out.mean())) < 1e-5 and abs(float(out.std()) - 1) < 1e-5


def test_normalise_each_channel_by_its_own_numbers():
    images, _ = batch_of(2)
    mean, std = (0.1, 0.2, 0.7), (0.5, 0.25, 0.125)
    out = normalise(jnp.asarray(images), mean=mean, std=std)
    np.testing.assert_allclose(out, (images / 255 - mean) / std, atol=2e-6)
    half = normalise(jnp.asarray(images), mean=mean, std=std, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(half, out.astype(jnp.bfloat16))
    with pytest.raises(AssertionError):
        normalise(jnp.asarray(images), mean=(0.5,), std=(0.5,))
