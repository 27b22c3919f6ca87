"""Jobs in pods: their files hold for Kubernetes, and what differs from xpk's is what is said to."""

import dataclasses
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import xpk_fields
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


def test_jobs_are_those_of_xpk_but_for_what_the_page_says():
    page = (ROOT / "docs/launch/gke.md").read_text("utf-8")
    told = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]+)\|", page, re.MULTILINE)))
    differing = set()
    written = json.loads(xpk_fields.FIELDS.read_text("utf-8"))
    assert written.keys() == xpk_fields.REQUESTS.keys()
    for name, (accelerator, slices, _, capacity) in xpk_fields.REQUESTS.items():
        job = Gke(
            **JOB | {"image": xpk_fields.IMAGE},
            name=xpk_fields.NAME,
            queue=xpk_fields.QUEUE,
            accelerator=accelerator,
            slices=slices,
            capacity=capacity,
            restarts=0,
        )
        ours, theirs = xpk_fields.fields(yaml.safe_load(job.script.text)), written[name]
        places = {place for place in ours | theirs if ours.get(place) != theirs.get(place)}
        assert len(ours.keys() - places) >= 19, name  # the same
        differing |= places
    assert {place for place in differing if not place.startswith(tuple(told))} == set()
    assert {place for place in told if not any(d.startswith(place) for d in differing)} == set()


@pytest.mark.parametrize(
    ("statuses", "disrupted", "action"),
    [
        ([75], False, "Ignore"),  # stopped, or a peer has gone
        ([137], True, "Ignore"),  # its machine was reclaimed
        ([1], True, "Ignore"),  # in whatever way it ended then
        ([2], False, "FailJob"),
        ([1], False, "FailJob"),
        ([127], False, "FailJob"),
        ([124], False, "Count"),
        ([134], False, "Count"),
        ([137], False, "Count"),
        ([139], False, "Count"),
    ],
)
def test_what_follows_an_exit_status(statuses, disrupted, action):
    def fits(rule: dict[str, Any]) -> bool:
        if "onPodConditions" in rule:
            return disrupted and rule["onPodConditions"][0]["type"] == "DisruptionTarget"
        assert rule["onExitCodes"]["operator"] == "In"
        return bool(set(statuses) & set(rule["onExitCodes"]["values"]))

    found = [rule["action"] for rule in pods.rules()["rules"] if fits(rule)]
    assert [*found, "Count"][0] == action


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
