"""One network in every format: size, difference of logits, and latency of one image, on CPU.

    python benchmarks/export.py
    python benchmarks/export.py --space cifar --json export.json

The network has random weights, which no figure here depends on. Formats whose packages are not
installed are left out. Each format is loaded by its own runtime as `formats.table.load` does it,
with that runtime's own choice of threads, and the Flax module by `jax.jit` stands beside them.
"""

import functools
import pathlib
import tempfile
from typing import Any

import jax
import measure
import numpy as np

from supernet_jax.elastic import choices, shared_params
from supernet_jax.networks import extract, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.networks.formats.format import Export, Format
from supernet_jax.runtime import hardware


def main() -> None:
    """Measures, prints a table, and writes the figures if asked to."""
    parser = measure.parser(__doc__ or "")
    parser.add_argument("--space", default="cifar", choices=sorted(measure.SIZES))
    given = parser.parse_args()
    space, rounds = ("digits", 20) if given.quick else (given.space, max(given.rounds, 100))
    export = network_of(space)
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(export, pathlib.Path(folder) / "network", rounds)
    for row in figures:
        row["space"] = space
    print(f"{space}, largest subnet, {export.description['macs']:,} MACs, batch 1")
    columns = ["format", "KiB", "logits differ by", "median, ms", "from", "to"]
    keys = ["name", "kib", "difference", "median_ms", "low_ms", "high_ms"]
    measure.table(columns, [[row[key] for key in keys] for row in figures])
    measure.write(given.json, figures)


def network_of(name: str) -> Export:
    """The largest subnet of a space, with random weights and statistics."""
    size = measure.SIZES[name]
    space = measure.space_of(name, pixels=size)
    arch = choices.largest(space.menu)
    begin = functools.partial(shared_params.init, space)
    params = jax.jit(begin, compiler_options=hardware.runs_once())(jax.random.key(0))
    rng = np.random.default_rng(0)  # nothing is zero, so that no part of the network hides
    noise = functools.partial(rng.normal, 0, 0.02)
    params = jax.tree.map(lambda p: np.asarray(p + noise(p.shape).astype(np.float32)), params)
    moments = jax.eval_shape(functools.partial(shared_params.zero_stats, space))
    stats = jax.tree.map(lambda s: rng.uniform(0.5, 1.5, s.shape).astype(np.float32), moments)
    module, variables = extract.extract(space, params, arch, stats)
    description = extract.describe(
        space,
        arch,
        module,
        variables,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        accuracy={},
        calibration=(1, 1),
        source={},
        proof=0.0,
        proof_images=0,
    )
    return Export(module, variables, description, (size, size), False)


def measured(export: Export, folder: pathlib.Path, rounds: int) -> list[dict[str, Any]]:
    """One row for each format that there is, and one for the Flax module."""
    there = available()
    rng = np.random.default_rng(1)
    images = rng.normal(size=(64, *export.size, 3)).astype(np.float32)
    write = table.writer(there, export, images)
    made = network_folder.save(
        folder, export.network, export.variables, description=export.description, write=write
    )
    compiled, held = jax.jit(export.network.apply), jax.device_put(export.variables)
    runs = {"Flax, jax.jit": lambda x: np.asarray(compiled(held, x))}
    runs |= {f.name: table.load(folder, f.name) for f in there if f.program}
    image = images[:1]
    timings = measure.in_turn({n: lambda i, r=r: r(image) for n, r in runs.items()}, rounds)
    rows = []
    for name in [*runs, *(f.name for f in there if not f.program)]:
        time, known = timings.get(name), made["formats"].get(name)
        seconds = [time.median_s, time.low_s, time.high_s] if time else []
        row = {
            "name": name,
            "kib": kibibytes(folder, known["files"] or ["weights"]) if known else "",
            "difference": known["difference"] if known else "",
        }
        keys = ("median_ms", "low_ms", "high_ms")
        rows.append(
            row
            | dict.fromkeys(keys, "")
            | {k: 1000 * s for k, s in zip(keys, seconds, strict=False)}
        )
    return rows


def available() -> tuple[Format, ...]:
    """The formats whose packages are installed."""
    missing = {format.name: table.missing_packages(format) for format in table.FORMATS}
    for name in filter(missing.get, missing):
        print(f"left out: {name}, which needs {', '.join(missing[name])}")
    return tuple(format for format in table.FORMATS if not missing[format.name])


def kibibytes(folder: pathlib.Path, names: Any) -> float:
    """What these files and folders hold together."""
    paths = [path for name in names for path in (folder / name, *(folder / name).rglob("*"))]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1024


if __name__ == "__main__":
    main()
