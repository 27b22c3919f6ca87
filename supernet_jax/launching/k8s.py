"""Kubernetes: an indexed job, a pod for each machine, and a service by which they find each other.

Pod 0 is the coordinator of JAX, under the name that the headless service gives it. When a pod ends,
those of its peers end too, by status 75, and all are made again.
Source: kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.launching import pods
from supernet_jax.launching.cluster_job import OnGpus, Script

PORT = 8476  # of the coordinator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kubernetes(OnGpus, pods.InPods):
    """Train on machines with NVIDIA GPUs of any Kubernetes cluster."""

    EXAMPLES: ClassVar[str] = """
supernet launch k8s configs/digits.py --out s3://B/runs/a --image IMAGE:1 --nodes 2 --gpus 8
supernet launch k8s configs/digits.py --out /data/runs/a --volume shared:/data --image IMAGE:1"""

    @property
    def joining(self) -> tuple[str, ...]:
        """Told in full: JAX asks the cluster only where its package `kubernetes` is installed."""
        if self.nodes == 1:
            return ()
        first = f"{self.name}-0.{self.name}:{PORT}"
        return (
            *("--coordinator", first, "--processes", str(self.nodes), "--process", pods.INDEX),
            *("--join-seconds", str(pods.JOIN_SECONDS)),
        )

    @property
    def script(self) -> Script:
        """A service and a job for kubectl."""
        platforms = "cuda,cpu" if self.gpus else "cpu"
        devices = {"nvidia.com/gpu": self.gpus} if self.gpus else {}
        spec: dict[str, Any] = {"subdomain": self.name} if self.nodes > 1 else {}
        if self.gpus:
            spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        job: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self.metadata,
            "spec": {
                "ttlSecondsAfterFinished": pods.KEPT_SECONDS,
                "completionMode": "Indexed",
                "parallelism": self.nodes,
                "completions": self.nodes,
                "backoffLimitPerIndex": self.restarts,  # one that hangs is seen by all of them
                "maxFailedIndexes": 0,
                "podReplacementPolicy": "Failed",  # not while the one before it may still write
                "podFailurePolicy": pods.rules(replaced=True),
                "template": self.pod(devices, platforms, {}, **spec),
            },
        }
        ours = f"batch.kubernetes.io/job-name={self.name}"
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {k: v for k, v in self.metadata.items() if k != "labels"},
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,  # they look for pod 0 before it is ready
                "selector": dict([ours.split("=")]),
                "ports": [{"name": "coordinator", "port": PORT}],
            },
        }
        follow = (
            f"{self.kubectl} get pods --selector {ours}",
            f"{self.kubectl} logs --follow --selector "
            f"{ours},batch.kubernetes.io/job-completion-index=0",
            f"{self.kubectl} delete job,service {self.name}  # ends it, and frees its name",
        )
        text = pods.document(*([service] if self.nodes > 1 else []), job)
        return Script(f"{self.name}.yaml", text, ("kubectl", "apply", "-f"), follow)
