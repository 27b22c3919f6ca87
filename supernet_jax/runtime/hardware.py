"""This machine: what a figure was measured on, and what its compiler is told."""

import contextlib
import ctypes
import gc
import importlib.util
import os
import pathlib
import platform
from typing import Any

import jax
import jaxlib

from supernet_jax.runtime import versions

# Whether XLA's newer way to make kernels of elementwise operations can be switched off.
HAS_OLD_EMITTERS = versions.within(jaxlib.__version__, "<0.11.1")
# mallopt(3): one arena, no mappings of their own for large blocks, a heap that never shrinks.
_MALLOC = {-8: 1, -4: 0, -1: 2**31 - 1}


def describe() -> dict[str, Any]:
    """This machine, its devices and the versions that run on it, as JSON values."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def runs_once() -> dict[str, Any]:
    """Compiler options for a program that runs once: on CPU compiling is all of its time.

    Elsewhere none: XLA's GPU compiler says that it does not support less than full optimisation.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, **_emitters()}


def many_small() -> dict[str, Any]:
    """Compiler options for one of many small programs that run often; threads compile several.

    On CPU, XLA's newer way to make kernels of elementwise operations takes a third of the processor
    time of compiling a block, and the kernels ran as fast without it.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {**_emitters(), "xla_cpu_parallel_codegen_split_count": 1}


def least_memory() -> dict[str, Any]:
    """Compiler options for a program over devices that must not need much memory at a time.

    On CPU, XLA would run what it can side by side, and send several sums as one message, so that
    the gradients of all weights wait for each other.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "xla_disable_hlo_passes": "cpu-all-reduce-combiner",
    }


def collect_rarely() -> None:
    """Lets Python look for garbage less often, which it does in vain while programs are traced.

    Tracing makes millions of objects that stay; by default a fifth of its time goes into visiting
    them again and again. It holds for the whole process.
    """
    gc.set_threshold(100_000, 20, 20)


def keep_memory() -> None:
    """Lets this process keep memory that it has freed, where JAX has nothing but CPUs.

    A training step on CPU frees gigabytes and asks for them again; the system clears them page by
    page each time, a tenth of a step's processor time. So one heap for all threads, which grows and
    is not given back. Of glibc's allocator only, and best before the first thread of XLA starts,
    since a thread that has a heap of its own keeps it. Beside PyTorch in one process, steps were
    slower with it. It costs memory, since what is free lies in pieces; with `MALLOC_ARENA_MAX` in
    the environment the allocator does as that says.
    """
    names = ("jax_plugins", "libtpu")  # what accelerators are installed as
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    told = "MALLOC_ARENA_MAX" in os.environ
    if told or libc is None or any(map(importlib.util.find_spec, names)):
        return
    for option, value in _MALLOC.items():
        libc.mallopt(option, value)


def _emitters() -> dict[str, Any]:
    """Leaves XLA's newer way to make kernels of elementwise operations aside, which compiles more
    slowly. Of large programs that are optimised the opposite holds. From jaxlib 0.11.1 on there is
    no other way.
    """
    return {"xla_cpu_use_fusion_emitters": False} if HAS_OLD_EMITTERS else {}


def _processor() -> str:
    return _told("model name") or platform.processor() or platform.machine()


def _told(*names: str) -> str:
    """What Linux says of the first processor under one of these names; "" elsewhere."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # elsewhere, or where it is hidden
        lines = pathlib.Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    parts = (line.partition(":") for line in lines)
    return next((said.strip() for name, _, said in parts if name.strip() in names), "")
