"""Images left in their files: the same as in memory, from any step on, whoever decodes them."""

import dataclasses
import io
import json
import pathlib
import shutil

import jax
import numpy as np
import processes
import pytest
import tiny_run
from image_files import folder, noise, png, tfds_data, tiny
from PIL import Image

from supernet_jax import data
from supernet_jax.data import decode, feeding, splits
from supernet_jax.errors import UserError
from supernet_jax.runtime import sharding

Path = pathlib.Path
SIZE = 6
HOW = {"size": SIZE, "held_out": 0.25, "seed": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and formats, some large enough to be decoded at half their size."""
    path = tmp_path_factory.mktemp("images")
    folder(path, n=20, shape=(9, 7, 3))
    for i in range(4):
        (path / f"train/cat/tall{i}.png").write_bytes(png(noise(50 + i, 17, 5, 3)))
        (path / f"train/dog/photo{i}.jpg").write_bytes(png(noise(60 + i, 40, 64, 3), "JPEG"))
    return path


def streamed(home: Path, **changes: object) -> data.Dataset:
    return data.load(f"folder:{home}", **{**HOW, "storage": "stream", **changes})


def batches(
    images: data.Images, *, start: int = 0, stop: int = 6, **how: object
) -> list[data.Examples]:
    return list(data.feed(images, 10, **{"seed": 1, "start": start, "stop": stop, **how}))


def same(one: list[data.Examples], other: list[data.Examples]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for left, right in zip(a, b, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


# --- as in memory ---------------------------------------------------------------------------


def same_dataset(one: data.Dataset, other: data.Dataset) -> None:
    for a, b in ((one.train, other.train), (one.held_out, other.held_out), (one.test, other.test)):
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.labels.dtype == b.labels.dtype and a.images.shape == b.images.shape
        np.testing.assert_array_equal(a.images[:], b.images[:])
        np.testing.assert_array_equal(a.images[np.array([3, 1])], b.images[[3, 1]])
    assert (one.mean, one.std, one.class_names) == (other.mean, other.std, other.class_names)


@pytest.mark.parametrize("crop", ["stretch", "centre"])
def test_streamed_is_what_is_in_memory(home: Path, crop: data.Crop) -> None:
    stored, held = (streamed(home, crop=crop, storage=s) for s in ("stream", "memory"))
    assert isinstance(stored.train.images, data.Stored)
    assert isinstance(held.train.images, np.ndarray)
    same_dataset(stored, held)
    same(batches(stored.train), batches(held.train))
    for part in (data.padded_batches(d.held_out, 4)[0] for d in (stored, held)):
        assert part.any()
        np.testing.assert_array_equal(part, data.padded_batches(held.held_out, 4)[0])
    drawn = [data.calibration_subset(d.train, batches=2, batch=8, seed=0) for d in (stored, held)]
    np.testing.assert_array_equal(*drawn)


def test_without_a_test_part(tmp_path: Path) -> None:
    folder(tmp_path, parts=("",), n=10, shape=(9, 7, 3))
    same_dataset(streamed(tmp_path), streamed(tmp_path, storage="memory"))


def test_grey_images(tmp_path: Path) -> None:
    folder(tmp_path, n=10, shape=(9, 7))
    stored = streamed(tmp_path)
    assert stored.train.images.shape[1:] == (SIZE, SIZE, 1)
    same_dataset(stored, streamed(tmp_path, storage="memory"))
    (tmp_path / "train/dog/colour.png").write_bytes(png(noise(9, 9, 7, 3)))
    stored = streamed(tmp_path)
    assert stored.train.images.shape[1:] == (SIZE, SIZE, 3)
    same_dataset(stored, streamed(tmp_path, storage="memory"))


def test_tfds_and_its_labels(tmp_path: Path) -> None:
    records = tiny(150, shape=(9, 7, 3))  # more than a thread reads at once
    name = tfds_data(tmp_path, {"train": records, "test": tiny(4)})
    how = {**HOW, "data_dir": str(tmp_path)}
    held = data.load(name, **how, storage="memory")
    assert not list(tmp_path.rglob("supernet-labels*"))
    for _ in range(2):  # with labels from the records, then with those that were kept
        same_dataset(data.load(name, **how, storage="stream"), held)
    (kept,) = tmp_path.rglob("supernet-labels-train.npz")
    with np.load(kept) as file:
        labels, about = file["labels"], file["about"]
    np.savez(kept, labels=1 - labels, about=about)
    np.testing.assert_array_equal(data.read(name, **asked(tmp_path)).train.labels, 1 - labels)
    np.savez(kept, labels=1 - labels, about=np.array("another version"))
    np.testing.assert_array_equal(data.read(name, **asked(tmp_path)).train.labels, labels)


def asked(path: Path) -> dict:
    return {"data_dir": str(path), "size": SIZE, "storage": "stream"}


def test_the_fingerprint_tells_files_split_and_crop_apart(home: Path, tmp_path: Path) -> None:
    before = streamed(home).fingerprint
    assert streamed(home).fingerprint == before
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    assert streamed(copy).fingerprint == before  # wherever it lies
    (copy / "train/cat/3.png").write_bytes(png(noise(9, 9, 8, 3)))
    others = [streamed(copy), streamed(home, seed=4), streamed(home, crop="centre")]
    assert len({before, *(d.fingerprint for d in others)}) == 4


# --- a function of the step -----------------------------------------------------------------


def test_from_any_step_with_any_threads_workers_and_rows(home: Path) -> None:
    train = streamed(home, crop="random").train
    whole = batches(train)
    for start in (1, 4):
        same(batches(train, start=start), whole[start:])
    same(batches(train, reading=data.Reading(threads=5)), whole)
    rows = np.array([0, 1, 7])
    some = [data.Examples(*(part[rows] for part in step)) for step in whole]
    same(batches(train, rows=rows), some)
    for workers in (1, 2):
        same(batches(train, reading=data.Reading(threads=1, workers=workers)), whole)


def test_batches_of_several_chunks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = streamed(home, crop="random").train
    whole = batches(train)
    monkeypatch.setattr(feeding, "CHUNK", 3)
    same(batches(train), whole)


def test_crops_follow_seed_step_and_example(home: Path) -> None:
    train = streamed(home, crop="random").train
    n = len(train.labels)
    first, second = (
        {int(i): image for i, image in zip(step.ids, step.images, strict=True)}
        for step in data.feed(train, n, seed=1, start=0, stop=2)
    )
    assert first.keys() == second.keys() == set(range(n))
    assert all((first[i] != second[i]).any() for i in first)
    (one,) = data.feed(train, 2 * n, seed=1, start=0, stop=1)  # the same step, another batch
    for i, image in zip(one.ids.tolist(), one.images, strict=True):
        np.testing.assert_array_equal(image, first[i])
    (other,) = data.feed(train, n, seed=2, start=0, stop=1)
    assert all((first[int(i)] != x).any() for i, x in zip(other.ids, other.images, strict=True))


def test_a_feed_may_be_left_early(home: Path) -> None:
    stream = data.feed(streamed(home).train, 4, seed=0, start=0, stop=10**9)
    assert next(stream).images.shape == (4, SIZE, SIZE, 3)
    stream.close()
    assert next(stream, None) is None


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1, 1), (1, 900), (900, 1), (3, 2)])
def test_random_crops_lie_inside(width: int, height: int) -> None:
    for seed in range(200):
        left, upper, right, lower = decode.random_box(np.random.default_rng(seed), width, height)
        assert 0 <= left < right <= width and 0 <= upper < lower <= height
        assert right - left >= 1 - 1e-9 and lower - upper >= 1 - 1e-9


def test_random_crops_have_the_published_sizes() -> None:
    boxes = np.array([decode.random_box(np.random.default_rng(i), 60, 60) for i in range(2000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / 3600, w / h
    assert 0.08 <= area.min() < 0.1 and 0.95 < area.max() <= 1
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.77 and 1.3 < ratio.max() <= 4 / 3 + 1e-9
    assert abs(np.log(ratio).mean()) < 0.02  # as often tall as wide
    assert abs((boxes[:, 0] + boxes[:, 2]).mean() / 120 - 0.5) < 0.01  # in the middle on average


def test_a_crop_is_that_part_of_the_image() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:30, 20:50] = (10, 200, 90)
    item = decode.Item("it", io.BytesIO(png(pixels)), 0)
    inside = decode.decode_one(item, size=8, box=lambda w, h: (20.0, 10.0, 50.0, 30.0))
    assert isinstance(inside, np.ndarray)
    assert (inside[1:-1, 1:-1] == (10, 200, 90)).all()  # the border takes from its neighbours
    assert decode.centre(60, 40) == (12.5, 2.5, 47.5, 37.5)


def test_a_jpeg_is_decoded_small_where_that_is_enough() -> None:
    smooth = np.asarray(Image.fromarray(noise(0, 4, 4, 3)).resize((160, 120)))
    file = io.BytesIO(png(smooth, "JPEG"))
    for size in (32, 60, 100):  # at a quarter, at half and whole
        small = decode.decode_one(decode.Item("it", file, 0), size=size)
        plain = np.asarray(Image.fromarray(smooth).resize((size, size), Image.Resampling.BILINEAR))
        assert isinstance(small, np.ndarray)
        assert np.abs(small.astype(int) - plain).mean() < 2  # grey levels: what JPEG loses
    opened = Image.open(file)
    assert decode._shrink(opened, (0, 0, 160, 120), 60) == (0, 0, 80, 60)
    assert opened.size == (80, 60)


# --- what goes where ------------------------------------------------------------------------


def test_auto_streams_what_is_large(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(**how: object) -> bool:
        return isinstance(streamed(home, storage="auto", **how).train.images, data.Stored)

    images = sum(1 for path in home.rglob("*") if path.is_file())
    assert not stored() and stored(crop="random")
    monkeypatch.setattr(data, "MEMORY", images * SIZE * SIZE * 3)
    assert not stored()
    monkeypatch.setattr(data, "MEMORY", images * SIZE * SIZE * 3 - 1)
    assert stored()
    with pytest.raises(UserError, match=r"would take .* --data.size 224, .* --data.storage memory"):
        stored(size=None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": None}, "to be streamed, .* --data.size 224"),
        ({"size": None, "crop": "centre"}, "centre crop needs a size"),
        ({"storage": "memory", "crop": "random"}, "cannot be held in memory with random crops"),
    ],
)
def test_what_cannot_be_streamed(home: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        streamed(home, **changes)


@pytest.mark.parametrize("how", [{"storage": "stream"}, {"crop": "random"}])
def test_arrays_are_in_memory_already(how: dict) -> None:
    with pytest.raises(UserError, match="digits comes as one array in memory"):
        data.load("digits", **HOW, **how)


def test_own_rows_are_put_where_they_belong() -> None:
    mesh = sharding.data_mesh(list(reversed(jax.devices())))
    rows = sharding.own_rows(mesh, 16)
    assert rows.tolist() == list(range(16))
    host = noise(0, 16, 3)
    put = sharding.split_rows(mesh, host, rows=rows, count=16)
    np.testing.assert_array_equal(put, host)
    assert put.sharding == sharding.split(mesh, host).sharding


# --- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_named_with_their_step(home: Path, tmp_path: Path, workers: int) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home, copy)
    train = streamed(copy).train
    ids = [step.ids for step in batches(train)]
    place = int(train.images.places[ids[2][4]])
    bad = train.images.source.items([place])[0].where
    Path(bad).write_bytes(b"rubbish")
    stream = data.feed(train, 10, seed=1, start=1, stop=6, reading=data.Reading(1, workers))
    next(stream)
    with pytest.raises(UserError) as caught:
        next(stream)
    assert f"in the batch of step 3, 1 images do not decode: {bad} (not an image)" in str(
        caught.value
    )
    with pytest.raises(UserError, match="not an image"):
        train.images[:]


def test_lost_records_are_named(tmp_path: Path) -> None:
    name = tfds_data(tmp_path, {"train": tiny(40), "test": tiny(4)})
    train = data.read(name, **asked(tmp_path)).train
    (file,) = tmp_path.rglob("tiny-train*")
    file.write_bytes(file.read_bytes()[:1000] + bytes(len(file.read_bytes()) - 1000))
    with pytest.raises(UserError, match="records 0 to 39 of tiny train cannot be read"):
        data.read(name, **asked(tmp_path))

    def lost(places: object) -> list[decode.Item]:
        raise UserError(f"records {places} are lost")

    stored = dataclasses.replace(train.images, source=train.images.source._replace(items=lost))
    with pytest.raises(UserError, match=r"in the batch of step 1, .*records \[.* are lost"):
        batches(data.Images(stored, train.labels))


# --- training -------------------------------------------------------------------------------


def test_training_on_a_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that met a bad image goes on, when that is replaced, as if it had not."""
    monkeypatch.setattr(splits, "SAMPLE", 4)  # or else the bad image would be found before
    images = tmp_path / "images"
    folder(images, n=24, shape=(12, 10, 3))
    options = {
        "--data.name": f"folder:{images}",
        "--data.size": 8,
        "--data.crop": "random",
        "--train.batch": 8,
        "--train.steps": 6,
        "--train.checkpoint-every": 100,
        "--train.log-every": 1,
        "--evaluation.batch": 8,
    }
    flat = [str(part) for option in options.items() for part in option]

    def train(out: str) -> tiny_run.Said:
        return tiny_run.supernet(capsys, "train", tiny_run.CONFIG, "--out", tmp_path / out, *flat)

    assert train("whole").status == 0
    settings = {"size": 8, "held_out": 0.2, "seed": 0, "crop": "random"}
    stored = data.load(f"folder:{images}", **settings).train
    fourth = next(data.feed(stored, 8, seed=0, start=3, stop=4)).ids
    steps = [step.ids for step in data.feed(stored, 8, seed=0, start=0, stop=3)]
    sample = splits.random_stream(0, splits.STATISTICS).permutation(len(stored.labels))[:4]
    fresh = np.setdiff1d(fourth, np.concatenate([*steps, sample]))
    bad = Path(stored.images.source.items([int(stored.images.places[fresh[0]])])[0].where)
    good = bad.read_bytes()
    bad.write_bytes(bytes(len(good)))  # of the same size, so that the fingerprint stays
    said = train("stopped")
    assert said.status == 2 and f"step 4, 1 images do not decode: {bad}" in said.err
    log = tmp_path / "stopped/metrics.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
    bad.write_bytes(good)
    said = train("stopped")
    assert said.status == 0 and "warning" not in said.err, said.err
    whole, stopped = (processes.state(tmp_path / out, 6) for out in ("whole", "stopped"))
    assert whole.keys() == stopped.keys() and len(whole) > 10
    assert all(whole[name].tobytes() == stopped[name].tobytes() for name in whole)
    assert log.read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
