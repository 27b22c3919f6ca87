"""Recordings: features by the formula, parts, and what cannot be read is named."""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
import voices

from supernet_jax import data
from supernet_jax.data import audio, augment, folders, speech
from supernet_jax.errors import UserError

Path = pathlib.Path
MORE = {"held_out": 0.25, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two speakers, five recordings of 0.15 s of each."""
    voices.write(tmp_path / "all", speakers=2, utterances=5, seconds=0.15)
    return tmp_path / "all"


def refused(name: str, **how: object) -> str:
    with pytest.raises(UserError) as caught:
        data.load(name, **{**MORE, **how})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- features --------------------------------------------------------------------------------


def test_features_by_the_formula() -> None:
    samples = np.random.default_rng(0).integers(-3000, 3000, 1_000).astype(np.int16)
    found = audio.log_mel(samples)
    assert found.shape == (1 + 1_000 // 160, 80) and found.dtype == np.float32
    x = samples.astype(float)
    emphasised = x - 0.97 * np.concatenate([[x[1]], x[:-1]])
    window = np.zeros(512)
    window[56:456] = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    step = (mel(7600) - mel(20)) / 81
    for frame in (0, 3, 6):
        places = np.abs(np.arange(frame * 160 - 256, frame * 160 + 256))  # mirrored at 0
        places = np.where(places > 999, 2 * 999 - places, places)
        power = np.abs(waves @ (emphasised[places] * window)) ** 2
        for band in (0, 40, 79):
            low, middle, high = (
                700 * (10 ** ((mel(20) + step * (band + i)) / 2595) - 1) for i in range(3)
            )
            f = np.arange(257) * 8000 / 256
            triangle = np.clip(
                np.minimum((f - low) / (middle - low), (high - f) / (high - middle)), 0, 1
            )
            wanted = np.log(triangle @ power + 1e-6)
            assert found[frame, band] == pytest.approx(wanted, abs=1e-3)


def test_a_tone_is_in_its_band() -> None:
    time = np.arange(48_000) / 16_000
    found = audio.log_mel(np.int16(8_000 * np.sin(2 * np.pi * 1_000 * time)))
    assert len(found) == 301  # three seconds
    edges = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 7600 / 700), 82)
    centres = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    assert abs(found.mean(0).argmax() - np.abs(centres - 1_000).argmin()) <= 1


def test_longer_ones_are_cut_and_shorter_ones_repeated() -> None:
    features = np.arange(7)[:, None] * np.ones(80)
    assert audio.fitted(features, 3)[:, 0].tolist() == [2, 3, 4]
    assert audio.fitted(features, 10)[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]


def test_training_sees_random_parts() -> None:
    features = np.broadcast_to(np.arange(9.0)[:, None], (4, 9, 3))
    run = jax.jit(lambda seed, ids: augment.begun_elsewhere(features, jax.random.key(seed), ids))
    ids = np.arange(4)
    made = np.asarray(run(0, ids))
    starts = made[:, 0, 0]
    assert len({*starts.tolist()}) > 1
    for row, start in zip(made, starts, strict=True):
        np.testing.assert_array_equal(row[:, 1], (start + np.arange(9)) % 9)
    np.testing.assert_array_equal(run(0, ids[::-1])[::-1], made)  # by example, not by place
    assert np.any(run(1, ids) != made)


# --- parts -----------------------------------------------------------------------------------


def test_a_folder_of_recordings(folder: Path) -> None:
    name = f"folder:{folder}"
    assert data.kind(name) == "speech"
    one = data.load(name, length=12, **MORE)  # type: ignore[arg-type]
    assert one.speech == data.Speech(bands=80, length=12, speakers=2) and not one.is_of_images
    assert one.class_names == ("speaker0", "speaker1")
    assert [len(part.labels) for part in (one.train, one.held_out, one.test)] == [6, 2, 2]
    assert sorted(one.held_out.labels) == sorted(one.test.labels) == [0, 1]
    every = np.concatenate([part.images for part in (one.train, one.held_out, one.test)])
    assert every.dtype == np.float32 and every.shape == (10, 12, 80)
    wanted = audio.fitted(audio.log_mel(voices.voice(1, 3, 0.15)), 12)
    assert np.any(np.all(every == wanted, (1, 2)))
    again = data.load(name, length=12, **MORE)  # type: ignore[arg-type]
    longer = data.load(name, length=20, **MORE)  # type: ignore[arg-type]
    assert one.fingerprint == again.fingerprint != longer.fingerprint
    assert any("10 of 10 recordings" in note and "shorter than 20" in note for note in longer.notes)
    assert any("2 have fewer than 10 training utterances" in note for note in one.notes)
    inputs, labels = data.padded_batches(one.train, 4)
    assert inputs.shape == (2, 4, 12, 80) and inputs.dtype == np.float32
    assert labels[1, 2:].tolist() == [-1, -1]


def test_a_test_part_of_other_speakers(tmp_path: Path) -> None:
    voices.write(tmp_path / "train", speakers=2, utterances=4, seconds=0.15)
    voices.write(tmp_path / "test", speakers=3, utterances=2, seconds=0.15)
    found = data.load(f"folder:{tmp_path}", length=10, **MORE)  # type: ignore[arg-type]
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.class_names == ("speaker0", "speaker1") and found.speech is not None
    assert found.speech.speakers == 2
    with pytest.raises(UserError, match=r"8 files .* are no images, as"):
        folders.find(tmp_path)


def features(tmp_path: Path, **change: object) -> str:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.normal(size=(8, 20, 80)),
        "y_train": np.arange(8) % 2,
        "x_test": rng.normal(size=(4, 24, 80)),
        "y_test": np.array([0, 3, 3, 1]),
    }
    np.savez(tmp_path / "features.npz", **{**arrays, **change})  # type: ignore[arg-type]
    return f"npz:{tmp_path / 'features.npz'}"


def test_features_in_an_npz_file(tmp_path: Path) -> None:
    name = features(tmp_path)
    assert data.kind(name) == "speech"
    found = data.load(name, **MORE)  # type: ignore[arg-type]
    assert found.train.images.shape == (6, 20, 80) and found.train.images.dtype == np.float32
    assert found.test.images.shape == (4, 20, 80)  # the middle of longer ones
    assert found.test.labels.tolist() == [0, 3, 3, 1]
    assert data.load(name, length=12, **MORE).speech == data.Speech(80, 12, 2)  # type: ignore[arg-type]


# --- what is wrong ---------------------------------------------------------------------------


def silence(path: Path, seconds: float = 0.2, **how: int) -> None:
    width = how.get("width", 2)
    dtype = {1: np.uint8, 2: np.int16}[width]
    voices.write_wav(path, np.zeros(int(seconds * 16_000) * how.get("channels", 1), dtype), **how)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2_000])


WRONG: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "rate": (lambda p: silence(p, rate=8_000), ["8,000 samples a second", "16,000 samples"]),
    "stereo": (lambda p: silence(p, channels=2), ["(2 channels)", "one channel"]),
    "8 bits": (lambda p: silence(p, width=1), ["(8-bit samples)", "16-bit"]),
    "no header": (lambda p: p.write_bytes(b"RIFF of what?" * 9), ["(no WAV file of PCM: "]),
    "header cut": (lambda p: p.write_bytes(p.read_bytes()[:3]), ["or its header is cut"]),
    "cut": (cut, ["cut short: of 2,400 samples there are 978"]),
    "empty": (lambda p: p.write_bytes(b""), ["empty, so it was cut short"]),
    "one frame": (lambda p: silence(p, 0.005), ["too short: 80 samples, 1 frame", "at least 10"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_recordings_that_cannot_be_used_are_named(folder: Path, case: str) -> None:
    change, words = WRONG[case]
    change(folder / "speaker1" / "3.wav")
    message = refused(f"folder:{folder}", length=10)
    assert message.startswith("1 recordings cannot be used: ") and "speaker1/3.wav (" in message
    assert all(word in message for word in words), message


def moved(folder: Path) -> None:
    for path in (folder / "speaker1").iterdir():
        path.rename(path.with_suffix(".flac"))


FOLDERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "one speaker": (
        lambda p: (
            [path.unlink() for path in (p / "speaker1").iterdir()] + [(p / "speaker1").rmdir()]
        ),
        ["of 1 speaker (speaker0)", "nobody to tell apart"],
    ),
    "an empty folder": (
        lambda p: (p / "speaker2").mkdir(),
        ["no recording in", "speaker2;", ".wav"],
    ),
    "other formats": (moved, ["no recording in", "speaker1 (there are 5 .flac)", "convert"]),
    "images too": (
        lambda p: (p / "speaker1" / "face.png").write_bytes(b"?"),
        ["1 files in the class folders", "are no recordings", "speaker1/face.png"],
    ),
    "only a test part": (lambda p: (p / "speaker1").rename(p / "test"), ["a folder test alone"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_used(folder: Path, case: str) -> None:
    change, words = FOLDERS[case]
    change(folder)
    message = refused(f"folder:{folder}", length=10)
    assert all(word in message for word in words), message


def test_images_among_which_are_recordings(folder: Path) -> None:
    (folder / "speaker0" / "0.wav").rename(folder / "speaker0" / "0.png")
    assert data.kind(f"folder:{folder}") == "images"
    assert "are no images, as" in refused(f"folder:{folder}")


def test_settings_that_cannot_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "an example has 5 frames; give a length of at least 10" in refused(
        f"folder:{folder}", length=5
    )
    said = refused(f"folder:{folder}", length=10, held_out=9)
    assert "9 of 8 training recordings; at most 6 can go" in said
    monkeypatch.setattr(speech, "MEMORY", 10_000)
    assert "would take 0.0 GiB as features" in refused(f"folder:{folder}", length=10)


NAN = np.full((4, 20, 80), np.nan)
FEATURES: dict[str, tuple[dict[str, object], list[str]]] = {
    "not numbers": ({"x_test": NAN}, ["test: the features of the utterance at index 0", "numbers"]),
    "another form": ({"x_test": NAN[0]}, ["test: features are float64 [20, 80]", "[N, T, 80]"]),
    "too short": ({"x_test": np.ones((4, 9, 80))}, ["utterances of 9 frames, but 20 are wanted"]),
    "labels": ({"y_train": np.arange(8) % 2 * 2}, ["speaker '1' (label 1) has no training"]),
    "negative": ({"y_test": np.array([0, -1, 0, 0])}, ["index 1 is -1", "at least 0"]),
    "one speaker": ({"y_train": np.zeros(8, int)}, ["recordings of 1 speaker (0)"]),
    "too few labels": ({"y_train": np.arange(7) % 2}, ["int64 [7] for 8 utterances"]),
}


@pytest.mark.parametrize("case", FEATURES)
def test_features_that_cannot_be_used(tmp_path: Path, case: str) -> None:
    change, words = FEATURES[case]
    message = refused(features(tmp_path, **change))
    assert all(word in message for word in words), message
