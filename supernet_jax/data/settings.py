"""The part of a configuration that names the data: which, of what size, how augmented."""

import dataclasses
from typing import Literal

from supernet_jax.data.decode import Background, Crop


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images, speech, text or pairs of sentences come from, and how images are augmented."""

    name: str = "digits"
    """which: digits | tfds:NAME | folder:PATH | npz:PATH | source:stdlib | text:PATH | ids:PATH |
    pairs:FILE | source:reversal"""
    data_dir: str | None = None
    """folder of prepared TFDS data, or folder in which a relative PATH starts"""
    held_out: float = 0.1
    """training examples to keep for the search: a share below 1, or a number; of text a share"""
    split_seed: int = 0
    """seed that picks the held-out images"""
    second: float = 0.5
    """where a sampler learns which options are good: share of the training examples that it learns
    on, and the weights on the others; 0 takes the held-out ones, and the weights all others"""
    length: int | None = None
    """of an example: of text bytes, of speech frames (10 ms), of pairs the bytes of each side with
    its end; longer ones take more memory"""
    size: int | None = None
    """height and width that all images are brought to, pixels"""
    crop: Crop = "stretch"
    """part of an image that becomes that square: all, the middle, or (in training) a random one"""
    storage: Literal["auto", "memory", "stream"] = "auto"
    """decode images at the start or as needed; auto streams above 4 GiB and for random crops"""
    threads: int = 0
    """threads of each process that decode streamed images; 0 for as many as there are cores"""
    workers: int = 0
    """processes that decode streamed images; 0 decodes in threads of the training process"""
    upright: bool = False
    """turn image files as the rotation that they note (EXIF) says; else it is ignored"""
    background: Background = "none"
    """colour behind transparent pixels; with none they show whatever colour they hide"""
    pad: int = 0
    """pixels added on each side before a random crop; more shift images further"""
    flip: bool = False
    """mirror images left to right at random"""
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    """operations drawn for each image: from a table learned on ImageNet, or any of 14"""
    layers: int = 2
    """with randaugment: operations on each image, one after the other"""
    magnitude: float = 9.0
    """with randaugment: strength of the operations, 0 to 10"""
    increasing: bool = False
    """with randaugment: make every operation stronger with its strength, as timm's inc1 does"""
    deviation: float = 0.0
    """standard deviation of the strength, of both policies, commonly 0.5; 0 keeps it as it is"""
    erase: float = 0.0
    """probability of filling a random rectangle of an image with random pixels"""
    mixup: float = 0.0
    """alpha of mixing an image and label with another's, commonly 0.2; more mixes more, 0 none"""
    cutmix: float = 0.0
    """alpha of pasting a part of another image, commonly 1; with mixup, a coin decides; 0 none"""
