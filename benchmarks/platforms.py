"""What versions of Python and of dependencies the project runs with: `docs/platforms.md`.

    python benchmarks/platforms.py
    python benchmarks/platforms.py --python 3.13 --resolution highest
    python benchmarks/platforms.py --python /opt/python3.14/bin/python3

For each version of Python, and for the newest and the lowest versions of the direct dependencies
that `pyproject.toml` allows, it makes a fresh environment, installs the wheel of the last commit,
runs a small quickstart from outside of the sources, and then the tests that together use every
dependency. With the newest versions warnings are errors, as in the whole suite; old versions warn
of each other.

It needs `uv` and `git` on the PATH and nothing of the project. A version of Python that uv does not
find is named and left out. The rows are kept in a JSON file, in which a new row takes the place of
the old one; the table of the page is written from it.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, ROWS = ROOT / "docs/platforms.md", ROOT / "docs/figures/platforms.json"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTIONS = {"highest": "newest", "lowest-direct": "lowest"}
SHOWN = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
# Beside the quickstart they use every dependency.
TESTS = (
    "tests/storage/test_checkpoint.py",
    "tests/networks/test_checkpoint_slices.py",
    "tests/networks/test_export.py",
    "tests/networks/test_export_onnx.py",
    "tests/data/test_data.py",
    "tests/data/test_jpeg.py",
    "tests/reporting/test_report.py",
    "tests/reporting/test_loggers.py",
    "tests/experiment/test_publish.py",
    "tests/experiment/test_farm.py",
    "tests/searching/test_bayesian.py",
    "tests/runtime/test_hardware.py::test_the_compiler_knows_its_options",  # they come and go
)
DESCRIBE = """
import importlib.metadata, json
from supernet_jax.runtime import hardware, native
shown = {name: importlib.metadata.version(name) for name in %r}
print(json.dumps({**hardware.describe(), "packages": shown, "kernels": native.available()}))
"""
BEGIN, END = "<!-- table of benchmarks/platforms.py -->\n", "<!-- end of the table -->\n"


def main() -> int:
    """Runs what the options say, and writes the page after each environment."""
    arguments = command_line().parse_args()
    if arguments.list_tests:
        print(*TESTS)
        return 0
    if shutil.which("uv") is None:
        sys.exit("there is no uv on the PATH; install it: pip install uv")
    failed = False
    with tempfile.TemporaryDirectory(prefix="platforms-") as folder:
        source = archived(pathlib.Path(folder), arguments.wheel)
        for wanted in arguments.python or PYTHONS:
            python = found(wanted)
            if python is None:
                print(f"uv finds no Python {wanted} here; it is left out", flush=True)
                failed |= bool(arguments.python)  # one that was named
                continue
            for resolution in arguments.resolution or RESOLUTIONS:
                row = tried(source, python, resolution, quick=arguments.quick)
                failed |= bool(row["failed"])
                kept = read(arguments.json)
                kept[f"{row['minor']} {resolution}"] = row
                text = json.dumps(dict(sorted(kept.items())), indent=1)
                arguments.json.write_text(text + "\n", encoding="utf-8")
                write_page(arguments.page, kept)
    return int(failed)


def command_line() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--python",
        action="append",
        help=f"version, or path of an interpreter; may be repeated (default: {', '.join(PYTHONS)})",
    )
    made.add_argument(
        "--resolution", action="append", choices=list(RESOLUTIONS), help="default: both"
    )
    made.add_argument(
        "--wheel", type=pathlib.Path, help="wheel of the last commit (default: one is built)"
    )
    made.add_argument("--quick", action="store_true", help="leave the tests out")
    made.add_argument("--json", type=pathlib.Path, default=ROWS, help="file of the rows")
    made.add_argument("--page", type=pathlib.Path, default=PAGE, help="page with the table")
    made.add_argument(
        "--list-tests", action="store_true", help="print the tests that are run, and run nothing"
    )
    return made


def archived(folder: pathlib.Path, built: pathlib.Path | None) -> pathlib.Path:
    """A copy of the last commit, with the compiled kernels of the wheel that is made of it.

    Args:
        folder: where to put it.
        built: the wheel, if there is one.

    Returns:
        the copy; the wheel lies in its folder `dist`.
    """
    source = folder / "source"
    source.mkdir()
    packed = run(["git", "-C", str(ROOT), "archive", "HEAD"], text=False)
    subprocess.run(["tar", "-x", "-C", str(source)], input=packed.stdout, check=True)
    if built is None:
        done = run(["uv", "build", "--quiet", "--wheel", str(source)])
        if done.returncode:
            sys.exit(f"no wheel could be built: {last_line(done.stdout + done.stderr)}")
    else:
        (source / "dist").mkdir()
        shutil.copy(built, source / "dist")
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:  # tests run on the sources
        content.extractall(source, [n for n in content.namelist() if n.endswith(".so")])
    return source


def found(wanted: str) -> str | None:
    """The path of an interpreter, as uv finds it."""
    looked = run(["uv", "python", "find", "--no-project", "--no-python-downloads", wanted])
    return looked.stdout.strip() if looked.returncode == 0 else None


def tried(source: pathlib.Path, python: str, resolution: str, *, quick: bool) -> dict[str, Any]:
    """One environment: what was installed, what passed, how long it took."""
    minor = run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
    row: dict[str, Any] = {"minor": minor, "resolution": resolution, "passed": [], "failed": ""}
    print(f"Python {minor}, {resolution} versions", flush=True)
    with tempfile.TemporaryDirectory(prefix="platform-") as folder:
        begin = time.monotonic()
        for name, command, where in steps(source, python, resolution, pathlib.Path(folder)):
            if quick and name == "tests":
                row["passed"].append("tests not yet run")
                continue
            done = run(command, cwd=where)
            if done.returncode:
                row["failed"] = f"{name}: {last_line(done.stdout + done.stderr)}"
                print(done.stdout[-5000:] + done.stderr[-5000:], file=sys.stderr)
                break
            if name == "facts":
                row.update(json.loads(done.stdout))
            else:
                tests = re.search(r"(\d+ passed.*?) in ", done.stdout) if name == "tests" else None
                row["passed"].append(tests[1] if tests else name)
        row["seconds"] = round(time.monotonic() - begin)
    print(f"  {outcome(row)}, {row['seconds']} s", flush=True)
    return row


def steps(
    source: pathlib.Path, python: str, resolution: str, folder: pathlib.Path
) -> list[tuple[str, list[str], pathlib.Path]]:
    """What is run in one environment: name, command, folder."""
    (wheel,) = (source / "dist").glob("*.whl")
    own, outside = folder / "venv", folder / "outside"
    outside.mkdir()
    inside = str(own / "bin/python")
    # Where a version has no wheel for this Python, as many old ones have none for a new Python, the
    # next one counts. TFDS needs a package that never had one.
    wheels = ["--only-binary", ":all:", "--no-binary", "promise"]
    pip = ["uv", "pip", "install", "--quiet", *wheels, "--python", inside]
    # The lowest versions are those of direct dependencies, and a wheel's own do not count as such.
    direct = ["--requirements", str(source / "pyproject.toml"), "--extra", "test"]
    tests = [inside, "-m", "pytest", "-q", *TESTS]
    if resolution != "highest":
        tests += ["-o", "filterwarnings=default", "--disable-warnings"]
    quickstart = [str(own / "bin/supernet"), "quickstart", "--out", "run", "--steps", "30"]
    return [
        ("environment", ["uv", "venv", "--quiet", "--python", python, str(own)], folder),
        ("installation", [*pip, "--resolution", resolution, *direct, str(wheel)], folder),
        ("facts", [inside, "-c", DESCRIBE % (SHOWN,)], outside),
        ("quickstart", quickstart, outside),
        ("tests", tests, source),
    ]


def run(
    command: Sequence[str], *, cwd: pathlib.Path | None = None, text: bool = True
) -> subprocess.CompletedProcess[Any]:
    """A command with its output, in an environment of which no other Python's is a part."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    surroundings = {name: value for name, value in os.environ.items() if name not in foreign}
    return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=text)


def last_line(said: str) -> str:
    """Of what a command printed."""
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no word")


def outcome(row: Mapping[str, Any]) -> str:
    """What passed, and what did not."""
    passed = [name for name in row["passed"] if name != "environment"]
    return ", ".join([*passed, *([f"FAILED {row['failed']}"] if row["failed"] else [])])


def read(path: pathlib.Path) -> dict[str, Any]:
    """The rows that there are, by version of Python and resolution."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def table(rows: Mapping[str, Any]) -> str:
    """In Markdown; what was not run says so."""
    columns = ["Python", "versions", *SHOWN, "kernels", "passed", "s", "machine"]
    lines = [columns, ["---"] * len(columns)]
    for minor in PYTHONS:
        for resolution, name in RESOLUTIONS.items():
            row = rows.get(f"{minor} {resolution}")
            if row is None:
                lines.append([minor, name, *[""] * (len(SHOWN) + 1), "not yet run", "", ""])
                continue
            packages = [row.get("packages", {}).get(package, "") for package in SHOWN]
            kernels = "yes" if row.get("kernels") else "no"
            machine = f"{row.get('processor', '')}, {row.get('cores', '')} cores"
            python = row.get("python", minor)
            seconds = str(row["seconds"])
            lines.append([python, name, *packages, kernels, outcome(row), seconds, machine])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_page(path: pathlib.Path, rows: Mapping[str, Any]) -> None:
    """Puts the table into the page, between its two marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
