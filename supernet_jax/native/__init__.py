"""Compiled kernels for CPU, optional: built from source on the machine that runs them.

XLA has no good depthwise convolution on CPU (see `layers.depthwise`); the one here is several times
faster, its gradient ten times and more. `supernet native` builds it, with any C++17 compiler; where
it was not built, everything works as well, slower. On other backends it is never used.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError

Array = jax.Array
SOURCES = ("depthwise.cc", "depthwise.inc")
SWITCH = "SUPERNET_NATIVE"  # environment variable: 0 leaves the kernels aside
KERNELS = (1, 3, 5, 7)  # sizes that are compiled
_TARGETS = {
    "supernet_depthwise": "DepthwiseForward",
    "supernet_depthwise_input_gradient": "DepthwiseInputGradient",
    "supernet_depthwise_kernel_gradient": "DepthwiseKernelGradient",
}


@functools.cache
def library(cache: pathlib.Path | None = None) -> pathlib.Path:
    """Where the built library lies: another file for every version of the sources and of jaxlib."""
    folder = pathlib.Path(__file__).parent
    digest = hashlib.sha256(importlib.metadata.version("jaxlib").encode())
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    return (cache or cache_folder() / "native") / f"depthwise-{digest.hexdigest()[:16]}.so"


def cache_folder() -> pathlib.Path:
    """Where files that can be made again are kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "supernet_jax"


def build(cache: pathlib.Path | None = None) -> pathlib.Path:
    """Compiles the kernels, unless that was done before, and returns the library.

    The compiler is that of the environment variable CXX, or else `c++`. Nothing is tuned to the
    machine that compiles: several instruction sets are in the library, and no rule of float32
    arithmetic is relaxed.

    Raises:
        UserError: there is no compiler, or it fails.
    """
    target = library(cache)
    if target.exists():
        return target
    compiler = os.environ.get("CXX", "c++")
    source = pathlib.Path(__file__).parent / SOURCES[0]
    options = ["-std=c++17", "-O3", "-w", "-fPIC", "-shared", f"-I{jax.ffi.include_dir()}"]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = pathlib.Path(folder) / target.name
            command = [compiler, *options, str(source), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            made.replace(target)
    except FileNotFoundError:
        raise UserError(
            f"there is no C++ compiler {compiler!r}; install one (Debian: apt install g++, macOS: "
            "xcode-select --install), or name yours in the environment variable CXX"
        ) from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()[-2000:]
        raise UserError(f"{compiler} cannot compile {source}:\n{said}") from None
    except OSError as error:
        raise UserError(f"cannot write {target} ({error})") from None
    return target


@functools.cache
def _load(path: pathlib.Path) -> bool:
    """Makes the kernels of a library known to XLA, once."""
    handle = ctypes.CDLL(str(path))
    for name, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handle[symbol]), platform="cpu")
    return True


def takes(x: Array, kernel: Array) -> bool:
    """Whether `depthwise` can and should run: built, switched on, one device, types it knows.

    A program over several devices is left to XLA, which cannot split a foreign kernel.
    """
    if os.environ.get(SWITCH) == "0" or jax.device_count() > 1:
        return False
    known = x.dtype == kernel.dtype == jnp.float32 and kernel.shape[0] in KERNELS
    return known and (path := library()).exists() and _load(path)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """As `layers.depthwise`: float32 `[B, H, W, C]` and `[k, k, 1, C]`, k of `KERNELS`."""
    b, h, w, c = x.shape
    return _call("supernet_depthwise", (b, -(-h // stride), -(-w // stride), c), stride, x, kernel)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    name = "supernet_depthwise"
    return (
        _call(f"{name}_input_gradient", x.shape, stride, gradient, kernel),
        _call(f"{name}_kernel_gradient", kernel.shape, stride, x, gradient),
    )


depthwise.defvjp(_forward, _backward)


def _call(name: str, shape: tuple[int, ...], stride: int, *operands: Array) -> Any:
    out = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.ffi.ffi_call(name, out, vmap_method="sequential")(*operands, stride=np.int64(stride))
