"""Images as users have them: what cannot be read is named, what is odd about them is said."""

import io
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tiny_run
from image_files import folder, noise, png, tfds_data, tiny
from PIL import Image, ImageOps

from supernet_jax import data
from supernet_jax.data import decode, folders, notes, sources
from supernet_jax.errors import UserError
from supernet_jax.experiment import config
from supernet_jax.experiment import run as experiment_run
from supernet_jax.storage import typed_json

Path = pathlib.Path
MORE = {"held_out": 0.25, "seed": 0}


def refused(name: str, **how: object) -> str:
    with pytest.raises(UserError) as caught:
        data.load(name, **{**MORE, **how})
    assert "\n" not in str(caught.value) and "delete" not in str(caught.value)
    return str(caught.value)


# --- what cannot be reached or read ----------------------------------------------------------


def circle(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def latin(path: Path) -> None:
    os.rename(path / "train/cat", os.fsencode(path / "train") + b"/\xdcbung")


LISTED = {
    "circular image": (lambda p: circle(p / "train/cat/x.png"), ["cat/x.png (a link in a circle"]),
    "image gone": (lambda p: dangling(p / "test/dog/x.PNG"), ["dog/x.PNG (a link that leads no"]),
    "circular class": (lambda p: circle(p / "train/eel"), ["train/eel (a link in a circle"]),
    "class gone": (lambda p: dangling(p / "test/eel"), ["test/eel (a link that leads nowhere)"]),
    "class of Latin-1": (latin, [r"b'\xdcbung'", "not UTF-8", "rename it, perhaps to 'Übung'"]),
    "only TIFF": (
        lambda p: (
            [(p / "train/cat" / f"{i}.png").rename(p / f"train/cat/{i}.TIFF") for i in (0,)]
            and [(p / f"train/cat/{i}.png").rename(p / f"train/cat/{i}.tiff") for i in range(1, 5)]
        ),
        ["no image in", "train/cat (there are 5 .tiff)", "convert"],
    ),
}


@pytest.mark.parametrize("case", LISTED)
@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_what_cannot_be_reached_is_named_before_anything_is_decoded(
    tmp_path: Path, case: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = folder(tmp_path)
    change, words = LISTED[case]
    change(tmp_path)
    monkeypatch.setattr(decode, "decode_one", None)
    message = refused(name, storage=storage, size=4)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("part", ["", "train", "test/dog"])
def test_an_unreadable_folder(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder(tmp_path / "images")
    closed, scandir = tmp_path / "images" / part, os.scandir

    def scan(path: str | Path) -> object:  # root may read everything
        if Path(path) == closed or (not part and Path(path).parent == closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    message = refused(name)
    assert f"{closed}" in message and "is not readable by this user" in message
    assert "ask its owner" in message


def test_a_link_to_an_image_is_an_image(tmp_path: Path) -> None:
    name = folder(tmp_path / "images")
    (tmp_path / "elsewhere.png").write_bytes(png(noise(7, 4, 4, 3)))
    (tmp_path / "images/train/cat/z.png").symlink_to(tmp_path / "elsewhere.png")
    np.testing.assert_array_equal(data.read(name).train.images[5], noise(7, 4, 4, 3))


def test_why_an_image_was_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder(tmp_path)
    closed, gone, empty = (tmp_path / f"train/cat/{i}.png" for i in (1, 2, 3))
    empty.write_bytes(b"")
    read_bytes = Path.read_bytes

    def read(file: Path) -> bytes:
        if file == closed:
            raise PermissionError(13, "Permission denied", str(file))
        if file == gone:
            raise FileNotFoundError(2, "No such file or directory", str(file))
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", read)
    message = refused(name)
    assert f"{closed} (not readable by this user)" in message
    assert f"{gone} (there is no such file)" in message
    assert f"{empty} (empty, so it was cut short)" in message
    assert "remove" not in message


def test_a_file_in_place_of_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=1)
    assert "is a file, not a folder" in refused(f"folder:{tmp_path}/d.npz")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "leads nowhere" in refused(f"folder:{tmp_path}/loop")
    assert "is a folder, not a npz file" in refused(f"npz:{tmp_path}")
    assert "give the whole path" in refused("folder:~nobody-of-this-name/images")


def test_a_relative_path_is_said_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder:images", "npz:images.npz"):
        assert f"{tmp_path}/images" in refused(name)


def test_an_npz_file_that_this_user_may_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.npz"

    def closed(*_: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setitem(vars(sources), "open", closed)
    assert "is not readable by this user" in refused(f"npz:{path}")


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_names_of_all_alphabets(tmp_path: Path, storage: data.Storage) -> None:
    name = folder(tmp_path, classes=("Übung", "日本"))
    odd = os.fsencode(tmp_path / "train/Übung") + b"/\xff.png"
    Path(os.fsdecode(odd)).write_bytes(png(noise(7, 4, 4, 3)))
    found = data.load(name, **MORE, storage=storage, size=4)
    assert found.class_names == ("Übung", "日本") and len(found.fingerprint) == 16
    assert len(found.train.labels) + len(found.held_out.labels) == 11


def test_names_that_look_alike_are_shown_apart(tmp_path: Path) -> None:
    name = folder(tmp_path, classes=("\u00dcbung", "b"))
    (tmp_path / "test/\u00dcbung").rename(tmp_path / "test/U\u0308bung")
    assert r"differ in 'U\u0308bung', '\xdcbung'" in refused(name)


def test_class_names_that_no_file_holds(tmp_path: Path) -> None:
    x, y = noise(0, 8, 4, 4), np.arange(8) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    for names in (np.array(["a", "\udcdcbung"]), np.array([b"a", b"\xdcbung"])):
        np.savez(tmp_path / "d.npz", **arrays, class_names=names)
        assert "'\\udcdcbung' is not UTF-8" in refused(f"npz:{tmp_path}/d.npz")
    np.savez(tmp_path / "d.npz", **arrays, class_names=np.array([b"a", "Ü".encode()]))
    assert data.read(f"npz:{tmp_path}/d.npz").class_names == ("a", "Ü")


def test_a_terminal_without_these_letters(tmp_path: Path) -> None:
    """Names are those on the disk in any locale, and what is said of them fits the terminal."""
    folder(tmp_path, classes=("Übung", "zwei"))
    text = (
        "import sys; from supernet_jax import data\n"
        "found = data.load(sys.argv[1], held_out=0.25, seed=0)\n"
        "print(ascii(found.class_names)); print(found.notes[0], file=sys.stderr)\n"
    )
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", text, f"folder:{tmp_path}"],
        env={**os.environ, **bare, "PYTHONPATH": str(Path(data.__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == rb"('zwei', '\xdcbung')"
    assert rb"\xdcbung 4" in done.stderr


# --- rotation, transparency, size -----------------------------------------------------------


def photo(pixels: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    file, noted = io.BytesIO(), Image.Exif()
    noted[0x0112] = orientation
    Image.fromarray(pixels).save(file, kind, exif=noted)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("crop", ["stretch", "centre"])
def test_all_rotations(kind: str, crop: data.Crop) -> None:
    """Whole, stretched and cropped as Pillow's own function turns it, also where a JPEG is halved.

    The pixels change slowly, because halving gives others.
    """
    smooth = np.asarray(Image.fromarray(noise(0, 4, 5, 3)).resize((60, 40), Image.Resampling.BOX))
    for orientation in range(1, 9):
        content = photo(smooth, orientation, kind)
        item = decode.Item("it", io.BytesIO(content), 0)
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        seen: list[decode.Odd] = []
        turned = decode.decode_one(item, size=None, how=decode.How(upright=True), seen=seen)
        np.testing.assert_array_equal(turned, np.asarray(wanted))
        assert seen == ["rotated"] * (orientation != 1)
        box = decode.fixed_part(crop)
        small = decode.decode_one(item, size=10, box=box, how=decode.How(upright=True))
        plain = wanted.resize((10, 10), Image.Resampling.BILINEAR, box=box(*wanted.size))
        difference = np.abs(np.asarray(small, int) - np.asarray(plain, int))
        assert difference.mean() < (6 if kind == "JPEG" else 0.01)
        left = decode.decode_one(item, size=None)
        np.testing.assert_array_equal(left, np.asarray(Image.open(io.BytesIO(content))))


def test_a_broken_note_is_none() -> None:
    decode.quiet()  # as whoever reads a dataset does
    for exif in (b"Exif\0\0II*\0rubbish", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0"):
        file = io.BytesIO()
        Image.fromarray(noise(0, 8, 8, 3)).save(file, "JPEG", exif=exif)
        assert isinstance(decode.decode_one(decode.Item("it", file, 0), size=None), np.ndarray)


def odd_images(path: Path) -> str:
    """20 images: 3 rotated (of 8 x 4 pixels), 2 transparent, one opaque with an alpha channel."""
    name = folder(path, shape=(8, 8, 3))
    for i in range(3):
        (path / f"train/cat/{i}.png").write_bytes(photo(noise(i, 8, 8, 3), 6))
    layered = noise(9, 8, 8, 4)
    layered[..., 3] = 255
    (path / "train/dog/0.png").write_bytes(png(layered))
    layered[2, 3] = (10, 20, 30, 0)
    (path / "train/dog/1.png").write_bytes(png(layered))
    (path / "test/dog/1.png").write_bytes(png(layered))
    return name


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_what_is_odd_is_counted_and_said(tmp_path: Path, storage: data.Storage) -> None:
    name = odd_images(tmp_path)
    how = {"storage": storage, "size": 8}
    said = data.read(name, **how).notes
    assert len(said) == 2 and f"3 of 20 images of {name} note a rotation (EXIF)" in said[0]
    assert "--data.upright True" in said[0] and "--data.background white" in said[1]
    # Of a stream the headers alone are looked at, which do not say what is seen through.
    assert said[1].startswith("2 of" if storage == "memory" else "3 of")
    dealt = data.read(name, **how, upright=True, background="white")
    assert dealt.notes == ()
    before = data.read(name, **how).train.images[:]
    now = dealt.train.images[:]
    for i in range(3):
        np.testing.assert_array_equal(now[i], np.rot90(before[i], -1))
    np.testing.assert_array_equal(now[3:6], before[3:6])  # upright, opaque
    assert before[6, 2, 3].tolist() == [10, 20, 30] and now[6, 2, 3].tolist() == [255] * 3
    now[6, 2, 3] = before[6, 2, 3]
    np.testing.assert_array_equal(now[6:], before[6:])


def test_a_few_of_many_stored_images_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "LOOKED_AT", 2)
    (said, *_) = data.read(odd_images(tmp_path), storage="stream", size=8).notes
    assert said.startswith("1 of 4 images looked at, of 20 of folder:")


KINDS = ("RGBA", "LA", "P", "L", "RGB")


def see_through(kind: str) -> bytes:
    """An image of one colour, (200, 200, 200), whose first pixel is transparent."""
    file = io.BytesIO()
    if kind in ("RGBA", "LA"):
        image = Image.new(kind, (4, 4), (200, 200, 200, 255)[-len(kind) :])
        image.putpixel((0, 0), (90, 90, 90, 0)[-len(kind) :])
        image.save(file, "PNG")
    else:
        image = Image.new("RGB" if kind == "RGB" else "L", (4, 4), (200,) * len(kind) or 200)
        image.putpixel((0, 0), (90, 90, 90)[: len(kind)] if kind == "RGB" else 90)
        image = image.convert("P") if kind == "P" else image
        key = (90, 90, 90) if kind == "RGB" else image.getpixel((0, 0))
        image.save(file, "PNG", transparency=key)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", ["none", "black", "grey", "white"])
def test_transparency_of_all_kinds(kind: str, background: data.Background) -> None:
    item, seen = decode.Item("it", io.BytesIO(see_through(kind)), 0), []
    how = decode.How(background=background)
    pixels = decode.decode_one(item, size=None, how=how, seen=seen)
    assert seen == ["transparent"]
    assert np.unique(pixels[0, 0]).tolist() == [
        {"none": 90, "black": 0, "grey": 128, "white": 255}[background]
    ]
    pixels = np.where(pixels == pixels[0, 0], 200, pixels)
    assert (pixels == 200).all()


def test_half_transparent_pixels_are_mixed() -> None:
    pixels = np.full((4, 4, 4), 100, np.uint8)
    pixels[..., 3] = 51
    item = decode.Item("it", io.BytesIO(png(pixels)), 0)
    found = decode.decode_one(item, size=2, how=decode.How(background="white"))
    np.testing.assert_allclose(found, 0.2 * 100 + 0.8 * 255, atol=1)


def test_large_images_are_one_line_and_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # it warns above, refuses above twice that
    monkeypatch.setattr(notes, "LARGE", 50)
    monkeypatch.setattr(decode, "LARGE", 50)
    name = folder(tmp_path, shape=(4, 4, 3))
    (tmp_path / "train/cat/2.png").write_bytes(png(noise(0, 8, 8, 3)))
    (said,) = data.read(name, size=4).notes
    assert "1 of 20 images" in said and "more than 50 pixels" in said
    (tmp_path / "train/cat/2.png").write_bytes(png(noise(0, 80, 80, 3)))
    assert "2.png (Image size (6400 pixels) exceeds limit" in refused(name, size=4)


@pytest.mark.parametrize("change", [{"upright": True}, {"background": "black"}])
def test_arrays_have_nothing_to_turn(change: dict) -> None:
    assert "comes as an array of pixels" in refused("digits", **change)


def test_fingerprints_of_streams_are_older_than_the_settings(tmp_path: Path) -> None:
    for i in range(20):
        home = tmp_path / ("cat", "dog")[i % 2]
        home.mkdir(exist_ok=True)
        (home / f"{i}.pgm").write_bytes(b"P5 4 4 255\n" + noise(i, 16).tobytes())
    how = {**MORE, "storage": "stream", "size": 4}
    before = data.load(f"folder:{tmp_path}", **how).fingerprint
    assert before == "dfc65ba9ac2c53af"
    others = [
        data.load(f"folder:{tmp_path}", **how, **change).fingerprint
        for change in ({"upright": True}, {"background": "white"}, {"background": "black"})
    ]
    assert len({before, *others}) == 4


def test_a_config_from_before_these_settings_means_what_it_meant() -> None:
    old = typed_json.to_json(config.Config())
    for name in ("upright", "background"):
        del old["data"][name]
    settings = typed_json.parse(Any, old, "config", named=config.LIBRARY).data
    assert (settings.upright, settings.background) == (False, "none")


def test_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    name = folder(tmp_path)
    for path in ("train/cat/a.gif", "train/cat/b.GIF", "test/dog/c.tif", "test/dog/Thumbs.db"):
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "train/dog/more").mkdir()
    for path in ("test/a.png", "train/b.JPG"):
        (tmp_path / path).write_bytes(png(noise(0, 4, 4, 3)))
    said = data.read(name).notes
    assert "has 3 files that are not read (there are 2 .gif, 1 .tif)" in said[0]
    assert "1 folders inside of class folders" in said[1] and len(said) == 3
    assert "2 images in no class folder" in said[2]
    assert not set(folders.ENDINGS) & set(folders.OTHER_ENDINGS)


# --- few images, few classes ----------------------------------------------------------------


def thin(path: Path, *counts: int) -> str:
    for i, count in enumerate(counts):
        (path / f"class{i}").mkdir(parents=True)
        for j in range(count):
            (path / f"class{i}" / f"{j}.png").write_bytes(png(noise(i + j, 4, 4, 3)))
    return f"folder:{path}"


def test_thin_classes_are_one_line_with_counts(tmp_path: Path) -> None:
    found = data.load(thin(tmp_path, 40, 1, 2, 3), **MORE)
    (said,) = found.notes
    counts = np.bincount(found.train.labels).tolist()
    shown = ", ".join(f"class{i} {counts[i]}" for i in (1, 2, 3))
    assert f"of 4 classes 3 have fewer than 10 training images ({shown})" in said
    for part, what in ((found.held_out, "held-out"), (found.test, "test")):
        missing = 4 - len(np.unique(part.labels))
        assert f"{missing} have none of the {len(part.labels)} {what} images" in said and missing


def test_enough_images_are_not_remarked_upon(tmp_path: Path) -> None:
    assert data.load(thin(tmp_path, 30, 30), **MORE).notes == ()
    assert data.load("digits", **MORE).notes == ()


@pytest.mark.parametrize("counts", [(20,), (1,)])
def test_a_task_without_a_choice_is_refused(tmp_path: Path, counts: tuple[int, ...]) -> None:
    message = refused(thin(tmp_path / "images", *counts))
    assert "has 1 class (class0)" in message and "add images of another class" in message
    x, y = noise(0, 8, 4, 4), np.zeros(8, int)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert "has 1 class (0)" in refused(f"npz:{tmp_path}/d.npz")


def test_advice_that_can_be_followed(tmp_path: Path) -> None:
    """Where every class has one image, no part of them can be taken away, however small."""
    message = refused(thin(tmp_path / "one", 1, 1, 1))
    assert "one alone" in message and "take fewer" not in message and "add images" in message
    message = refused(thin(tmp_path / "some", 2, 1, 1, 1, 1, 1, 1, 1))
    assert "add images, or a test part of your own" in message and "take fewer" not in message
    assert "take fewer" in refused(folder(tmp_path / "many", n=2), held_out=3)


def test_training_says_it_and_the_run_opens_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    out = ("--out", "run", "--train.steps", 1, "--train.batch", 8, "--evaluation.batch", 8)
    said = tiny_run.supernet(
        *(capsys, "train", tiny_run.CONFIG, *out, "--data.name", "folder:images", "--data.size", 8)
    )
    assert said.status == 0, said.err
    warned = [line for line in said.err.splitlines() if line.startswith("supernet: warning: ")]
    assert len(warned) == 3 and "warning" not in said.out
    assert all(word in said.err for word in ("note a rotation", "transparent", "is thin"))
    monkeypatch.chdir("/")
    run = experiment_run.open_run(tmp_path / "run", config.load_file(tiny_run.CONFIG)[1])
    assert run.trained_on == run.experiment.dataset.fingerprint
    (tmp_path / "images").rename(tmp_path / "moved")
    said = tiny_run.supernet(
        *(capsys, "evaluate", tmp_path / "run", "--config", tiny_run.CONFIG, "--random", 1)
    )
    assert said.status == 2 and f"the folder {tmp_path}/images does not exist" in said.err


def test_a_decoded_copy_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"precious")
    with pytest.raises(UserError, match="exists already"):
        data.pack("digits", str(tmp_path / "mine.npz"))
    assert (tmp_path / "mine.npz").read_bytes() == b"precious"
    data.pack(odd_images(tmp_path / "images"), str(tmp_path / "a.npz"), background="white")
    packed = data.load(f"npz:{tmp_path}/a.npz", **MORE)
    assert packed.train.images.max() == 255


# --- TFDS -----------------------------------------------------------------------------------


def configured(path: Path, *names: str) -> None:
    """Configurations of `tiny`, none of which is the default."""
    for name in names:
        tfds_data(path / name, {"train": tiny(20), "test": tiny(4)})
        home = path / "tiny" / name
        home.parent.mkdir(exist_ok=True)
        (path / name / "tiny").rename(home)
        (path / name).rmdir()
        info = home / "1.0.0/dataset_info.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"configName": name}))


def test_tfds_names_the_configurations_that_are_there(tmp_path: Path) -> None:
    configured(tmp_path, "small", "large")
    how = {"data_dir": str(tmp_path)}
    assert data.load("tfds:tiny/small", **MORE, **how).name == "tfds:tiny/small"
    message = refused("tfds:tiny", **how)
    assert "but tfds:tiny/large, tfds:tiny/small" in message and "did you mean tfds:tiny?" not in (
        message
    )
    assert "tfds:NAME/CONFIG" in message
    assert "as tfds:tiny/small" in refused("tfds:tiny/smal", **how)
    assert "tfds:tiny/small:1.0.0" in refused("tfds:tiny/small:2.0.0", **how)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("dataset_info.json", b'{"name": "tin', "dataset_info.json is not a JSON file, or was cut"),
        ("dataset_info.json", b"", "dataset_info.json is empty, so it was cut short"),
        ("features.json", b"{", "features.json is not a JSON file, or was cut short"),
        ("features.json", None, "there is no file"),
        ("label.labels.txt", "Übung\nb".encode("latin-1"), "label.labels.txt is not a UTF-8 text"),
        ("tiny-train.array_record-00000-of-00001", None, "the file is missing"),
        ("tiny-train.array_record-00000-of-00001", b"x", "the file may be cut short"),
        ("tiny-train.array_record-00000-of-00001", -9, "the file may be cut short"),
    ],
)
def test_tfds_files_that_are_missing_or_cut(
    tmp_path: Path, file: str, content: bytes | int | None, words: str
) -> None:
    name = tfds_data(tmp_path, {"train": tiny(20), "test": tiny(4)})
    path = tmp_path / "tiny/1.0.0" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(
            path.read_bytes()[: len(path.read_bytes()) // 2] if content == -9 else content
        )
    assert words in refused(name, data_dir=str(tmp_path))


def test_tfds_without_a_training_split(tmp_path: Path) -> None:
    name = tfds_data(tmp_path, {"validation": tiny(4)})
    assert "has no split train (there: validation)" in refused(name, data_dir=str(tmp_path))
