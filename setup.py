"""Builds the compiled kernels into the package; all else is in pyproject.toml."""

import pathlib
import runpy
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
# By its path: the package itself needs JAX.
NATIVE = runpy.run_path(str(ROOT / "supernet_jax/runtime/native/build.py"))


class BuildKernels(build_ext):
    """Left aside, with one line, where they cannot be built: everything works without them."""

    def get_ext_filename(self, fullname: str) -> str:
        """Without the version of Python, which the library does not know."""
        return str(pathlib.Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Runs the compiler."""
        library = pathlib.Path(self.get_ext_fullpath(ext.name))
        try:
            NATIVE["build"](library)
        except RuntimeError as error:
            library.unlink(missing_ok=True)
            print(f"supernet_jax is built without its compiled kernels: {error}", file=sys.stderr)


class AnyPython(bdist_wheel):
    """One wheel for all versions of Python: the library is loaded by ctypes."""

    def get_tag(self) -> tuple[str, str, str]:
        """Only the platform matters."""
        return "py3", "none", super().get_tag()[2]


def relative(paths: list[pathlib.Path]) -> list[str]:
    """As setuptools wants them."""
    return [path.relative_to(ROOT).as_posix() for path in paths]


SOURCES = NATIVE["sources"]()
KERNELS = Extension(
    "supernet_jax.runtime.native.kernels",
    sources=relative([path for path in SOURCES if path.suffix == ".cc"]),
    depends=relative(SOURCES),
    optional=True,
)
setup(ext_modules=[KERNELS], cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython})
