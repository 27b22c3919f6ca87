"""What `launch/Dockerfile` copies is there, and its versions are those that the project allows."""

import re
import subprocess
import tomllib

from conftest import ROOT
from packaging.requirements import Requirement

DOCKERFILE = (ROOT / "launch/Dockerfile").read_text("utf-8")


def test_what_is_copied_is_there():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path


def test_commands_are_shell():
    commands = re.findall(r"^RUN (.*)$", DOCKERFILE, re.M)
    assert len(commands) == 5
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)


def test_versions_are_allowed():
    lines = (ROOT / "launch/constraints.txt").read_text("utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for wanted in map(Requirement, project["dependencies"]):
        found = [pin for pin in pinned if pin.name.lower() == wanted.name.lower()]
        assert found, wanted
        for pin in found:
            (version,) = (clause.version for clause in pin.specifier)
            assert wanted.specifier.contains(version), pin
