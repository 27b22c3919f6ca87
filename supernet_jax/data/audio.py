"""Recordings of voices: WAV files read, and made log-mel features, all on the host.

Shape letters: `n` samples of a recording, `t` frames of it, `F` mel bands (80), `N` utterances of a
part, `T` frames of each.

Features are those of EfficientTDNN's published code: pre-emphasis of 0.97, a Hamming window of
25 ms every 10 ms, power spectrum of 512 points, 80 triangles evenly spaced on the mel scale (HTK's
formula) from 20 to 7600 Hz, natural logarithm. A recording has a frame every 160 samples, the first
at its beginning; at the ends it is mirrored.
"""

import functools
import io
import pathlib
import wave

import numpy as np
import scipy  # its parts are imported when they are used: they take time at each start

from supernet_jax.data.decode import NAMED, REASONS, Encoded, in_threads
from supernet_jax.errors import UserError

RATE = 16_000  # samples a second
WINDOW, HOP, POINTS = 400, 160, 512  # samples
BANDS, LOWEST, HIGHEST = 80, 20.0, 7600.0  # Hz
EMPHASIS, FLOOR = 0.97, 1e-6  # of powers of samples in -32768..32767
LEAST = 10  # frames of a recording, a tenth of a second
LENGTH = 300  # frames of an example where nobody says
WANTED = f"WAV files of 16-bit PCM with one channel and {RATE:,} samples a second"


def samples(path: pathlib.Path) -> np.ndarray | str:
    """What a WAV file holds, int16 `[n]`, or in a few words why it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return REASONS.get(error.errno or 0, f"could not be read: {error.strerror}")
    if not content:
        return "empty, so it was cut short"
    try:
        with wave.open(io.BytesIO(content)) as file:
            channels, width, rate, frames, _, _ = file.getparams()
            if channels != 1:
                return f"{channels} channels"
            if width != 2:
                return f"{8 * width}-bit samples"
            if rate != RATE:
                return f"{rate:,} samples a second"
            data = file.readframes(frames)
    except (wave.Error, EOFError) as error:
        return f"no WAV file of PCM: {error}" if str(error) else "no WAV file, or its header is cut"
    if len(data) != 2 * frames:
        return f"cut short: of {frames:,} samples there are {len(data) // 2:,}"
    return np.frombuffer(data, "<i2")


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Features float32 `[1 + n // 160, F]` of samples `[n]`, n at least 257."""
    x = np.asarray(waveform, np.float32)
    before = np.concatenate([x[1:2], x[:-1]])  # mirrored
    x = np.pad(x - np.float32(EMPHASIS) * before, POINTS // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, POINTS)[::HOP]
    spectrum = scipy.fft.rfft(frames * _window(), axis=-1)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return np.log(power @ _triangles() + np.float32(FLOOR))


@functools.cache
def _window() -> np.ndarray:
    """Hamming's window, periodic, in the middle of the points of a spectrum."""
    turns = np.arange(WINDOW) / WINDOW
    border = (POINTS - WINDOW) // 2
    return np.pad(0.54 - 0.46 * np.cos(2 * np.pi * turns), border).astype(np.float32)


@functools.cache
def _triangles() -> np.ndarray:
    """How much of each point of a spectrum goes into each band: `[POINTS // 2 + 1, F]`."""
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2) / 2595) - 1)
    points = np.linspace(0, RATE / 2, POINTS // 2 + 1)[:, None]
    rising = (points - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - points) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def fitted(features: np.ndarray, length: int) -> np.ndarray:
    """Features `[t, F]` as `[T, F]`: the middle of longer ones, shorter ones repeated."""
    start = max(0, (len(features) - length) // 2)
    return features[np.arange(start, start + length) % len(features)]


def read(part: Encoded, length: int) -> tuple[np.ndarray, list[str], int]:
    """The features of all recordings of a part, float32 `[N, T, F]`; what is wrong with those that
    cannot be used; and how many are shorter than T.
    """
    made = np.zeros((part.length, length, BANDS), np.float32)

    def work(places: range) -> tuple[list[str], int]:
        bad, short = list[str](), 0
        for place, item in zip(places, part.items(places), strict=True):
            assert isinstance(item.file, pathlib.Path)
            found = _features(item.file)
            if isinstance(found, str):
                bad.append(f"{item.where} ({found})")
            else:
                made[place] = fitted(found, length)
                short += len(found) < length
        return bad, short

    results = list(in_threads(work, part.length, f"reading {part.title}"))
    return made, [one for bad, _ in results for one in bad], sum(short for _, short in results)


def _features(path: pathlib.Path) -> np.ndarray | str:
    """Those of a recording, or in a few words why it has none."""
    found = samples(path)
    if isinstance(found, str):
        return found
    if (frames := 1 + len(found) // HOP) < LEAST:
        return f"too short: {len(found):,} samples, {frames} {'frame' if frames == 1 else 'frames'}"
    return log_mel(found)


def refuse(bad: list[str]) -> None:
    """Raises a `UserError` that names recordings that cannot be used, if there are any."""
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            f"{len(bad)} recordings cannot be used: {'; '.join(bad[:NAMED])}{more}; give {WANTED}, "
            f"each of at least {LEAST} frames (0.1 s): convert, mend or remove these"
        )
