"""`supernet init`: a configuration for images that nobody has trained on yet."""

import collections
import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
from conftest import ROOT
from image_files import folder, noise, png
from tiny_run import CONFIG, supernet

from supernet_jax import data, spaces
from supernet_jax.cli import init
from supernet_jax.data import Survey
from supernet_jax.errors import UserError
from supernet_jax.experiment import config, dry_run, propose
from supernet_jax.experiment.propose import Machine

Path = pathlib.Path
LAPTOP = Machine("cpu", 1, "cpu", 2, 16 * 2**30)
SERVER = Machine("gpu", 8, "NVIDIA H100", 64, 512 * 2**30)


def seen(
    size: tuple[int, int] = (32, 32),
    counts: tuple[int, ...] = (500, 500),
    channels: int = 3,
    *,
    in_files: bool = True,
    **more: int,
) -> Survey:
    names = tuple(f"class {i}" for i in range(len(counts)))
    found = {"tests": 0, "rotated": 0, "transparent": 0, **more}
    return Survey(
        "folder:/data/my photos",
        names,
        counts,
        found["tests"],
        (size, size),
        channels,
        in_files,
        found["rotated"],
        found["transparent"],
    )


# --- what is proposed -----------------------------------------------------------------------

SIZES = ((8, 8), (12, 9), (16, 16), (28, 28), (32, 32), (60, 80), (375, 500))
COUNTS = ((3, 2), (40, 30, 20), (6000,) * 10, (130,) * 1000)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("here", [LAPTOP, SERVER], ids=["laptop", "server"])
def test_every_proposal_is_a_configuration_that_its_file_gives_back(
    size: tuple[int, int], here: Machine, tmp_path: Path
) -> None:
    kinds = itertools.product(COUNTS, (1, 3), (False, True), (0, 100))
    for i, (counts, channels, in_files, tests) in enumerate(kinds):
        odd = {"rotated": 1, "transparent": 2} if in_files and channels == 3 else {}
        survey = seen(size, counts, channels, in_files=in_files, tests=tests, **odd)
        parts = propose.propose(survey, here, data_dir="/data")
        settings = propose.built(parts)
        file = tmp_path / f"config{i}.py"
        text = propose.text(parts, 'About \\d and """ and \'Übung\'.\n\n    a command')
        file.write_text(text, encoding="utf-8")
        assert config.load_file(file)[0] == settings
        assert max(map(len, text.splitlines())) <= 100
        d, train, evaluation = settings.data, settings.train, settings.evaluation
        classes, total = len(counts), sum(counts)
        left = total - (0 if tests else max(1, round(0.2 * total)))
        assert 1 <= d.held_out <= left - classes
        assert train.batch % here.devices == evaluation.batch % here.devices == 0
        assert train.steps >= 300 and train.checkpoint_every <= train.steps
        assert train.steps * train.batch >= 99 * (left - d.held_out)
        space = settings.space.build(classes=classes, input_channels=channels)
        assert max(space.sizes) <= max(16, *size)
        assert d.size is not None or size[0] == size[1]
        assert (d.upright, d.background) == ((True, "white") if odd else (False, "none"))
        if not in_files:  # what arrays cannot do
            assert d.crop != "random" and d.storage != "stream"


def test_what_fits_images_and_machine() -> None:
    def of(survey: Survey, here: Machine = LAPTOP) -> config.Config:
        return propose.built(propose.propose(survey, here))

    assert isinstance(of(seen((8, 8))).space, spaces.Digits)
    assert of(seen((32, 32))).space == spaces.Cifar(resolutions=(24, 32))
    photos = seen((375, 500), (6000,) * 10)
    assert of(photos).space == spaces.Cifar(resolutions=(24, 32)) and of(photos).data.size == 32
    assert isinstance(of(photos, SERVER).space, spaces.AttentiveNAS)
    assert of(photos, SERVER).data.crop == "random" and of(photos).data.crop == "centre"
    assert of(seen((375, 500)), SERVER).space == spaces.Cifar(resolutions=(48, 64))  # too few
    assert of(seen((64, 64))).data.size is None  # the network makes them smaller
    assert not of(seen(channels=1)).data.flip and of(seen()).data.flip
    rates = {of(photos, here).optimizer.learning_rate for here in (LAPTOP, SERVER)}
    assert rates == {0.05}  # 0.2 and 0.1 for each 256 images: 64 and 128 of them
    many = seen((400, 500), (10**5,) * 100)
    assert of(many).data.storage == "stream" and of(many).evaluation.limit == 2000
    assert of(many).data.held_out == 5000


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="too few to hold any out for search; add images"):
        propose.propose(seen(counts=(1, 1, 1), tests=5), LAPTOP)


def test_a_survey_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder(tmp_path, classes=("cat", "Übung"), shape=(9, 7, 3))
    (tmp_path / "train/cat/more.png").write_bytes(png(noise(0, 20, 30, 4)))
    monkeypatch.setattr(data.decode, "decode_one", None)
    found = data.survey(name)
    assert (found.class_names, found.counts, found.tests) == (("cat", "Übung"), (6, 5), 10)
    assert collections.Counter(found.sizes) == {(9, 7): 20, (20, 30): 1}
    assert (found.channels, found.in_files, found.transparent) == (3, True, 1)
    digits = data.survey("digits")
    assert (sum(digits.counts), digits.sizes, digits.channels) == (1797, ((8, 8),), 1)


# --- the command ----------------------------------------------------------------------------


def test_names_that_users_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.txt").write_text("")
    for given, name in (
        ("digits", "digits"),
        ("tfds:cifar10", "tfds:cifar10"),
        ("photos", f"folder:{tmp_path}/photos"),
        ("./photos/", f"folder:{tmp_path}/photos"),
        (str(tmp_path / "photos"), f"folder:{tmp_path}/photos"),
        ("folder:photos", f"folder:{tmp_path}/photos"),
        ("a.npz", f"npz:{tmp_path}/a.npz"),
        ("npz:a.npz", f"npz:{tmp_path}/a.npz"),
    ):
        assert init._name(given, None) == name
    assert init._name("folder:photos", str(tmp_path)) == "folder:photos"
    for given, words in (
        ("a.txt", "neither a folder nor"),
        ("no/photos", "there is no folder"),
        ("~nobody-of-this-name/a", "give the whole path"),
    ):
        with pytest.raises(UserError, match=words):
            init._name(given, None)


TIMED = dry_run.Rehearsal(
    programs=(),
    steps=300,
    batch=8,
    devices=8,
    device="cpu",
    strategy="masked",
    parameters=1,
    checkpoint_bytes=1,
    timed=(8, 8, 8, 8),
    memory=None,
    compile_seconds=20.0,
    parts=1,
    from_cache=0,
    step=dry_run.Range(2.0, 1.0, 4.0),
    timed_steps=5,
    total=dry_run.Range(620.0, 320.0, 1220.0),
)


def test_from_images_to_a_few_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the space is as proposed; one that compiles in a moment takes its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "rehearse", lambda built: TIMED)
    folder(tmp_path / "my images", parts=("",), classes=("cat", "dog"), n=40, shape=(8, 8))
    for file in sorted((tmp_path / "my images/dog").iterdir())[:30]:
        file.unlink()
    said = supernet(capsys, "init", "my images", "--hours", "0.1")
    assert said.status == 0, said.err
    assert "50 images in 2 classes (10 to 40 each), 8 x 8 pixels, grey" in said.out
    assert "takes about 6 min 0 s here (3 min 10 s to 11 min 40 s), a step 2 s" in said.out
    assert "next: supernet train my_config.py --out runs/my_images" in said.out
    written = (tmp_path / "my_config.py").read_text("utf-8")
    assert "Classes are uneven: 'cat' has 40 images" in written and "80 % of them" in written
    assert "300 would be better, and take 10 min 20 s" in " ".join(written.split()).replace(
        "# ", ""
    )
    settings = config.load_file(tmp_path / "my_config.py")[0]
    assert settings.data.name == f"folder:{tmp_path}/my images"
    assert isinstance(settings.space, spaces.Digits) and settings.train.batch % 8 == 0
    again = supernet(capsys, "init", "my images", "--no-time")
    assert again.status == 2 and "my_config.py exists already; choose another --out" in again.err
    assert (tmp_path / "my_config.py").read_text("utf-8") == written
    (tmp_path / "light.py").write_text(
        CONFIG.read_text("utf-8")
        + "from supernet_jax.experiment.config import load_file\n"
        + "config = dataclasses.replace(load_file('my_config.py')[0], space=TinySpace())\n"
    )
    said = supernet(capsys, "train", "light.py", "--out", "run", "--train.steps", 2)
    assert said.status == 0 and "trained 2 steps" in said.out, said.err


def test_no_longer_than_was_asked_for() -> None:
    parts = propose.propose(seen(), LAPTOP)
    found = dataclasses.replace(TIMED, steps=propose.built(parts).train.steps)
    assert init._within(parts, found, 1000) is parts
    shorter = propose.built(init._within(parts, found, 0.1)).train
    # 20 s of the 360 and of the 620 go into compiling
    assert 0.9 < shorter.steps / (found.steps * 340 / 600) <= 1
    assert shorter.checkpoint_every <= shorter.steps / 5
    assert propose.built(init._within(parts, found, 0.001)).train.steps == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("digits --out x.txt", "let it end with .py"),
        ("digits --out none/x.py", "there is no folder none"),
        ("digits --hours 0", "--hours is 0.0, but must be above 0"),
        ("digits --hours nan", "--hours is nan"),
        ("digts", "did you mean digits?"),
        ("nowhere/photos", "there is no folder"),
        ("npz:none.npz", "there is no file"),
        ("tfds:tiny --data-dir .", "not prepared"),
    ],
)
def test_mistakes(
    arguments: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = supernet(capsys, "init", *arguments.split())
    assert said.status == 2 and words in said.err and said.err.count("\n") == 1, said.err
    assert list(tmp_path.iterdir()) == []


def test_the_documented_example_is_what_is_written() -> None:
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    photos = seen((375, 500), (300, 90, 60), rotated=12)._replace(sizes=((375, 500),) * 64)
    parts = propose.propose(photos, LAPTOP)
    lines = [line.strip() for line in propose.text(parts, "x").splitlines()]
    start = text.index("config = sj.Config(")
    shown = text[start : text.index("```", start)].splitlines()
    assert [line for line in map(str.strip, shown) if line not in (*lines, "...")] == []
    assert len(shown) > 10 and np.all([len(line) <= 100 for line in shown])
