"""Compiled kernels for CPU, called through XLA's FFI.

XLA has no good depthwise convolution on CPU (see `nn.depthwise`); the one here is several times
faster, its gradient ten times and more. The passes of normalisation with swish (`nn.batch_norm`)
take half of XLA's time here. Their library is built with the package (`build`). Where it was not,
for want of a compiler, everything works as well, slower. They are not used where JAX's default
backend is another than CPU.
"""

import contextlib
import contextvars
import ctypes
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from supernet_jax.runtime.native import build, devices, elf
from supernet_jax.runtime.native.devices import SPLIT, WHOLE, Parts

Array = jax.Array
SWITCH = "SUPERNET_NATIVE"  # environment variable: 0 leaves the kernels aside
KERNELS = (1, 3, 5, 7)  # sizes that are compiled
_aside = contextvars.ContextVar("aside", default=False)
_traced_aside = jax.make_user_context(False)  # by which JAX finds what it has traced
_TARGETS = {
    "supernet_depthwise": "DepthwiseForward",
    "supernet_depthwise_input_gradient": "DepthwiseInputGradient",
    "supernet_depthwise_kernel_gradient": "DepthwiseKernelGradient",
    "supernet_norm_batch": "NormBatch",
    "supernet_norm_given": "NormGiven",
    "supernet_norm_gradient": "NormBatchGradient",
    "supernet_norm_part_moments": "NormPartMoments",
    "supernet_norm_part_sums": "NormPartSums",
    "supernet_norm_part_gradient": "NormPartGradient",
    "supernet_bottleneck_batch": "BottleneckBatch",
    "supernet_bottleneck_given": "BottleneckGiven",
    "supernet_separable_batch": "SeparableBatch",
    "supernet_separable_gradient": "SeparableGradient",
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """What was built with the package, if anything was; says so, once, if it cannot be used."""
    if not build.LIBRARY.exists():
        return None
    try:
        why: Any = elf.fault(build.LIBRARY)
        if why is not None:
            _left_aside(f"{build.LIBRARY} {why}; install again")
            return None
        library = ctypes.CDLL(str(build.LIBRARY))
        made_of = ctypes.string_at(library["supernet_sources"]).decode()
        if made_of == build.digest():
            return library
        why = f"{build.LIBRARY} was built from other sources; install again"
    except (OSError, AttributeError) as error:
        why = error
    _left_aside(why)
    return None


@functools.cache
def _load() -> bool:
    """Makes the kernels known to XLA, once."""
    library = _library()
    if library is None:
        return False
    jax.extend.backend.backends()  # before them, XLA would only note what it is given
    try:
        for name, symbol in _TARGETS.items():
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(library[symbol]), platform="cpu")
    except jax.errors.JaxRuntimeError as error:  # the library is of another version of the FFI
        _left_aside(error)
        return False
    return True


def _left_aside(why: object) -> None:
    logging.getLogger(__name__).warning("going on without compiled kernels: %s", why)


def handle() -> ctypes.CDLL | None:
    """The library, for calls that XLA has no part in; None where there is none to use."""
    return None if os.environ.get(SWITCH) == "0" else _library()


def available() -> bool:
    """Whether what is traced now may call the kernels: not where JAX's default is another backend,
    whose programs would be traced for CPU in vain.

    XLA knows them afterwards, so that programs which call them can be loaded.
    """
    if _aside.get() or os.environ.get(SWITCH) == "0":
        return False
    return jax.default_backend() == "cpu" and _load()


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
        with _traced_aside(True):
            yield
    finally:
        _aside.reset(token)


def takes(x: Array, kernel: Array) -> bool:
    """Whether `depthwise` can and should run: `takes_norm(x)`, and a kernel that it knows."""
    return kernel.dtype == jnp.float32 and kernel.shape[0] in KERNELS and takes_norm(x)


def takes_norm(x: Array) -> bool:
    """Whether the passes of normalisation can and should run: float32, where there are kernels, and
    where the devices of the program are known (`devices.parts_of`).
    """
    return x.dtype == jnp.float32 and available() and devices.parts_of(x) > 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """As `layers.depthwise`: float32 `[B, H, W, C]` and `[k, k, 1, C]`, k of `KERNELS`."""

    def run(_: Parts, x: Array, kernel: Array) -> Array:
        return _call(
            "supernet_depthwise",
            _strided(x, stride, x.shape[-1]),
            x,
            kernel,
            stride=np.int64(stride),
        )

    return devices.on_parts(run, x, x, kernel, places=(SPLIT, WHOLE), out=SPLIT)


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def run(parts: Parts, x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
        name, step = "supernet_depthwise", np.int64(stride)
        by_x = _call(f"{name}_input_gradient", x.shape, gradient, kernel, stride=step)
        by_kernel = _call(f"{name}_kernel_gradient", kernel.shape, x, gradient, stride=step)
        return by_x, parts.total(by_kernel)

    operands, places = (*residuals, gradient), (SPLIT, WHOLE, SPLIT)
    return devices.on_parts(run, residuals[0], *operands, places=places, out=(SPLIT, WHOLE))


depthwise.defvjp(_forward, _backward)


def norm_batch(
    x: Array, scale: Array, bias: Array, *, swish: bool, epsilon: np.float32
) -> tuple[Array, Array, Array]:
    """See `batch_norm.Operations`; all three are for float32."""
    how = {"swish": swish, "epsilon": epsilon}

    def run(parts: Parts, x: Array, scale: Array, bias: Array) -> Any:
        vectors = [x.shape[-1:]] * 2
        if parts.number == 1:
            return tuple(_call("supernet_norm_batch", [x.shape, *vectors], x, scale, bias, **how))
        own_mean, own_variance = _call("supernet_norm_part_moments", vectors, x)
        mean = parts.total(own_mean) / parts.number
        variance = parts.total(own_variance + jnp.square(own_mean - mean)) / parts.number
        given = (x, mean, variance, scale, bias)
        return _call("supernet_norm_given", x.shape, *given, **how), mean, variance

    places, out = (SPLIT, WHOLE, WHOLE), (SPLIT, WHOLE, WHOLE)
    return devices.on_parts(run, x, x, scale, bias, places=places, out=out)


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
    """See `batch_norm.Operations`."""

    def run(_: Parts, x: Array, *vectors: Array) -> Array:
        how = {"swish": swish, "epsilon": epsilon}
        return _call("supernet_norm_given", x.shape, x, *vectors, **how)

    vectors = (mean, variance, scale, bias)
    return devices.on_parts(run, x, x, *vectors, places=(SPLIT, *[WHOLE] * 4), out=SPLIT)


def norm_gradient(
    g: Array,
    x: Array,
    mean: Array,
    variance: Array,
    scale: Array,
    bias: Array,
    of_mean: Array,
    of_variance: Array,
    *,
    swish: bool,
    epsilon: np.float32,
) -> tuple[Array, Array, Array]:
    """See `batch_norm.Operations`."""

    def run(parts: Parts, g: Array, x: Array, *vectors: Array) -> Any:
        of_channels = [x.shape[-1:]] * 2
        if parts.number == 1:
            shapes, how = [x.shape, *of_channels], {"swish": swish, "epsilon": epsilon}
            return tuple(_call("supernet_norm_gradient", shapes, g, x, *vectors, **how))
        mean, variance, scale, bias, of_mean, of_variance = vectors
        inverse, n = jax.lax.rsqrt(variance + epsilon), parts.number * (x.size // x.shape[-1])
        factor = inverse * scale
        sums = _call("supernet_norm_part_sums", of_channels, g, x, mean, factor, bias, swish=swish)
        total, along = map(parts.total, sums)
        slope = 2 / n * (of_variance - 0.5 * factor * jnp.square(inverse) * along)
        given = (g, x, mean, factor, bias, slope, (of_mean - factor * total) / n)
        by_x = _call("supernet_norm_part_gradient", x.shape, *given, swish=swish)
        return by_x, inverse * along, total

    vectors = (mean, variance, scale, bias, of_mean, of_variance)
    places, out = (SPLIT, SPLIT, *[WHOLE] * 6), (SPLIT, WHOLE, WHOLE)
    return devices.on_parts(run, x, g, x, *vectors, places=places, out=out)


def bottleneck_batch(
    x: Array, *operands: Array, stride: int, epsilon: np.float32
) -> tuple[Array, ...]:
    """See `nn.bottleneck`: the output, mean and variance of the three norms.

    Operands: matrix; scale, bias; kernel; scale, bias; squeeze-and-excite; matrix; scale, bias.
    """
    wide, narrow = [operands[-3].shape[:1]] * 4, [operands[-3].shape[1:]] * 2
    shapes = [*_images(x, operands[-3], stride), *wide, *narrow]
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    y, _, *moments = _call("supernet_bottleneck_batch", shapes, x, *operands, **how)
    return y, *moments


def bottleneck_given(x: Array, *operands: Array, stride: int, epsilon: np.float32) -> Array:
    """See `nn.bottleneck`.

    Operands: as of `bottleneck_batch`, but mean, variance, scale, bias of each norm.
    """
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    shapes = _images(x, operands[-5], stride)
    return _call("supernet_bottleneck_given", shapes, x, *operands, **how)[0]


def _images(x: Array, project: Array, stride: int) -> list[tuple[int, ...]]:
    """Shapes of a bottleneck's output, and of memory for what its depthwise convolution gives."""
    channels, features = project.shape
    return [_strided(x, stride, features), _strided(x, stride, channels)]


def separable_batch(
    x: Array, *others: Array, stride: int, epsilon: np.float32
) -> tuple[Array, ...]:
    """See `nn.separable`: the output, what the convolution gives, mean and variance of both norms.

    Others: scale, bias; kernel; scale, bias.
    """
    image, vectors = _strided(x, stride, x.shape[-1]), [x.shape[-1:]] * 4
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    shapes = [image, image, *vectors]
    return tuple(_call("supernet_separable_batch", shapes, x, *others, **how))


def separable_gradient(
    g: Array, x: Array, inner: Array, *others: Array, stride: int, epsilon: np.float32
) -> tuple[Array, ...]:
    """See `nn.separable`: gradients of x, scale, bias, kernel, scale, bias.

    Inner: what the convolution gives. Others: mean, variance, scale, bias; kernel; mean, variance,
    scale, bias; the gradients of both norms' moments.
    """
    vector, kernel = x.shape[-1:], others[4].shape
    how = {"stride": np.int64(stride), "epsilon": epsilon}
    shapes = [x.shape, vector, vector, kernel, vector, vector]
    return tuple(_call("supernet_separable_gradient", shapes, g, x, inner, *others, **how))


def _strided(x: Array, stride: int, channels: int) -> tuple[int, ...]:
    b, h, w, _ = x.shape
    return b, -(-h // stride), -(-w // stride), channels


def _call(name: str, shapes: Any, *operands: Array, **attributes: Any) -> Any:
    """One result for a shape, several for a list of shapes."""
    several = isinstance(shapes, list)
    out = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (shapes if several else [shapes])]
    call = jax.ffi.ffi_call(name, out if several else out[0], vmap_method="sequential")
    return call(*operands, **attributes)
