"""What a process is told of its machine, where that can be seen from outside."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from supernet_jax.runtime import hardware

ASKS_AGAIN = """
import concurrent.futures, resource, sys, threading
from supernet_jax.runtime import hardware
if sys.argv[1] == "kept":
    hardware.keep_memory()

both = threading.Barrier(2)

def work(_):
    for i in range(5):
        held = bytes([i]) * 40_000_000  # 9,766 pages, more than glibc ever keeps by itself
        both.wait()  # two are alive at once in every round, the first one too
        del held

with concurrent.futures.ThreadPoolExecutor(2) as threads:
    list(threads.map(work, range(2)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(threads.map(work, range(2)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_freed_memory_is_kept() -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    faults = {}
    for name in ("kept", "left", "told otherwise"):
        surroundings = {**os.environ, "PYTHONPATH": paths}
        surroundings |= {"MALLOC_ARENA_MAX": "4"} if name == "told otherwise" else {}
        how = "left" if name == "left" else "kept"
        command = [sys.executable, "-c", ASKS_AGAIN, how]
        done = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True)
        faults[name] = int(done.stdout)
    assert faults["left"] > 2 * 5 * 9000  # else there is nothing to be gained
    assert faults["told otherwise"] > 2 * 5 * 9000
    assert faults["kept"] < 1000


def test_the_compiler_knows_its_options() -> None:
    """Those of all versions of jaxlib that are allowed: XLA refuses what it does not know."""
    for options in (hardware.runs_once(), hardware.many_small(), hardware.least_memory()):
        assert options
        assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(3))[0] == 2
