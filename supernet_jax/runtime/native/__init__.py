"""Compiled kernels for CPU, optional: built from source on the machine that runs them.

XLA has no good depthwise convolution on CPU (see `nn.depthwise`); the one here is several times
faster, its gradient ten times and more. The passes of normalisation with swish (`nn.batch_norm`)
take half of XLA's time here. `supernet native` builds them, with any C++17 compiler; where they
were not built, everything works as well, slower. On other backends they are never used.
"""

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import importlib.metadata
import logging
import os
import pathlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from supernet_jax.errors import UserError
from supernet_jax.storage import files

Array = jax.Array
UNITS = ("depthwise.cc", "norm.cc", "separable.cc")
SOURCES = (
    *UNITS,
    *("common.h", "norm.h", "separable.h"),
    *("depthwise.inc", "every_set.inc", "lanes.inc", "norm.inc", "separable.inc", "tiles.inc"),
)
SWITCH = "SUPERNET_NATIVE"  # environment variable: 0 leaves the kernels aside
KERNELS = (1, 3, 5, 7)  # sizes that are compiled
_aside = contextvars.ContextVar("aside", default=False)
_TARGETS = {
    "supernet_depthwise": "DepthwiseForward",
    "supernet_depthwise_input_gradient": "DepthwiseInputGradient",
    "supernet_depthwise_kernel_gradient": "DepthwiseKernelGradient",
    "supernet_norm_batch": "NormBatch",
    "supernet_norm_given": "NormGiven",
    "supernet_norm_gradient": "NormBatchGradient",
    "supernet_separable_batch": "SeparableBatch",
    "supernet_separable_keeping_batch": "SeparableKeepingBatch",
    "supernet_separable_given": "SeparableGiven",
    "supernet_separable_gradient": "SeparableGradient",
}


@functools.cache
def library(cache: pathlib.Path | None = None) -> pathlib.Path | None:
    """Where the built library lies: another file for every version of the sources and of jaxlib.

    None where there is no place to keep it.
    """
    kept = cache_folder()
    if cache is None and kept is not None:
        cache = kept / "native"
    if cache is None:
        return None
    folder = pathlib.Path(__file__).parent
    digest = hashlib.sha256(importlib.metadata.version("jaxlib").encode())
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    return cache / f"kernels-{digest.hexdigest()[:16]}.so"


def cache_folder() -> pathlib.Path | None:
    """Where files that can be made again are kept between runs.

    None where that is not known: without HOME and XDG_CACHE_HOME, for a user without a name.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(root):  # others are to be ignored
        return pathlib.Path(root) / "supernet_jax"
    try:
        return pathlib.Path.home() / ".cache" / "supernet_jax"
    except RuntimeError:
        return None


def build(cache: pathlib.Path | None = None) -> pathlib.Path:
    """Compiles the kernels, unless a whole library is there, and returns the library.

    The compiler is that of the environment variable CXX, or else `c++`. Nothing is tuned to the
    machine that compiles: several instruction sets are in the library, and no rule of float32
    arithmetic is relaxed.

    Raises:
        UserError: there is no compiler, or it fails, or there is no place to keep the library.
    """
    target = library(cache)
    if target is None:
        raise UserError(
            "there is no folder to keep the kernels in, since HOME is not set; name one in the "
            "environment variable XDG_CACHE_HOME"
        )
    if _is_whole(target):
        return target
    compiler = os.environ.get("CXX") or "c++"
    folder = pathlib.Path(__file__).parent
    sources = [str(folder / name) for name in UNITS]
    options = ["-std=c++17", "-O3", "-w", "-fPIC", "-shared", f"-I{jax.ffi.include_dir()}"]
    with tempfile.TemporaryDirectory() as made_in:
        made = pathlib.Path(made_in) / target.name
        command = [*shlex.split(compiler), *options, *sources, "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise UserError(
                f"there is no C++ compiler {compiler!r} ({error.strerror}); install one (Debian: "
                "apt install g++, macOS: xcode-select --install), or name yours in the environment "
                "variable CXX"
            ) from None
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
            said = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise UserError(
                f"{compiler} cannot compile {folder} ({said[:300]}); name another compiler in the "
                "environment variable CXX"
            ) from None
        content = made.read_bytes()
    files.write_bytes(target, lambda file: file.write(content))
    files.write_text(_checksum(target), hashlib.sha256(content).hexdigest())
    return target


def _checksum(library: pathlib.Path) -> pathlib.Path:
    return library.with_suffix(".sha256")


def _is_whole(library: pathlib.Path) -> bool:
    """Whether it is what was built: a part of one ends the process when it is loaded.

    Raises:
        UserError: it is there, but cannot be read.
    """
    if not (library.exists() and _checksum(library).exists()):
        return False
    try:
        content = library.read_bytes()
    except OSError as error:
        raise files.unreadable(library, error) from error
    return hashlib.sha256(content).hexdigest() == files.read_text(_checksum(library))


@functools.cache
def _load(path: pathlib.Path) -> bool:
    """Makes the kernels of a library known to XLA, once; says so, once, if it cannot be used."""
    try:
        if not _is_whole(path):
            raise UserError(f"{path} was cut short; supernet native builds it again")
        handle = ctypes.CDLL(str(path))
    except (UserError, OSError) as error:
        logging.getLogger(__name__).warning("going on without compiled kernels: %s", error)
        return False
    for name, symbol in _TARGETS.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handle[symbol]), platform="cpu")
    return True


def available() -> str:
    """The kernels that what is traced now may call, by the name of their library; "" for none.

    XLA knows them afterwards, so that programs which call them can be loaded.
    """
    if _aside.get() or os.environ.get(SWITCH) == "0" or jax.device_count() > 1:
        return ""
    path = library()
    return path.name if path is not None and os.path.exists(path) and _load(path) else ""


def only_cpu() -> bool:
    """Whether there is nothing but CPUs: then what others would run need not be traced.

    Who lowers a program for a machine that is not there does it within `aside()`.
    """
    return not _aside.get() and set(jax.extend.backend.backends()) == {"cpu"}


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Leaves the kernels aside in what is traced meanwhile: programs for other machines."""
    token = _aside.set(True)
    try:
        yield
    finally:
        _aside.reset(token)


def takes(x: Array, kernel: Array) -> bool:
    """Whether `depthwise` can and should run: `takes_norm(x)`, and a kernel that it knows."""
    return kernel.dtype == jnp.float32 and kernel.shape[0] in KERNELS and takes_norm(x)


def takes_norm(x: Array) -> bool:
    """Whether the passes of normalisation can and should run: built, switched on, one device,
    float32.

    A program over several devices is left to XLA, which cannot split a foreign kernel.
    """
    return x.dtype == jnp.float32 and available() != ""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """As `layers.depthwise`: float32 `[B, H, W, C]` and `[k, k, 1, C]`, k of `KERNELS`."""
    return _call("supernet_depthwise", _strided(x, stride), x, kernel, stride=np.int64(stride))


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    name, step = "supernet_depthwise", np.int64(stride)
    return (
        _call(f"{name}_input_gradient", x.shape, gradient, kernel, stride=step),
        _call(f"{name}_kernel_gradient", kernel.shape, x, gradient, stride=step),
    )


depthwise.defvjp(_forward, _backward)


def norm_batch(
    x: Array, scale: Array, bias: Array, *, swish: bool, epsilon: np.float32
) -> tuple[Array, Array, Array]:
    """See `norm.Operations`; all three are for float32."""
    shapes = [x.shape, x.shape[-1:], x.shape[-1:]]
    how = {"swish": swish, "epsilon": epsilon}
    return tuple(_call("supernet_norm_batch", shapes, x, scale, bias, **how))


def norm_given(
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    *,
    swish: bool,
    epsilon: np.float32,
) -> Array:
    """See `norm.Operations`."""
    operands, how = (x, mean, variance, scale, bias), {"swish": swish, "epsilon": epsilon}
    return _call("supernet_norm_given", x.shape, *operands, **how)


def norm_gradient(
    g: Array, x: Array, *vectors: Array, swish: bool, epsilon: np.float32
) -> tuple[Array, Array, Array]:
    """See `norm.Operations`."""
    shapes, how = [x.shape, x.shape[-1:], x.shape[-1:]], {"swish": swish, "epsilon": epsilon}
    return tuple(_call("supernet_norm_gradient", shapes, g, x, *vectors, **how))


def separable_batch(
    x: Array, *others: Array, keep: bool, stride: int, epsilon: np.float32
) -> tuple[Array, ...]:
    """See `nn.separable`: the output, mean and variance of both norms.

    Others: scale, bias; kernel; scale, bias. With `keep`, what the convolution gives comes second.
    """
    image, vectors = _strided(x, stride), [x.shape[-1:]] * 4
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    if keep:
        shapes = [image, image, *vectors]
        return tuple(_call("supernet_separable_keeping_batch", shapes, x, *others, **how))
    return tuple(_call("supernet_separable_batch", [image, *vectors], x, *others, **how))


def separable_given(x: Array, *others: Array, stride: int, epsilon: np.float32) -> Array:
    """See `nn.separable`.

    Others: mean, variance, scale, bias; kernel; mean, variance, scale, bias.
    """
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    return _call("supernet_separable_given", _strided(x, stride), x, *others, **how)


def separable_gradient(
    g: Array, x: Array, inner: Array, *others: Array, stride: int, epsilon: np.float32
) -> tuple[Array, ...]:
    """See `nn.separable`: gradients of x, scale, bias, kernel, scale, bias.

    Inner: what the convolution gives. Others: as of `separable_given`, and the gradients of both
    norms' moments.
    """
    vector, kernel = x.shape[-1:], others[4].shape
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    shapes = [x.shape, vector, vector, kernel, vector, vector]
    return tuple(_call("supernet_separable_gradient", shapes, g, x, inner, *others, **how))


def _strided(x: Array, stride: int) -> tuple[int, ...]:
    b, h, w, c = x.shape
    return b, -(-h // stride), -(-w // stride), c


def _call(name: str, shapes: Any, *operands: Array, **attributes: Any) -> Any:
    """One result for a shape, several for a list of shapes."""
    several = isinstance(shapes, list)
    out = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (shapes if several else [shapes])]
    call = jax.ffi.ffi_call(name, out if several else out[0], vmap_method="sequential")
    return call(*operands, **attributes)
