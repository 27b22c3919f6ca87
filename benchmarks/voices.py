"""Makes recordings of synthetic speakers with espeak-ng, to tell voices apart without a download.

    apt-get install espeak-ng
    python benchmarks/voices.py data/voices
    supernet train configs/speakers_cpu.py --out runs/speakers_cpu --data.name folder:data/voices

A speaker is a variant of espeak-ng's voice, with an accent and a mean pitch of its own. Each
utterance has another sentence, made of words at random, and differs in pitch, speed, loudness and
noise. The test part has speakers whom the training part lacks. What is written depends on the
seed and on the version of espeak-ng alone.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import wave
from typing import NamedTuple

import numpy as np
from scipy.signal import resample_poly

VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "croak"),
    *("klatt", "klatt2", "klatt3", "klatt4", "grandma", "grandpa", "Andy", "Annie", "steph"),
    *("Alex", "Alicia", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "linda", "max"),
    *("Michael", "Mike", "norbert", "paul", "rob", "sandro", "victor"),
)
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
SUBJECTS = ("the captain", "my neighbour", "a quiet river", "every student", "the old machine")
VERBS = ("remembers", "carries", "follows", "discovers", "borrows", "measures", "forgets")
OBJECTS = ("seven letters", "the northern road", "a bowl of cherries", "her brother's violin")
ENDS = ("before sunrise", "without a word", "in the garden", "on Thursday evening", "once more")
RATE, FROM = 16_000, 22_050  # samples a second, wanted and espeak-ng's


class Speaker(NamedTuple):
    """A voice.

    Attributes:
        number: among all.
        voice: an accent and a variant.
        pitch: mean, 0 to 99.
    """

    number: int
    voice: str
    pitch: int


def speakers(count: int, seed: int) -> list[Speaker]:
    """So many, each of another variant."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(VARIANTS))[:count]
    accents = rng.integers(len(ACCENTS), size=count)
    pitches = rng.integers(35, 66, size=count)
    return [
        Speaker(i, f"{ACCENTS[accent]}+{VARIANTS[variant]}", int(pitch))
        for i, (variant, accent, pitch) in enumerate(zip(order, accents, pitches, strict=True))
    ]


def sentence(rng: np.random.Generator) -> str:
    """Words at random, of two to four seconds."""
    parts = (SUBJECTS, VERBS, OBJECTS, ENDS)
    return " ".join(str(rng.choice(part)) for part in parts)


def spoken(speaker: Speaker, text: str, rng: np.random.Generator) -> np.ndarray:
    """An utterance as espeak-ng says it, float `[n]` at 16 kHz."""
    pitch = int(np.clip(speaker.pitch + rng.integers(-8, 9), 0, 99))
    speed = int(rng.integers(140, 186))
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "said.wav"
        command = ["espeak-ng", "-v", speaker.voice, "-p", str(pitch), "-s", str(speed)]
        subprocess.run([*command, "-w", str(path), text], check=True, capture_output=True)
        with wave.open(str(path)) as file:
            data = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    divisor = np.gcd(RATE, FROM)
    return resample_poly(data.astype(float), RATE // divisor, FROM // divisor)


def recorded(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same, louder or quieter, behind noise of 5 to 20 dB below it: int16."""
    power, ratio = np.mean(sound**2), rng.uniform(5, 20)
    noise = rng.normal(scale=np.sqrt(power / 10 ** (ratio / 10)), size=len(sound))
    mixed = sound + noise
    return np.int16(mixed / np.max(np.abs(mixed)) * rng.uniform(0.2, 0.9) * 32767)


def write(folder: pathlib.Path, speaker: Speaker, utterances: int, seed: int) -> None:
    """FOLDER/NUMBER/UTTERANCE.wav."""
    place = folder / f"{speaker.number:03}"
    place.mkdir(parents=True)
    for i in range(utterances):
        rng = np.random.default_rng([seed, speaker.number, i])
        samples = recorded(spoken(speaker, sentence(rng), rng), rng)
        with wave.open(str(place / f"{i:03}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())


def main() -> None:
    """Writes a folder that `--data.name folder:FOLDER` reads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=24, help="speakers to train on")
    parser.add_argument("--test", type=int, default=12, help="other speakers, for figures")
    parser.add_argument("--utterances", type=int, default=40, help="of each speaker")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    if given.folder.exists():
        sys.exit(f"{given.folder} exists already; choose another folder")
    if not 2 <= given.train + given.test <= len(VARIANTS):
        sys.exit(f"there are voices for 2 to {len(VARIANTS)} speakers")
    every = speakers(given.train + given.test, given.seed)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(
                write,
                given.folder / ("train" if speaker.number < given.train else "test"),
                speaker,
                given.utterances,
                given.seed,
            )
            for speaker in every
        ]
        for job in jobs:
            job.result()
    print(f"wrote {len(every)} speakers, {given.utterances} recordings of each, to {given.folder}")


if __name__ == "__main__":
    main()
