"""GKE: a JobSet, with a job of Kubernetes for each slice and a pod for each of its machines.

When one slice fails all begin again together, up to `restarts` times, not counting those where
machines were reclaimed. No pod is made in place of another: JobSet, up to 0.12, would then make no
other pod of a job that has a node pool for itself, since two had been the first one of that job.
GKE tells each pod its place, and JAX reads it.
Sources: jobset.sigs.k8s.io and its API v1alpha2, cloud.google.com/kubernetes-engine/docs.
"""

import dataclasses
from typing import Any, ClassVar

from supernet_jax.launching import pods
from supernet_jax.launching.cluster_job import OnTpu, Script

# Both are seen by the rules of a job, which tells them apart in the words of its message alone.
RECLAIMED = {
    "name": "reclaimed",
    "action": "RestartJobSetAndIgnoreMaxRestarts",
    "onJobFailureReasons": ["PodFailurePolicy"],
    "onJobFailureMessagePatterns": ["condition DisruptionTarget"],
}
MISTAKE = {
    "name": "mistake",
    "action": "FailJobSet",
    "onJobFailureReasons": ["PodFailurePolicy"],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gke(OnTpu, pods.InPods):
    """Train on TPU slices of a GKE cluster that has JobSet, and Kueue if there is a queue."""

    EXAMPLES: ClassVar[str] = """
supernet launch gke configs/digits.py --out gs://B/runs/a --image IMAGE:1 --accelerator v6e-16
supernet launch gke configs/digits.py --out gs://B/runs/a --image IMAGE:1 --accelerator v5p-128 \
--slices 2 --capacity spot --dry-run"""

    @property
    def joining(self) -> tuple[str, ...]:
        """Nothing for a process that is alone."""
        if self.slice.hosts * self.slices == 1:
            return ()
        return (*super().joining, "--join-seconds", str(pods.JOIN_SECONDS))

    @property
    def script(self) -> Script:
        """A JobSet for kubectl."""
        hosts = self.slice.hosts
        job = {
            "completionMode": "Indexed",
            "parallelism": hosts,
            "completions": hosts,
            "backoffLimit": 0,  # the JobSet counts
            "podReplacementPolicy": "Failed",  # not while the one before it may still write
            "podFailurePolicy": pods.rules(replaced=False),
            "template": self._pod(),
        }
        # A node pool of several machines is one slice, which has to belong to one job alone.
        alone = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        jobset = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": self.metadata | ({"annotations": alone} if hosts > 1 else {}),
            "spec": {
                "ttlSecondsAfterFinished": pods.KEPT_SECONDS,
                "failurePolicy": {
                    "maxRestarts": self.restarts,
                    "restartStrategy": "BlockingRecreate",  # all that came before has ended
                    "rules": [RECLAIMED, MISTAKE],
                },
                "replicatedJobs": [
                    {"name": "slice", "replicas": self.slices, "template": {"spec": job}}
                ],
            },
        }
        ours = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        first = "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
        follow = (
            f"{self.kubectl} get pods --selector {ours}",
            f"{self.kubectl} logs --follow --selector {ours},{first}",
            f"{self.kubectl} describe jobset {self.name}",
            f"{self.kubectl} delete jobset {self.name}  # ends it, and frees its name",
        )
        text = pods.document(jobset)
        return Script(f"{self.name}.yaml", text, ("kubectl", "apply", "-f"), follow)

    def _pod(self) -> dict[str, Any]:
        selector = {
            "cloud.google.com/gke-tpu-accelerator": self.slice.kind.gke,
            "cloud.google.com/gke-tpu-topology": self.slice.topology,
        }
        tolerated = ["google.com/tpu"]
        if self.capacity == "spot":
            selector["cloud.google.com/gke-spot"] = "true"
            tolerated.append("cloud.google.com/gke-spot")
        elif self.capacity == "flex" and self.queue:  # Kueue asks for all machines at once
            selector["cloud.google.com/gke-queued"] = "true"
            tolerated.append("cloud.google.com/gke-queued")
        elif self.capacity == "flex":
            selector["cloud.google.com/gke-flex-start"] = "true"
        elif self.reservation:
            selector["cloud.google.com/reservation-name"] = self.reservation
        return self.pod(
            {"google.com/tpu": self.slice.host_chips},
            "tpu,cpu",
            selector,
            hostNetwork=True,  # slices talk to each other through it, at its full speed
            dnsPolicy="ClusterFirstWithHostNet",
            tolerations=[{"key": key, "operator": "Exists"} for key in tolerated],
            container={"securityContext": {"privileged": True}},  # devices of TPUs ask for it
        )
