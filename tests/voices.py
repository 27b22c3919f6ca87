"""Voices made of sines, as WAV files: every speaker has a pitch and two resonances of its own."""

import pathlib
import wave

import numpy as np

RATE = 16_000


def voice(speaker: int, utterance: int, seconds: float) -> np.ndarray:
    """One utterance, int16: harmonics whose strength depends on the speaker's resonances."""
    rng = np.random.default_rng([speaker, utterance])
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = 90 + 25 * speaker + rng.uniform(-4, 4)
    resonances = 500 + 170 * speaker, 1600 + 260 * speaker
    sound = 0.05 * rng.normal(size=len(time))
    for harmonic in range(1, 30):
        near = sum(np.exp(-(((harmonic * pitch - f) / 200) ** 2)) for f in resonances)
        phase = rng.uniform(0, 2 * np.pi)
        sound += (0.1 + near) * np.sin(2 * np.pi * harmonic * pitch * time + phase)
    beat = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * time)
    return np.int16(3000 * sound * beat / 2)


def write_wav(
    path: pathlib.Path, samples: np.ndarray, *, rate: int = RATE, channels: int = 1, width: int = 2
) -> None:
    """A WAV file; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def write(folder: pathlib.Path, speakers: int, utterances: int, seconds: float = 0.4) -> None:
    """FOLDER/SPEAKER/UTTERANCE.wav."""
    for speaker in range(speakers):
        for i in range(utterances):
            write_wav(folder / f"speaker{speaker}" / f"{i}.wav", voice(speaker, i, seconds))
