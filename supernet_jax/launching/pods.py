"""What every job in pods of Kubernetes has: its container, what that mounts, when it begins again.

By rules a mistake ends a job, a failure is counted, a machine that was reclaimed is not.
Sources: kubernetes.io/docs/concepts/workloads/controllers/job, the API of 1.33.
"""

import dataclasses
import pathlib
import re
from typing import Any

import yaml

from supernet_jax.errors import UserError, at_least
from supernet_jax.launching.cluster_job import ClusterJob
from supernet_jax.runtime import stopping

IMAGE = re.compile(r"[\w.-]+(:\d+(?=/))?(/[\w.-]+)*(?P<tag>:\w[\w.-]*)?(?P<digest>@\w+:[0-9a-f]+)?")
OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")  # what names of Kubernetes are made of
INDEX = "$(JOB_COMPLETION_INDEX)"  # Kubernetes puts the number of the pod in place of it
JOIN_SECONDS = 24 * 3600  # machines of a job come when they are free, not all at once
KEPT_SECONDS = 12 * 3600  # that a job which has ended can still be looked at
LABELS = {"app.kubernetes.io/name": "supernet-jax"}
FATAL = [1, 2, 126, 127]  # exit statuses: a bug, a mistake, no program to start


@dataclasses.dataclass(frozen=True, kw_only=True)
class InPods(ClusterJob):
    """A job in pods of Kubernetes."""

    image: str
    """container image that has this package and the config file, as ghcr.io/me/train:3"""
    namespace: str = ""
    """namespace of the job; if not given, the one that kubectl uses"""
    volume: str = ""
    """CLAIM:/PATH mounts a persistent volume claim in all pods; --out may then be below /PATH"""
    queue: str = ""
    """Kueue's local queue, in which the job waits for its turn"""
    service_account: str = ""
    """service account of the pods, as one that may write to the bucket"""
    secret: str = ""
    """secret whose entries are environment variables of the pods, as keys of a bucket"""
    node_selector: tuple[str, ...] = ()
    """labels that the machines must have, as cloud.google.com/gke-accelerator=nvidia-l4"""
    grace_seconds: int = 120
    """seconds that a pod has to save when it is asked to stop; spot machines give 15 to 30"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.need_config_here()
        at_least("--grace-seconds", self.grace_seconds, 1)
        if not (image := IMAGE.fullmatch(self.image)):
            raise UserError(f"--image is {self.image!r}, but images are named as ghcr.io/me/name:1")
        if not image["tag"] and not image["digest"]:
            raise UserError(
                f"--image is {self.image!r}, without a tag or a digest; each start would pull what "
                f"is then called latest, and pods could differ; give {self.image}:TAG"
            )
        for option in ("namespace", "queue", "service_account", "secret"):
            value = getattr(self, option)
            if value and not OBJECT.fullmatch(value):
                option = option.replace("_", "-")
                raise UserError(f"--{option} is {value!r}, which is no name in Kubernetes")
        for label in self.node_selector:
            if not re.fullmatch(r"[\w./-]+=[\w.-]*", label):
                raise UserError(f"--node-selector is {label!r}, but must be KEY=VALUE")
        claim, _, path = self.volume.partition(":")
        if self.volume and not (OBJECT.fullmatch(claim) and re.fullmatch("(/[^/.][^/]*)+/?", path)):
            raise UserError(f"--volume is {self.volume!r}, but must be CLAIM:/PATH")
        out = pathlib.PurePosixPath(self.out)
        if not path or ".." in out.parts or not out.is_relative_to(path):
            self.need_bucket("a folder in a container, lost with it unless on a --volume")

    @property
    def command(self) -> tuple[str, ...]:
        """The command of each container, in which Kubernetes takes `$` for variables of its own."""
        return tuple(w if w == INDEX else w.replace("$", "$$") for w in super().command)

    @property
    def metadata(self) -> dict[str, Any]:
        """Name and labels of all that is made."""
        queued = {"kueue.x-k8s.io/queue-name": self.queue} if self.queue else {}
        where = {"namespace": self.namespace} if self.namespace else {}
        return {"name": self.name, **where, "labels": LABELS | queued}

    @property
    def kubectl(self) -> str:
        """How a line begins that follows the job."""
        return f"kubectl --namespace {self.namespace}" if self.namespace else "kubectl"

    def pod(
        self, devices: dict[str, int], platforms: str, selector: dict[str, str], **spec: Any
    ) -> dict[str, Any]:
        """The template of its pods: devices by their resources' names, platforms of JAX, labels of
        machines besides the user's, and more of its `spec`; in it `container`, of the container's.
        """
        claim, _, path = self.volume.partition(":")
        mounted = {"name": "run", "persistentVolumeClaim": {"claimName": claim}}
        container: dict[str, Any] = {
            "name": "train",
            "image": self.image,
            "command": list(self.command),
            "env": [
                {"name": "JAX_PLATFORMS", "value": platforms},
                {"name": "PYTHONUNBUFFERED", "value": "1"},
            ],
            "volumeMounts": [
                {"name": "shm", "mountPath": "/dev/shm"},  # through which readers hand images over
                *([{"name": "run", "mountPath": path}] if claim else []),
            ],
            **({"resources": {"limits": devices}} if devices else {}),
            **({"envFrom": [{"secretRef": {"name": self.secret}}]} if self.secret else {}),
            **spec.pop("container", {}),
        }
        labels = [label.split("=", 1) for label in self.node_selector]
        keys = [*selector, *(key for key, _ in labels)]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise UserError(
                f"--node-selector has {', '.join(twice)}, which is given twice, or by accelerator, "
                "topology and capacity of the job; give each once"
            )
        chosen = selector | dict(labels)
        return {
            "metadata": {"labels": LABELS},
            "spec": {
                "restartPolicy": "Never",  # the job makes new pods, by its rules
                "terminationGracePeriodSeconds": self.grace_seconds,
                **({"serviceAccountName": self.service_account} if self.service_account else {}),
                **({"nodeSelector": chosen} if chosen else {}),
                **spec,
                "containers": [container],
                "volumes": [
                    {"name": "shm", "emptyDir": {"medium": "Memory"}},
                    *([mounted] if claim else []),
                ],
            },
        }


def rules(*, replaced: bool) -> dict[str, Any]:
    """What a job does about a pod that failed, by the first rule that fits; the others it counts.
    Those that were stopped, or their machines reclaimed, are `replaced` by new pods; otherwise a
    machine that is reclaimed ends the job, for a JobSet to see it.
    """
    reclaimed = [{"type": "DisruptionTarget", "status": "True"}]
    stopped = {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [stopping.UNFINISHED]},
    }
    return {
        "rules": [
            {"action": "Ignore" if replaced else "FailJob", "onPodConditions": reclaimed},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": FATAL}},
            *([stopped] if replaced else []),
        ]
    }


def document(*objects: dict[str, Any]) -> str:
    """A file for kubectl."""
    return yaml.safe_dump_all(objects, sort_keys=False, default_flow_style=None, width=10_000)
