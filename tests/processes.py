"""Trains a tiny supernet in processes of its own, as a user does."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import conftest
import jax
import numpy as np

from supernet_jax.storage import checkpoint

# A user's own config file: the space is defined in it. Dropout, augmentation, momentum and an
# average of the parameters are on, so that each of them has to survive a resume.
CONFIG = '''
"""A tiny supernet on 8x8 digits."""

import dataclasses

from supernet_jax.experiment.config import Config, Data, Evaluation, Train
from supernet_jax.spaces.mobilenet import Stage, mobilenet
from supernet_jax.training.optimizers import Sgd


@dataclasses.dataclass(frozen=True)
class Tiny:
    def build(self, *, classes, input_channels):
        return mobilenet(
            "tiny",
            resolutions=(6, 8),
            stem=(4, 8),
            stem_stride=2,
            stages=(Stage((4, 8), (1, 2), (3,), (1, 2), 1),),
            last=(8, 12),
            classes=classes,
            input_channels=input_channels,
            head_ratio=2,
            dropout=0.2,
            drop_path=0.2,
        )


config = Config(
    space=Tiny(),
    data=Data(name="digits", held_out=0.2, pad=1),
    optimizer=Sgd(learning_rate=0.05),
    train=Train(steps=60, batch=16, ema=0.9, checkpoint_every=4, log_every=1),
    evaluation=Evaluation(calibration_batches=2, batch=32, chunk=4),
)
'''


def write_config(folder: pathlib.Path, text: str = CONFIG) -> pathlib.Path:
    path = folder / "tiny.py"
    path.write_text(text)
    return path


def environment(devices: int = 1) -> dict[str, str]:
    """That of a process with so many virtual devices; all share one cache of compiled programs."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": conftest.CACHE,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(*arguments: Any, devices: int = 1) -> subprocess.Popen:
    """`supernet ...` in a process of its own."""
    command = [sys.executable, "-m", "supernet_jax"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, *, timeout: float = 300) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def until(process: subprocess.Popen, condition: Callable[[], bool], timeout: float = 300) -> bool:
    """Waits for the condition; False if the process ended before it."""
    limit = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            return False
        if time.monotonic() > limit:
            process.kill()
            raise TimeoutError(f"process {process.pid} did not get there in {timeout} s")
        time.sleep(0.0005)
    return True


def state(folder: pathlib.Path, step: int) -> dict:
    """Everything that the checkpoint of a run holds, by its name."""
    tree = checkpoint.read_tree(folder / "checkpoints" / str(step) / "state")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def same_state(one: pathlib.Path, other: pathlib.Path, step: int) -> None:
    """Asserts that two runs hold bitwise the same state."""
    a, b = state(one, step), state(other, step)
    assert a.keys() == b.keys() and len(a) > 50
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
