"""Asks xpk for jobs, and keeps the fields of what it writes in `xpk_fields.json`.

    python -m venv /tmp/xpk && /tmp/xpk/bin/pip install xpk==1.16.0
    /tmp/xpk/bin/python tests/launching/xpk_fields.py

Fields and their values are kept, none of its text: the command of its container is left out.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

FIELDS = pathlib.Path(__file__).with_suffix(".json")
# What is asked for: type, slices, and capacity, by the options of xpk and of ours.
REQUESTS: dict[str, tuple[str, int, str, str]] = {
    "v6e-16": ("v6e-16", 1, "--on-demand", "on-demand"),
    "v6e-16, two slices, spot": ("v6e-16", 2, "--spot", "spot"),
    "v5p-128, reserved": ("v5p-128", 1, "--reservation=mine", "reserved:mine"),
    "v5litepod-16, flex": ("v5litepod-16", 1, "--flex", "flex"),
    "v6e-4, one machine": ("v6e-4", 1, "--on-demand", "on-demand"),
    "tpu7x-16": ("tpu7x-16", 1, "--on-demand", "on-demand"),
}
IMAGE = "ghcr.io/me/train:3"
NAME = "asked"
QUEUE = "multislice-queue"  # as xpk names it in all its clusters


def fields(jobset: dict[str, Any]) -> dict[str, Any]:
    """Each value of a JobSet by its place: in the jobset, its job, the pod or the container."""
    (slices,) = jobset["spec"].pop("replicatedJobs")
    job = slices.pop("template")["spec"]
    pod = job.pop("template")
    (container,) = pod["spec"].pop("containers")
    container.pop("command")
    parts = {"jobset": jobset, "slices": slices, "job": job, "pod": pod, "container": container}
    return {
        place: value
        for part, content in parts.items()
        for place, value in _leaves(part, content)
        if value not in (None, "", [], {})
    }


def _leaves(place: str, content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(f"{place} {key}", value)
    elif isinstance(content, list) and all(isinstance(value, int) for value in content):
        yield place, ranges(content)
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _leaves(f"{place} {i}", value)
    else:
        yield place, content


def ranges(values: Iterable[int]) -> str:
    """Whole numbers in a few words, as 1-2, 75."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def ask(accelerator: str, slices: int, capacity: str) -> dict[str, Any]:
    """The fields of what xpk writes, in a cluster that makes node pools as they are needed."""
    kinds = ("tpu-v6e-slice", "tpu-v5p-slice", "tpu-v5-lite-podslice", "tpu7x")
    pools = f"map[{' '.join(f'{kind}:AUTOPROVISION' for kind in kinds)}]"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "job.yaml"
        command = [
            *(str(pathlib.Path(sys.executable).with_name("xpk")), "workload", "create"),
            *("--dry-run", "--skip-validation", "--output-manifest-file", str(path)),
            *("--cluster", "c", "--project", "p", "--zone", "us-east5-b", "--workload", NAME),
            *("--docker-image", IMAGE, "--command", "supernet", f"--tpu-type={accelerator}"),
            *(f"--num-slices={slices}", capacity),
        ]
        environment = {"HOME": folder, "DRY_RUN_RESOURCES_CONFIG_MAP": pools}
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
        if not path.is_file():
            sys.exit(done.stdout + done.stderr)
        return fields(yaml.safe_load(path.read_text("utf-8")))


if __name__ == "__main__":
    found = {name: ask(*request[:3]) for name, request in REQUESTS.items()}
    FIELDS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
