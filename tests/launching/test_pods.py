"""Jobs in pods: their files hold for Kubernetes, and begin again after what they should."""

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_launching import COMMANDS, GOLDEN

from supernet_jax.launching import pods
from supernet_jax.launching.gke import Gke
from supernet_jax.launching.k8s import Kubernetes

FILES = [name for name, line in COMMANDS.items() if line.split()[0] in ("gke", "k8s")]
JOB: dict[str, Any] = {"config": "configs/digits.py", "out": "gs://bucket/a", "image": "i:1"}
needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason='schemas of Kubernetes need pip install ".[test]"',
)


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def core(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Objects of Kubernetes itself: those in a file, and those that a JobSet makes."""
    if content["kind"] != "JobSet":
        yield content
        return
    for jobs in content["spec"]["replicatedJobs"]:
        meta = {"metadata": {"name": "made"}}
        yield {"apiVersion": "batch/v1", "kind": "Job", **meta, **jobs["template"]}
        yield {"apiVersion": "v1", "kind": "Pod", **meta, **jobs["template"]["spec"]["template"]}


@needs_schemas
@pytest.mark.parametrize("name", FILES)
def test_files_hold_for_kubernetes(name):
    import kubernetes_validate

    found = yaml.safe_load_all((GOLDEN / name).read_text("utf-8"))
    for content in (made for each in found for made in core(each)):
        kubernetes_validate.validate(content, "1.35", strict=True)
        content["spec"]["restartPolcy"] = "Never"
        with pytest.raises(kubernetes_validate.ValidationError, match="restartPolcy"):
            kubernetes_validate.validate(content, "1.35", strict=True)


# Exit status, whether the machine was reclaimed, and what a Job and a JobSet do.
AFTER = [
    (75, False, "Ignore", "RestartJobSet"),  # stopped, or a peer has gone
    (75, True, "Ignore", "RestartJobSetAndIgnoreMaxRestarts"),
    (137, True, "Ignore", "RestartJobSetAndIgnoreMaxRestarts"),
    (1, True, "Ignore", "RestartJobSetAndIgnoreMaxRestarts"),  # in whatever way it ended then
    (1, False, "FailJob", "FailJobSet"),
    (2, False, "FailJob", "FailJobSet"),
    (127, False, "FailJob", "FailJobSet"),
    (124, False, "Count", "RestartJobSet"),
    (134, False, "Count", "RestartJobSet"),
    (137, False, "Count", "RestartJobSet"),
    (139, False, "Count", "RestartJobSet"),
]


def after(job: dict[str, Any], status: int, reclaimed: bool) -> tuple[str, str]:
    """What a job does when its pod fails, and the message with which it fails, as in Kubernetes."""
    for i, rule in enumerate(job["podFailurePolicy"]["rules"]):
        on = rule.get("onExitCodes")
        fits = on["operator"] == "In" and status in on["values"] if on else reclaimed
        if fits:
            how = f"failed with exit code {status}" if on else "has condition DisruptionTarget"
            return rule[
                "action"
            ], f"Pod team/a-0-x {how} matching {rule['action']} rule at index {i}"
    return "Count", "Job has reached the specified backoff limit"


@pytest.mark.parametrize(("status", "reclaimed", "in_job", "in_jobset"), AFTER)
def test_what_follows_an_exit_status(status, reclaimed, in_job, in_jobset):
    job = yaml.safe_load(Kubernetes(**JOB, restarts=5).script.text)["spec"]
    assert after(job, status, reclaimed)[0] == in_job
    assert job["backoffLimitPerIndex"] == 5
    jobset = yaml.safe_load(Gke(**JOB, accelerator="v6e-16", restarts=5).script.text)["spec"]
    policy, job = jobset["failurePolicy"], jobset["replicatedJobs"][0]["template"]["spec"]
    action, message = after(job, status, reclaimed)
    assert action in ("FailJob", "Count")  # no pod alone is made again
    assert (job["backoffLimit"], policy["maxRestarts"]) == (0, 5)
    reason = "PodFailurePolicy" if action == "FailJob" else "BackoffLimitExceeded"
    found = [
        rule["action"]
        for rule in policy["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(re.search(p, message) for p in rule.get("onJobFailureMessagePatterns", [""]))
    ]
    assert [*found, "RestartJobSet"][0] == in_jobset


def test_processes_find_each_other_only_where_there_are_several():
    assert "--coordinator" not in Kubernetes(**JOB).command
    assert len(list(yaml.safe_load_all(Kubernetes(**JOB).script.text))) == 1
    service, job = yaml.safe_load_all(Kubernetes(**JOB, nodes=3).script.text)
    pod = job["spec"]["template"]["spec"]
    words = pod["containers"][0]["command"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert (options["--processes"], options["--process"]) == ("3", "$(JOB_COMPLETION_INDEX)")
    assert (
        options["--coordinator"] == f"a-0.{pod['subdomain']}:{service['spec']['ports'][0]['port']}"
    )
    assert pod["subdomain"] == service["metadata"]["name"]
    for accelerator, slices, several in (
        ("v6e-4", 1, False),
        ("v6e-4", 2, True),
        ("v6e-16", 1, True),
    ):
        train = Gke(**JOB, accelerator=accelerator, slices=slices).command
        assert ("--coordinator" in train) == several


def test_words_of_users_are_not_taken_for_variables_of_kubernetes():
    job = dataclasses.replace(Kubernetes(**JOB, nodes=2), overrides=("--x", "$(HOSTNAME) $$"))
    assert job.command[-1] == "$$(HOSTNAME) $$$$"
    assert pods.INDEX in job.command


def test_lines_that_follow_name_the_namespace():
    for job in (
        Kubernetes(**JOB, namespace="team"),
        Gke(**JOB, accelerator="v6e-4", namespace="team"),
    ):
        assert all(
            shlex.split(line)[:3] == ["kubectl", "--namespace", "team"]
            for line in job.script.follow
        )
