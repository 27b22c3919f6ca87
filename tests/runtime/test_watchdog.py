"""A process that makes no step is ended, with the stacks of its threads in a file."""

import pathlib
import re
import subprocess
import sys
import time

from supernet_jax.runtime import watchdog

HANGS = """
import time
from supernet_jax.runtime import watchdog

def waits_for_ever():
    time.sleep(60)

with watchdog.watching(1):
    for _ in range(8):  # longer than the limit, but not idle
        time.sleep(0.2)
        watchdog.beat()
    print("was alive", flush=True)
    waits_for_ever()
"""


def test_a_hang_ends_with_124_and_says_where():
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == watchdog.HUNG and "was alive" in ended.stdout
    assert "no step was made for 1 s" in ended.stderr and len(ended.stderr.splitlines()) == 1
    file = pathlib.Path(re.search(r"is in (\S+);", ended.stderr)[1])
    assert "waits_for_ever" in file.read_text("utf-8")
    file.unlink()


def test_work_that_ends_is_left_alone():
    with watchdog.watching(0.2):
        for _ in range(6):
            time.sleep(0.05)
            watchdog.beat()
    time.sleep(0.4)
    with watchdog.watching(0):
        time.sleep(0.05)
