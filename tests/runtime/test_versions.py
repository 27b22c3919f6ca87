"""Versions that do not fit are told in one line, before anything fails."""

import itertools
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT
from packaging.specifiers import SpecifierSet

import supernet_jax as sj
from supernet_jax.errors import UserError
from supernet_jax.runtime import versions


def package(folder: pathlib.Path, name: str, version: str, *needs: str) -> None:
    """What pip leaves of a package."""
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    text = "\n".join(lines) + "\n\nRequires-Dist: jax>=99, says its description\n"
    (place / "METADATA").write_text(text, encoding="utf-8")


@pytest.fixture
def installed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Makes packages up, which are found before those that are there."""
    cached = (versions.check, versions._metadata)
    monkeypatch.syspath_prepend(tmp_path)
    for function in cached:
        function.cache_clear()
    yield lambda name, version, *needs: package(tmp_path, name, version, *needs)
    for function in cached:
        function.cache_clear()


FIT = {"jax": "0.10.0", "jaxlib": "0.10.0", "flax": "0.12.7", "numpy": "2.0.0", "scipy": "1.14"}
OWN = ("jax>=0.10", "flax>=0.12.7", "etils[epath]>=1.9.1", "Pillow>=11.0")
MORE = ('onnx>=99; extra == "onnx"', 'jpeg>=99; python_version < "3.99"', "absent>=1")
JAX = ("jaxlib<=0.10.0,>=0.10.0", "numpy>=2.0", 'numpy>=99; python_version >= "3"')


def install(installed: Callable[..., None], **other: str) -> None:
    """Packages that fit, but for some."""
    found = {**FIT, "etils": "1.9.1", "pillow": "12", "optax": "0.2.8", "chex": "0.1.92"}
    found |= {"orbax-checkpoint": "0.12.0", "tensorstore": "0.1.86", "onnx": "1", "jpeg": "1"}
    needs = {"jax": JAX, "flax": ("jax>=0.10", "treescope==0.1.*")}
    for name, version in (found | other).items():
        installed(name, version, *needs.get(name, ()))
    installed("supernet_jax", "0.1.0", *OWN, *MORE)


@pytest.mark.parametrize(
    "other",
    [{}, {"flax": "0.12.10"}, {"flax": "0.13"}, {"flax": "0.12.7rc1"}, {"jaxlib": "0.10.0+cuda"}],
)
def test_versions_that_fit(installed: Callable[..., None], other: dict[str, str]) -> None:
    install(installed, **other)
    versions.check()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"jax": "0.9.2"}, "supernet_jax 0.1.0 needs jax>=0.10, but jax 0.9.2 is"),
        ({"flax": "0.12.6"}, "supernet_jax 0.1.0 needs flax>=0.12.7, but flax 0.12.6 is"),
        ({"etils": "1.9"}, "supernet_jax 0.1.0 needs etils>=1.9.1, but etils 1.9 is"),
        ({"jaxlib": "0.10.1"}, "jax 0.10.0 needs jaxlib<=0.10.0,>=0.10.0, but jaxlib 0.10.1 is"),
        ({"jaxlib": "0.9.9"}, "jax 0.10.0 needs jaxlib<=0.10.0,>=0.10.0, but jaxlib 0.9.9 is"),
        ({"numpy": "1.26.4"}, "jax 0.10.0 needs numpy>=2.0, but numpy 1.26.4 is"),
    ],
)
def test_versions_that_do_not_fit(
    installed: Callable[..., None], other: dict[str, str], said: str
) -> None:
    install(installed, **other)
    for asked in (versions.check, lambda: sj.__getattr__("Config")):
        with pytest.raises(UserError) as raised:
            asked()
        message = str(raised.value)
        assert message.startswith(f"{said} installed; install another one: pip install ")
        assert "\n" not in message


def test_bounds_mean_what_pip_means() -> None:
    """For releases, in all forms of bounds that our own dependencies use."""
    bounds = ("", ">=0.10", ">=0.10.1,<=0.10.2", ">0.9,<0.11", "!=0.10.1", "==0.10.2", "==0.10")
    releases = ("0.9", "0.9.12", "0.10", "0.10.0", "0.10.1", "0.10.2", "0.11", "1.0", "2026.1.1")
    for wanted, version in itertools.product(bounds, releases):
        assert versions.within(version, wanted) == SpecifierSet(wanted).contains(version), wanted


def test_told_in_one_line_by_the_command(tmp_path: pathlib.Path) -> None:
    """A jaxlib that jax would refuse with a traceback."""
    package(tmp_path, "jaxlib", "0.1.2")
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "supernet_jax", "info", "digits"]
    said = subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd=ROOT)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("supernet: jax ") and "jaxlib 0.1.2 is installed" in said.stderr
