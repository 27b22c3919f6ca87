"""The script of `supernet launch tpu` keeps its promises, run against a `gcloud` that plays one."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from conftest import ROOT

from supernet_jax.launching.tpu import Tpu

PATIENCE = 120  # seconds, for a loaded machine; only a script that hangs needs them
FAKE = pathlib.Path(__file__).with_name("fake_gcloud.sh")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Plans what happens, runs the script to its end; gives status, words, and calls by verb."""
    programs, project = tmp_path / "programs", tmp_path / "project"
    (project / "runs").mkdir(parents=True)
    (project / "config.py").write_text("CONFIG = 1")
    (project / "runs" / "large").touch()
    programs.mkdir()
    for name in ("gcloud", "supernet"):
        (programs / name).symlink_to(FAKE)
    python = programs / "python3"  # which makes no real virtual environment
    python.write_text("#!/bin/bash\nmkdir -p venv/bin; touch venv/bin/activate\n")
    python.chmod(0o755)
    for name, value in {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FAKE": str(tmp_path),
        "SUPERNET_POLL_SECONDS": "0.05",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project)

    def planned(plan: str, *states: str, setup: str = "cat config.py", **options):
        (tmp_path / "plan").write_text(plan)
        for number, words in enumerate(states or ["ACTIVE"], 1):
            (tmp_path / f"states-{number}").write_text(words)
        job = Tpu(
            config="config.py",
            out="gs://bucket/a",
            zone="us-east5-b",
            accelerator="v6e-16",
            setup=setup,
            **options,
        )
        script = tmp_path / "a.sh"
        script.write_text(job.script.text)
        return subprocess.Popen(
            ["bash", str(script)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def played(*arguments, **options):
        process = planned(*arguments, **options)
        said, _ = process.communicate(timeout=150)
        calls = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
        return process.returncode, said, calls

    played.planned, played.folder = planned, tmp_path
    # Tests that a shell started in the background ignore SIGINT, and bash cannot trap what it was
    # started to ignore. A handler of Python's is not inherited: the script starts as in a terminal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield played
    signal.signal(signal.SIGINT, before)
    for pid in tmp_path.glob("host-*/*/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def ended(said: str) -> list[list[str]]:
    """Statuses of the hosts, in any order, each time that training ended."""
    return [sorted(words.split()) for words in re.findall(r"training ended with (.*)", said)]


def test_a_job_that_ends_well_leaves_nothing(play):
    status, said, calls = play(
        "0 0",
        "WAITING_FOR_RESOURCES WAITING_FOR_RESOURCES PROVISIONING OUTAGE NEWLY_NAMED ACTIVE",
        setup="cat config.py; ls",
    )
    assert status == 0, said
    for word in ("WAITING_FOR_RESOURCES", "PROVISIONING", "UNREACHABLE", "ACTIVE"):
        assert said.count(f"a is {word}\n") == 1
    assert "does not know the state NEWLY_NAMED" in said
    assert "start 1 of training on host 0: 0" in said  # the log
    assert "on host 1" not in said
    assert said.count("CONFIG = 1") == 2  # the folder was there when hosts were set up
    assert "runs" not in said.split("\n")  # what need not be copied
    assert (calls.count("create"), calls.count("delete")) == (1, 1)
    for host in "01":
        started = (play.folder / f"starts-{host}").read_text()
        assert started.startswith("train config.py --out gs://bucket/a --coordinator auto")


@pytest.mark.parametrize("first", ["stay reclaim", "lose 75", "75 lose"])
def test_lost_tpus_are_created_anew(play, first):
    status, said, calls = play(f"{first}\n0 0", "ACTIVE", "PROVISIONING ACTIVE")
    assert status == 0, said
    assert "TPUs were lost; starting again (1 of at most 20 times)" in said
    assert (calls.count("create"), calls.count("delete")) == (2, 2)
    assert said.count("CONFIG = 1") == 4


def test_a_request_that_fails_is_made_again_as_often_as_allowed(play):
    status, said, calls = play("", *["FAILED"] * 3, restarts=2)
    assert status == 75
    assert "not started again, after 2 times" in said
    assert (calls.count("create"), calls.count("delete")) == (3, 3)


@pytest.mark.parametrize("statuses", ["124 75", "0 137"])
def test_an_unfinished_job_goes_on_where_it_is(play, statuses):
    status, said, calls = play(f"{statuses}\n0 0")
    assert status == 0, said
    assert ended(said)[0] == sorted(statuses.split())
    assert (calls.count("create"), calls.count("scp"), calls.count("delete")) == (1, 1, 1)
    assert "start 2 of training" in said


@pytest.mark.parametrize(("statuses", "ends"), [("2 2", 2), ("75 1", 1)])
def test_a_mistake_ends_the_job_with_its_words(play, statuses, ends):
    status, said, calls = play(f"{statuses}\n0 0")
    assert status == ends, said
    at_fault = statuses.split().index(str(ends))
    assert f": start 1 of training on host {at_fault}" in said  # the end of that host's log
    assert (calls.count("create"), calls.count("delete")) == (1, 1)


def test_hosts_that_cannot_be_set_up_end_the_job(play):
    status, said, calls = play("0 0", setup="echo no such package; exit 3")
    assert status == 1
    assert "no such package" in said and "could not be set up" in said
    assert calls[-1] == "delete"


def test_kept_tpus_are_named(play):
    status, said, calls = play("0 0", keep=True)
    assert status == 0
    assert "delete" not in calls
    assert "queued-resources delete a --zone=us-east5-b --force" in said


def test_refused_requests_end_with_what_gcloud_says(play):
    (play.folder / "calls").write_text("create earlier\n")  # so that no creation is planned
    status, said, _ = play("0 0", "ACTIVE")
    assert status == 1
    assert "PERMISSION_DENIED" in said


def test_an_interrupted_script_is_started_again_and_goes_on(play):
    process = play.planned("stay 0\n0 0")
    next(line for line in process.stdout if "on host 0: stay" in line)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "go on here by the same command; or end it all: gcloud" in said
    (pid,) = play.folder.glob("host-0/*/pid")
    os.killpg(int(pid.read_text()), 0)  # training runs on

    process = play.planned("stay 0\n0 0")
    next(line for line in process.stdout if "on host 0: stay" in line)
    os.killpg(int(pid.read_text()), signal.SIGKILL)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    calls = (play.folder / "calls").read_text()
    assert (calls.count("create a"), calls.count("scp")) == (1, 1)
    assert ended(said) == [["0", "137"], ["0", "0"]]


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck, a Debian package")
@pytest.mark.parametrize("slices", [1, 2])
def test_scripts_have_no_fault_that_shellcheck_knows(slices, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    job = Tpu(
        config="configs/digits.py",
        out="gs://bucket/a",
        zone="us-east5-b",
        accelerator="v6e-16",
        slices=slices,
    )
    path = tmp_path / "a.sh"
    path.write_text(job.script.text)
    subprocess.run(["shellcheck", "--exclude=SC1091", str(path)], check=True)
