"""What a configuration says of images."""

import dataclasses
from typing import Literal

from supernet_jax.data.decode import Background, Crop


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from and how they are augmented."""

    name: str = "digits"
    """digits | tfds:NAME | folder:PATH | npz:PATH"""
    data_dir: str | None = None
    """where prepared TFDS data lies"""
    held_out: float = 0.1
    """part of the training images kept for search (a share below 1, or a number of images)"""
    split_seed: int = 0
    """which images those are"""
    size: int | None = None
    """bring all images to this square size, pixels"""
    crop: Crop = "stretch"
    """which part of an image becomes that square: all, the middle, or (training) a random part"""
    storage: Literal["auto", "memory", "stream"] = "auto"
    """decode all at the start or as needed; auto streams above 4 GiB and for random crops"""
    threads: int = 0
    """decoding threads of streams, in each process; 0 for as many as there are cores"""
    workers: int = 0
    """processes that decode streams; 0 decodes in threads of the training process"""
    upright: bool = False
    """turn image files as the rotation that they note (EXIF, of cameras) says; else it is left"""
    background: Background = "none"
    """what lies behind transparent pixels; with none they have whatever colours they hide"""
    pad: int = 0
    """random crops after padding by this many pixels"""
    flip: bool = False
    """random horizontal flips"""
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    """operations drawn for each image: a learned table for ImageNet, or any of 14"""
    layers: int = 2
    """operations in a row, of randaugment"""
    magnitude: float = 9.0
    """their strength, 0 to 10, of randaugment"""
    deviation: float = 0.0
    """standard deviation of the strengths of both policies, commonly 0.5; 0 takes them as given"""
    erase: float = 0.0
    """probability of filling a random rectangle with random pixels"""
    mixup: float = 0.0
    """alpha of mixing each image and its label with another's, commonly 0.2; 0 mixes none"""
