"""Builds the library of compiled kernels from the C++ sources of this folder.

`setup.py` runs it when the package is installed. After a change of the sources

    python supernet_jax/runtime/native/build.py

builds them again where they lie. It needs a C++17 compiler, and jaxlib for XLA's headers.
"""

import concurrent.futures
import hashlib
import importlib.util
import os
import pathlib
import shlex
import subprocess
import tempfile

FOLDER = pathlib.Path(__file__).resolve().parent
LIBRARY = FOLDER / "kernels.so"
OPTIONS = ("-std=c++17", "-O3", "-w", "-fPIC", "-pthread")


def sources() -> list[pathlib.Path]:
    """All that is compiled, units first."""
    return [path for kind in ("cc", "h", "inc") for path in sorted(FOLDER.glob(f"*.{kind}"))]


def digest() -> str:
    """Of the sources: what a library says that it was built from."""
    found = hashlib.sha256()
    for path in sources():
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def headers() -> pathlib.Path:
    """XLA's, as jaxlib brings them.

    Raises:
        RuntimeError: there is no jaxlib.
    """
    found = importlib.util.find_spec("jaxlib")
    if found is None or found.origin is None:
        raise RuntimeError("there is no jaxlib, which has the headers of XLA; install jax first")
    return pathlib.Path(found.origin).parent / "include"


def build(library: pathlib.Path = LIBRARY) -> pathlib.Path:
    """Compiles the kernels into a shared library, whole or not at all.

    The compiler is that of the environment variable CXX, or else `c++`. Nothing is tuned to the
    machine that compiles: several instruction sets are in the library, and no rule of float32
    arithmetic is relaxed.

    Raises:
        RuntimeError: there is no compiler, or it fails; the message is one line.
    """
    compiler = os.environ.get("CXX") or "c++"
    options = [*OPTIONS, f"-I{headers()}", f'-DSUPERNET_SOURCES="{digest()}"']

    def run(*arguments: str) -> None:
        command = [*shlex.split(compiler), *options, *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")

    with tempfile.TemporaryDirectory() as folder:

        def compile_unit(source: pathlib.Path) -> str:
            made = str(pathlib.Path(folder) / f"{source.stem}.o")
            run("-c", str(source), "-o", made)
            return made

        units = [path for path in sources() if path.suffix == ".cc"]
        unfinished = pathlib.Path(folder) / LIBRARY.name
        try:
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
                run("-shared", *threads.map(compile_unit, units), "-o", str(unfinished))
        except OSError as error:
            raise RuntimeError(
                f"there is no C++ compiler {compiler!r} ({error.strerror}); install one (Debian: "
                "apt install g++, macOS: xcode-select --install), or name yours in the environment "
                "variable CXX"
            ) from None
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
            said = next((line for line in lines if "error" in line.lower()), lines[-1])
            raise RuntimeError(
                f"{compiler} cannot compile {FOLDER} ({said[:300]}); name another compiler in the "
                "environment variable CXX"
            ) from None
        library.parent.mkdir(parents=True, exist_ok=True)
        beside = library.with_suffix(".unfinished")
        beside.write_bytes(unfinished.read_bytes())
        beside.replace(library)
    return library


if __name__ == "__main__":
    print(build())
