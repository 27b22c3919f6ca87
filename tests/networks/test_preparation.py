"""From image files to pixels: what was done for training travels with every network."""

import dataclasses
import inspect
import io
import json
import pathlib
import re
import runpy
from typing import Any

import exported
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from image_files import png
from PIL import Image, ImageOps

from supernet_jax import data
from supernet_jax.cli import main
from supernet_jax.data import augment, decode, preparation
from supernet_jax.data.preparation import Preparation
from supernet_jax.errors import UserError
from supernet_jax.experiment import build, config, run, take_out
from supernet_jax.experiment.config import Data
from supernet_jax.networks import classifier_inputs, manifest, network_folder
from supernet_jax.networks.formats import onnx, stablehlo, table, torch
from supernet_jax.networks.manifest import Description, model_card
from supernet_jax.storage.typed_json import parse

PROGRAMS = tuple(f.name for f in table.FORMATS if f.program and not table.missing_packages(f))
CONFIG = """
import dataclasses

from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training.losses import HardLabels
from supernet_jax.training.optimizers import Sgd
from supernet_jax.training.samplers import Uniform


@dataclasses.dataclass(frozen=True)
class Small:
    def build(self, *, classes, input_channels):
        return mobilenet(
            "small", resolutions=(8,), stem=(8,), stem_stride=2,
            stages=(Stage((8, 12), (1,), (3,), (1,), 1),), last=(16,), classes=classes,
            input_channels=input_channels, head_ratio=2,
        )


config = Config(
    space=Small(),
    data=Data(held_out=0.25),
    sampler=Uniform(n_random=1),
    loss=HardLabels(smoothing=0.0),
    optimizer=Sgd(learning_rate=0.2),
    train=Train(steps=25, batch=16, checkpoint_every=25),
    evaluation=Evaluation(calibration_batches=2, batch=16, chunk=2),
)
"""


def wide_images(home: pathlib.Path) -> None:
    """20 x 48 pixels; bright in the middle and dark beside it, or the other way round.

    Of all of an image most is what lies beside the middle: whoever takes more than the middle sees
    the other class.
    """
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 12)):
        for name, middle in (("bright", 200), ("dark", 50)):
            folder = home / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((20, 48, 3), 250 - middle)
                pixels[:, 14:34] = middle
                noisy = pixels + rng.integers(-25, 26, pixels.shape)
                kind = "JPEG" if i % 2 else "PNG"
                (folder / f"{i}.{kind.lower()}").write_bytes(png(noisy.astype(np.uint8), kind))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A network of a run on the middle of wide images, in every format."""
    home = tmp_path_factory.mktemp("wide")
    wide_images(home / "images")
    (home / "small.py").write_text(CONFIG, encoding="utf-8")
    options = ["--data.name", f"folder:{home / 'images'}", "--data.size", "12"]
    options += ["--data.crop", "centre"]
    run = ["--out", str(home / "run"), *options]
    main.main(["train", str(home / "small.py"), *run])
    wanted = ["--arch", "largest", "--format", "orbax", "safetensors", *PROGRAMS]
    out = ["--out", str(home / "net"), "--config", str(home / "small.py")]
    main.main(["extract", str(home / "run"), *wanted, *out])
    return home / "net"


def files(network: pathlib.Path) -> list[str]:
    """The test images, one class after the other."""
    return [str(f) for f in sorted((network.parent / "images" / "test").rglob("*.*"))]


def snippets(network: pathlib.Path) -> list[str]:
    """Of the card, on the test images."""
    card = (network / "README.md").read_text("utf-8").replace('["IMAGE"]', repr(files(network)))
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def share(network: pathlib.Path, logits: Any) -> float:
    """Of the test images, classified correctly."""
    labels = ["bright" not in file for file in files(network)]
    return float(np.mean(np.asarray(logits).argmax(-1) == labels))


def test_in_use_as_good_as_reported(network: pathlib.Path) -> None:
    reported = manifest.read_description(network)["accuracy"]["test"]
    assert reported > 0.9
    own: dict[str, Any] = {}
    reached = []
    for snippet in snippets(network):
        exec(snippet, own)
        if "logits" in snippet:
            reached.append(share(network, own.pop("logits")))
    assert reached == [reported] * (1 + len(PROGRAMS))

    # Whoever takes all of an image cannot tell one class from the other.
    module, variables = network_folder.load(network)
    d = parse(Description, manifest.read_description(network), "")
    how = Preparation(12, 12, None)
    all_of_it = [preparation.pixels(file, how, 3) for file in files(network)]
    given = augment.normalise(jnp.asarray(np.stack(all_of_it)), mean=d.mean, std=d.std)
    assert share(network, jax.jit(module.apply)(variables, given)) <= 0.6


def test_pixels_are_those_of_the_run(network: pathlib.Path) -> None:
    built = run.open_run(
        network.parent / "run", runpy.run_path(str(network.parent / "small.py"))
    ).experiment
    wanted = {image.tobytes() for image in np.asarray(built.dataset.test.images[:])}
    own: dict[str, Any] = {}
    [inputs] = [s for s in snippets(network) if "def prepared" in s]
    exec(inputs, own)
    assert {image.tobytes() for image in own["images"]} == wanted
    theirs = classifier_inputs.inputs(network, files(network))
    np.testing.assert_allclose(theirs, own["inputs"], rtol=1e-5, atol=1e-6)
    assert take_out.preparation_of(built) == Preparation(12, 12, 0.875)
    for wrong in ("cat.jpg", []):
        with pytest.raises(UserError, match="must be a list of at least one file"):
            classifier_inputs.inputs(network, wrong)


def test_every_file_says_how(network: pathlib.Path) -> None:
    import onnx as onnx_files
    import safetensors

    said = {"height": 12, "width": 12, "centre": 0.875, "filter": "bilinear"}
    said |= {"upright": False, "background": "none"}
    assert manifest.read_description(network)["preparation"] == said
    with safetensors.safe_open(network / network_folder.TENSORS, "np") as file:
        assert json.loads(file.metadata()["preparation"]) == said
    properties = onnx_files.load(network / onnx.FILE).metadata_props
    assert {"preparation": json.dumps(said)}.items() <= {p.key: p.value for p in properties}.items()
    card = (network / "README.md").read_text("utf-8")
    assert "| of an image | the square in its middle, 0.875 of the shorter side, brought to" in card


def test_cards_of_programs_that_take_pixels_of_another_size(network: pathlib.Path) -> None:
    value = manifest.read_description(network)
    one = {**value["formats"]["onnx"], "size": [30, 20], "pixels": True}
    how = {**value["preparation"], "upright": True, "background": "grey"}
    made = {**value, "formats": {"onnx": one}, "preparation": how}
    card = model_card(made, snippets={"onnx": "logits = inputs"})
    inputs, _ = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    own: dict[str, Any] = {}
    exec(inputs.replace('["IMAGE"]', repr(files(network)[:2])), own)
    taken = Preparation(30, 20, 0.875, upright=True, background="grey")
    wanted = [preparation.pixels(file, taken, 3) for file in files(network)[:2]]
    np.testing.assert_array_equal(own["inputs"], np.stack(wanted), strict=True)
    assert "The accuracies are of images of 12 x 12 pixels." in card
    assert "The accuracies are" not in (network / "README.md").read_text("utf-8")
    assert "upright as EXIF says, over grey where transparent" in card


@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
def test_other_sizes_are_refused(network: pathlib.Path, name: str) -> None:
    run = table.load(network, name)
    for shape in ((1, 20, 48, 3), (1, 8, 8, 3)):
        with pytest.raises(Exception, match=r"(?i)dimension|shape"):
            run(np.zeros(shape, np.float32))


def test_the_module_for_pytorch(
    network: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is no dependency")
    model = runpy.run_path(str(network / "torch" / "model.py"))
    with torch.inference_mode():
        logits = model["load"]()(model["read"](*files(network)))
    assert share(network, logits) == manifest.read_description(network)["accuracy"]["test"]
    for file in files(network)[:1] + files(network)[-1:]:
        monkeypatch.setattr("sys.argv", ["model.py", file])
        runpy.run_path(str(network / "torch" / "model.py"), run_name="__main__")
        assert capsys.readouterr().out.split()[1] == pathlib.Path(file).parent.name


# --- to the bit --------------------------------------------------------------------------------


def encoded(rng: np.random.Generator) -> bytes:
    """An image of any size, mode and kind."""
    height, width = (int(n) for n in rng.integers(1, 200, 2))
    mode = str(rng.choice(["RGB", "L", "RGBA", "P", "CMYK", "LA", "1", "YCbCr"]))
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
    kind = "PNG" if mode in ("RGBA", "P", "LA", "1") else str(rng.choice(["JPEG", "TIFF"]))
    file = io.BytesIO()
    noise.save(file, kind)
    return file.getvalue()


def cases() -> list[tuple[bytes, int, Any, str, np.ndarray]]:
    """Images, size, part, mode, and the pixels that training sees."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(150):
        content, size = encoded(rng), int(rng.integers(1, 40))
        crop, mode = rng.choice(["stretch", "centre"]), str(rng.choice(["L", "RGB"]))
        item = decode.Item("it", io.BytesIO(content), 0)
        seen = decode.decode_one(item, size=size, box=decode.fixed_part(crop), mode=mode)
        assert not isinstance(seen, str)
        centre = decode.CENTRE if crop == "centre" else None
        made.append((content, size, centre, mode, seen.reshape(size, size, -1)))
    return made


def test_pixels_are_those_of_training(tmp_path: pathlib.Path) -> None:
    for content, size, centre, mode, seen in cases():
        own = preparation.prepared(io.BytesIO(content), size, size, mode, centre)
        np.testing.assert_array_equal(np.asarray(own).reshape(seen.shape), seen, strict=True)


def test_one_function_for_all() -> None:
    text = preparation.text()
    own: dict[str, Any] = {}
    exec(text, own)
    content, size, centre, mode, seen = cases()[0]
    made = own["prepared"](io.BytesIO(content), size, size, mode, centre)
    np.testing.assert_array_equal(np.asarray(made).reshape(seen.shape), seen)
    assert inspect.getsource(preparation.prepared) in torch.TEMPLATE.read_text("utf-8")


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_that_note_a_rotation(value: int, kind: str, tmp_path: pathlib.Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
    notes = Image.Exif()
    notes[0x0112] = value
    image.save(tmp_path / "a", kind, exif=notes, quality=95)
    with Image.open(tmp_path / "a") as noted:
        upright = ImageOps.exif_transpose(noted).convert("RGB")
    width, height = upright.size
    for given, wanted in ((True, upright), (False, Image.open(tmp_path / "a"))):
        own = preparation.prepared(tmp_path / "a", *wanted.size, "RGB", None, given)
        np.testing.assert_array_equal(np.asarray(own), np.asarray(wanted), strict=True)
    # Its middle, from a JPEG that is decoded at half its size.
    small = np.asarray(preparation.prepared(tmp_path / "a", 20, 20, "RGB", 0.8, True), np.int32)
    side = 0.8 * min(width, height)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    wanted = upright.resize((20, 20), Image.Resampling.BILINEAR, box=box)
    assert np.abs(small - np.asarray(wanted, np.int32)).mean() < (12 if kind == "JPEG" else 0.5)


@pytest.mark.parametrize("background, value", [("black", 0), ("grey", 128), ("white", 255)])
def test_what_lies_behind(background: str, value: int, tmp_path: pathlib.Path) -> None:
    hidden = np.zeros((4, 6, 4), np.uint8)
    hidden[..., 0] = 200  # red, of which nothing shows in the left half
    hidden[:, 3:, 3] = 255
    Image.fromarray(hidden).save(tmp_path / "a.png")
    seen = np.asarray(
        preparation.prepared(tmp_path / "a.png", 6, 4, "RGB", None, False, background)
    )
    assert (seen[:, :3] == value).all() and (seen[:, 3:] == [200, 0, 0]).all()
    as_it_lies = np.asarray(preparation.prepared(tmp_path / "a.png", 6, 4, "RGB", None))
    assert (as_it_lies == [200, 0, 0]).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("crop", ["stretch", "centre"])
def test_pixels_of_arrays(channels: int, crop: Any, tmp_path: pathlib.Path) -> None:
    # As npz files hold them: the same image in a file is the same input.
    rng = np.random.default_rng(channels)
    image = rng.integers(0, 256, (30, 50, channels), np.uint8)
    mode = preparation.MODES[channels]
    bands = [Image.fromarray(image[:, :, c]) for c in range(channels)]
    Image.merge(mode, bands).save(tmp_path / "a.png")
    centre = decode.CENTRE if crop == "centre" else None
    own = preparation.pixels(tmp_path / "a.png", Preparation(9, 9, centre), channels)
    np.testing.assert_array_equal(own, decode.resize(image[None], 9, crop=crop)[0], strict=True)
    same = preparation.pixels(tmp_path / "a.png", Preparation(30, 50, None), channels)
    np.testing.assert_array_equal(same, image, strict=True)


def test_what_no_pixels_can_be_made_of(tmp_path: pathlib.Path) -> None:
    how = Preparation(8, 8, None)
    whole = png(np.zeros((9, 9, 3), np.uint8))
    deep = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(deep, "PNG")
    for name, content, told in (
        ("none", None, "there is no file"),
        ("empty", b"", "is empty, so it was cut short"),
        ("text", b"no image", "is not a whole 8-bit image, or was cut short"),
        ("cut", whole[:-30], "is not a whole 8-bit image, or was cut short"),
        ("deep", deep.getvalue(), "of mode I;16, not of 8 bits"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=told):
            preparation.pixels(tmp_path / name, how, 3)


# --- what is known -----------------------------------------------------------------------------


@pytest.mark.parametrize("crop, centre", [("stretch", None), ("centre", 0.875), ("random", 0.875)])
def test_what_a_run_does_where_nothing_is_random(crop: Any, centre: float | None) -> None:
    images = data.Images(np.zeros((2, 5, 7, 3), np.uint8), np.zeros(2, np.int32))
    dataset = dataclasses.replace(data.load("digits", held_out=0.2, seed=0), test=images)
    settings = dataclasses.replace(config.Config(), data=Data(crop=crop))
    built = build.Experiment(settings, dataset, *[None] * 4)  # type: ignore[arg-type]
    assert take_out.preparation_of(built) == Preparation(5, 7, centre)


TRAVELS = {"size", "crop", "upright", "background"}  # as a preparation
OF_TRAINING = {
    *("pad", "flip", "policy", "layers", "magnitude", "deviation", "increasing", "erase"),
    *("mixup", "cutmix"),
}
OF_TEXT = {"length"}
NOT_OF_PIXELS = {"name", "data_dir", "held_out", "split_seed", "storage", "threads", "workers"}
NOT_OF_PIXELS |= {"second"}


def test_no_setting_of_data_is_forgotten() -> None:
    # Whatever changes the pixels of images that are evaluated has to travel with networks.
    assert {field.name for field in dataclasses.fields(Data)} == (
        TRAVELS | OF_TRAINING | NOT_OF_PIXELS | OF_TEXT
    )


def test_images_that_are_no_square(tmp_path: pathlib.Path) -> None:
    made = exported.export("digits, smallest", pixels=True)._replace(size=(18, 31))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 18, 31, 1), np.uint8)
    fed = table.fed(images, made)
    np.testing.assert_array_equal(fed, images, strict=True)
    write = table.writer([onnx.FORMAT, stablehlo.FORMAT], made, fed)
    proven = write(tmp_path)  # raises where a format gives other logits
    assert [one["size"] for one in proven.values()] == [[18, 31]] * 2


def test_earlier_versions_do_not_say(network: pathlib.Path, tmp_path: pathlib.Path) -> None:
    value = json.loads((network / "network.json").read_text("utf-8"))
    del value["preparation"]
    for one in value["formats"].values():
        one["size"] = 12
    module = network_folder.load(network)[0]
    described = parse(Description, {**value, "preparation": None, "formats": {}}, "")
    _, variables = network_folder.load(network)
    value |= {"version": 2, "sha256": network_folder.digest(described, variables)}
    (tmp_path / "network.json").write_text(json.dumps(value), encoding="utf-8")
    (tmp_path / network_folder.TENSORS).write_bytes((network / network_folder.TENSORS).read_bytes())
    assert network_folder.load(tmp_path)[0] == module
    read = manifest.read_description(tmp_path)
    assert read["preparation"] is None and read["formats"]["onnx"]["size"] == [12, 12]
    with pytest.raises(UserError, match="does not say how an image file becomes the pixels"):
        classifier_inputs.inputs(tmp_path, files(network))


@pytest.mark.parametrize(
    "change, told",
    [
        ({"height": 0}, "preparation is not a Preparation: 12 x 0 pixels are no image"),
        ({"centre": 1.5}, r"centre is 1\.5, but must be null or in"),
        ({"filter": "nearest"}, "filter is 'nearest', but only bilinear is known"),
        ({"centre": 0.9}, "has been changed since it was written"),
        ({"background": "red"}, "background is 'red', allowed: none, black, grey, white"),
        ({"rotate": True}, "preparation has fields unknown rotate"),
    ],
)
def test_an_edited_preparation(
    network: pathlib.Path, tmp_path: pathlib.Path, change: dict[str, Any], told: str
) -> None:
    value = json.loads((network / "network.json").read_text("utf-8"))
    value["preparation"] |= change
    (tmp_path / "network.json").write_text(json.dumps(value), encoding="utf-8")
    (tmp_path / network_folder.TENSORS).write_bytes((network / network_folder.TENSORS).read_bytes())
    with pytest.raises(UserError, match=told):
        network_folder.load(tmp_path)
