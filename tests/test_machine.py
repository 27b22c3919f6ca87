"""What a process is told of its machine, where that can be seen from outside."""

import os
import platform
import subprocess
import sys

import pytest

ASKS_AGAIN = """
import concurrent.futures, resource, sys
from supernet_jax import machine
if sys.argv[1] == "kept":
    machine.keep_memory()

def work(_):
    for i in range(5):
        bytes([i]) * 40_000_000  # 9,766 pages, more than glibc ever keeps by itself

with concurrent.futures.ThreadPoolExecutor(2) as threads:
    list(threads.map(work, range(2)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    list(threads.map(work, range(2)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_freed_memory_is_kept() -> None:
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    faults = {}
    for how in ("kept", "left"):
        command = [sys.executable, "-c", ASKS_AGAIN, how]
        done = subprocess.run(command, env=surroundings, check=True, capture_output=True, text=True)
        faults[how] = int(done.stdout)
    assert faults["left"] > 2 * 5 * 9000  # else there is nothing to be gained
    assert faults["kept"] < 1000
