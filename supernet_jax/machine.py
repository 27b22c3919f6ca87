"""This machine: what a figure was measured on, and what its compiler is told."""

import gc
import os
import pathlib
import platform
from typing import Any

import jax
import jaxlib


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


def runs_once() -> dict[str, int]:
    """Compiler options for a program that runs once: on CPU compiling is all of its time.

    Elsewhere none: XLA's GPU compiler says that it does not support less than full optimisation.
    """
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def collect_rarely() -> None:
    """Lets Python look for garbage less often, which it does in vain while programs are traced.

    Tracing makes millions of objects that stay; by default a fifth of its time goes into visiting
    them again and again. For programs, not for libraries: it holds for the whole process.
    """
    gc.set_threshold(100_000, 20, 20)


def instructions() -> str:
    """The processor and its instruction sets: what machine code made here may rely on."""
    return f"{platform.machine()} {_processor()} {_told('flags', 'Features')}"


def _processor() -> str:
    return _told("model name") or platform.processor() or platform.machine()


def _told(*names: str) -> str:
    """What Linux says of the first processor under one of these names; "" elsewhere."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    parts = (line.partition(":") for line in lines)
    return next((said.strip() for name, _, said in parts if name.strip() in names), "")
