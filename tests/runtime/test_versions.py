"""Versions that do not fit are told in one line, before anything fails."""

import importlib.metadata
import subprocess
import sys

import pytest
from conftest import ROOT

from supernet_jax.errors import UserError
from supernet_jax.runtime import versions


def installed(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found[name])


@pytest.mark.parametrize(
    ("jax", "flax"),
    [("0.10.2", "0.12.0"), ("0.11.0", "0.12.7"), ("0.12", "0.13.0"), ("0.10.9.dev11", "0.12.6")],
)
def test_versions_that_fit(monkeypatch: pytest.MonkeyPatch, jax: str, flax: str) -> None:
    installed(monkeypatch, jax=jax, flax=flax)
    versions.check()


@pytest.mark.parametrize(
    ("jax", "flax"), [("0.11.1", "0.12.6"), ("0.11.0rc1", "0.12.0"), ("1.0", "0.9.9")]
)
def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, jax: str, flax: str) -> None:
    installed(monkeypatch, jax=jax, flax=flax)
    with pytest.raises(UserError, match=rf'^jax {jax} does not work with flax {flax}.*>=0.12.7"$'):
        versions.check()


COMMAND = """
import importlib.metadata, runpy
version, seen = importlib.metadata.version, {"jax": "0.11.1", "flax": "0.12.6"}
importlib.metadata.version = lambda name: seen.get(name) or version(name)
runpy.run_module("supernet_jax", run_name="__main__")
"""


def test_told_in_one_line_by_the_command() -> None:
    said = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 2 and said.stdout == ""
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("supernet: jax 0.11.1 does not work with flax 0.12.6")
