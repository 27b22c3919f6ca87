"""Versions of Python and of packages: what is declared, tried and documented is the same."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
platforms = importlib.import_module("platforms")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ROWS = json.loads(platforms.ROWS.read_text("utf-8"))


def test_versions_of_python_agree() -> None:
    prefix = "Programming Language :: Python :: 3."
    declared = PROJECT["project"]["classifiers"]
    declared = [text.rpartition(" ")[2] for text in declared if text.startswith(prefix)]
    assert declared == list(platforms.PYTHONS)
    assert PROJECT["project"]["requires-python"] == f">={declared[0]}"
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["platforms"]["strategy"]["matrix"]
    assert matrix["python"] == declared and matrix["resolution"] == list(platforms.RESOLUTIONS)
    for more in matrix["include"]:
        assert more["python"] in declared and more["resolution"] in platforms.RESOLUTIONS


def test_the_table_is_that_of_the_rows() -> None:
    page = platforms.PAGE.read_text("utf-8")
    assert platforms.table(ROWS) in page
    shown = re.findall(r"^\| (3\.\d+)\S* \| (newest|lowest) ", page, re.M)
    named = platforms.RESOLUTIONS.values()
    assert shown == [(python, name) for python in platforms.PYTHONS for name in named]
    assert page.count("| not yet run |") == len(shown) - len(ROWS)
    assert not [row for row in ROWS.values() if row["failed"]]


def test_lowest_versions_were_run() -> None:
    """A bound that is raised needs another run."""
    needed = PROJECT["project"]["dependencies"]
    bounds = dict(re.match(r"([\w-]+)\S*?>=([\d.]+)", line).groups() for line in needed)  # type: ignore[union-attr]
    # A newer Python has no wheels of some of them.
    for name, version in ROWS["3.11 lowest-direct"]["packages"].items():
        assert version == bounds[name] or version.startswith(f"{bounds[name]}."), name


def test_a_page_is_written_anew(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{platforms.BEGIN}\nold\n\n{platforms.END}\nafter\n")
    failed = {"minor": "3.12", "resolution": "highest", "seconds": 7, "failed": "tests: 1 failed"}
    for _ in range(2):
        platforms.write_page(page, {"3.12 highest": {**failed, "passed": ["installation"]}})
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
        assert text.count("installation, FAILED tests: 1 failed") == 1
        assert text.count("not yet run") == 2 * len(platforms.PYTHONS) - 1


def test_what_is_not_there_is_left_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a Python that uv does not find one line is said; rows of others stay or are replaced."""
    page, rows = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text(platforms.BEGIN + platforms.END)
    rows.write_text(json.dumps({"3.11 highest": {"old": 1}, "3.13 highest": {"old": 2}}))
    row = {"minor": "3.13", "resolution": "highest", "seconds": 7, "passed": [], "failed": ""}
    monkeypatch.setattr(shutil, "which", lambda _: "uv")
    monkeypatch.setattr(platforms, "archived", lambda folder, _: folder)
    monkeypatch.setattr(platforms, "found", lambda wanted: wanted if wanted == "3.13" else None)
    monkeypatch.setattr(platforms, "tried", lambda *_, quick: row)
    monkeypatch.setattr(platforms, "write_page", lambda *_: None)
    options = ["--python", "3.12", "--python", "3.13", "--resolution", "highest"]
    monkeypatch.setattr(
        sys, "argv", ["platforms.py", *options, "--json", str(rows), "--page", str(page)]
    )
    assert platforms.main() == 1  # it was named
    assert capsys.readouterr().out == "uv finds no Python 3.12 here; it is left out\n"
    assert json.loads(rows.read_text()) == {"3.11 highest": {"old": 1}, "3.13 highest": row}


@pytest.mark.parametrize("tool", ["zizmor", "actionlint"])
def test_workflows(tool: str) -> None:
    beside = str(pathlib.Path(sys.executable).parent)
    found = shutil.which(tool) or shutil.which(tool, path=beside)
    if found is None:
        pytest.skip(f"{tool} is not installed; the workflow test.yml runs it, too")
    options = ["--offline", "--quiet"] if tool == "zizmor" else []
    command = [found, *options, *map(str, WORKFLOWS)]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_little(path: pathlib.Path) -> None:
    """Rights are given to single jobs, and actions of others are named by a commit."""
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"} and "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        if job.get("uses", "").startswith("./"):  # another of these files
            continue
        assert job["timeout-minutes"] > 0, name
        rights = {"publish": {"id-token"}, "deploy": {"id-token", "pages"}}.get(name, set())
        assert set(job.get("permissions", {})) == rights, name
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"a/a@{'0' * 40}"))


def test_what_is_published_needs_both() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text("utf-8"))["jobs"]
    assert jobs["publish"]["needs"] == ["tests", "sources", "wheels"]
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert jobs["publish"]["if"] == "github.event_name == 'release'"
