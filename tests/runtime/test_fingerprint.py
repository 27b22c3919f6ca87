"""A digest is the same for the same, in every process, and another for anything else."""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from supernet_jax.data import augment
from supernet_jax.experiment import build, config
from supernet_jax.experiment.config import Config
from supernet_jax.runtime import fingerprint, sharding
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training.losses import alpha_divergence, divergences, loss
from supernet_jax.training.optimizers import sgd
from supernet_jax.training.recipe import Recipe

SIZES: dict[str, Any] = {
    "resolutions": (8,),
    "stem": (8,),
    "stem_stride": 1,
    "stages": (Stage((8,), (1, 2), (3, 5), (1,), 1),),
    "last": (16,),
    "classes": 3,
}
SHOWN = """
from supernet_jax.experiment import config
from supernet_jax.runtime import fingerprint
import test_fingerprint
print(fingerprint.of(test_fingerprint.recipe(config.Config())), fingerprint.versions())
"""


def recipe(settings: Config) -> Recipe:
    """What training on the digits is made of."""
    return build.build(settings).recipe._replace(seed=0)


@functools.cache
def plain() -> str:
    return fingerprint.of(recipe(Config()))


def test_is_the_same_in_another_process() -> None:
    surroundings = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "7",  # sets come in another order
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-c", SHOWN]
    done = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [plain(), fingerprint.versions()]
    assert fingerprint.of(recipe(Config())) == plain()


def test_versions_and_sources_count(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fingerprint.versions.__wrapped__()
    assert fingerprint.versions.__wrapped__() == first
    version = importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: version(name) + ".1")
        assert fingerprint.versions.__wrapped__() != first
    with monkeypatch.context() as patch:
        read = pathlib.Path.read_bytes
        patch.setattr(
            pathlib.Path, "read_bytes", lambda path: read(path) + b"#" * (path.stem == "layers")
        )
        assert fingerprint.versions.__wrapped__() != first


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        ("sampler", "n_random", 3),
        ("loss", "smoothing", 0.25),
        ("optimizer", "learning_rate", 0.123),
        ("optimizer", "weight_decay", 0.0123),
        ("optimizer", "warmup", 0.3),
        ("data", "pad", 3),
        ("data", "flip", True),
        ("data", "erase", 0.5),
        ("data", "policy", "randaugment"),
        ("data", "mixup", 0.4),
        ("train", "ema", 0.5),
        ("train", "steps", 77),
        ("train", "strategy", "switched"),
        ("train", "dtype", "bfloat16"),
        ("train", "remat", True),
        ("train", "accumulate", 2),
        ("train", "features", ("head",)),
    ],
)
def test_each_setting_of_a_step_counts(part: str, setting: str, value: Any) -> None:
    old = Config()
    assert getattr(getattr(old, part), setting) != value
    changed = dataclasses.replace(getattr(old, part), **{setting: value})
    new = dataclasses.replace(old, **{part: changed})
    assert fingerprint.of(recipe(new)) != plain()


def test_a_space_counts_whole() -> None:
    first, again = (mobilenet("s", **SIZES) for _ in range(2))
    assert fingerprint.of(first) == fingerprint.of(again)
    for name, value in (("stem", (16,)), ("classes", 4), ("drop_path", 0.5)):
        assert fingerprint.of(mobilenet("s", **{**SIZES, name: value})) != fingerprint.of(first)


DIFFERENT: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    [1],
    (1,),
    ((1,), (2,)),
    ((1, 2), ()),
    {"a": 1},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},  # the order of blocks is that of the network
    {1, 2},
    np.float32(1),
    np.float64(1),
    np.zeros(2, np.float32),
    np.zeros(2, np.int32),
    np.zeros((2, 1), np.float32),
    np.array([0, 1], np.float32),
    jnp.float32,
    np.dtype("float32"),
    jax.random.key(0),
    jax.random.key(1),
    divergences.kl_divergence,
    alpha_divergence.adaptive_alpha_divergence,
    functools.partial(loss.tempered, temperature=1.0),
    functools.partial(loss.tempered, temperature=2.0),
    functools.partial(augment.normalise, mean=(0.0,)),
    functools.partial(augment.normalise, mean=(1.0,)),
    sgd.alphanet_sgd(0.1, weight_decay=0.0),
    sgd.alphanet_sgd(0.2, weight_decay=0.0),
    loss.in_place_distillation(divergences.kl_divergence, smoothing=0.1),
    loss.in_place_distillation(divergences.kl_divergence, smoothing=0.2),
    loss.in_place_distillation(alpha_divergence.adaptive_alpha_divergence, smoothing=0.2),
    config.Data(pad=1),
    config.Data(pad=2),
]


def test_all_that_differs_has_its_own() -> None:
    found = [fingerprint.of(value) for value in DIFFERENT]
    assert len(set(found)) == len(DIFFERENT)


def test_devices_count() -> None:
    one, two, other = (
        fingerprint.of(sharding.data_mesh(jax.devices()[slice(*at)]))
        for at in ((0, 1), (0, 2), (1, 3))
    )
    assert len({one, two, other}) == 3


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's own part."""

    value: int = 0

    def method(self) -> int:
        """Does nothing of interest."""
        return self.value


class Pair(tuple):
    """A type of a user's own."""


LOOP: list[Any] = []
LOOP.append(LOOP)
UNKNOWN = {
    "object": Own(),
    "class": Own,
    "method": Own().method,
    "function": recipe,
    "lambda": lambda: 0,
    "tuple": Pair((1,)),
    "itself": LOOP,
    "file": sys.stdout,
    "objects": np.array([Own()], object),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known(name: str) -> None:
    value = UNKNOWN[name]
    for whole in (value, [value], {"a": value}, functools.partial(sorted, key=value)):
        with pytest.raises(fingerprint.UnknownError):
            fingerprint.of(whole)
