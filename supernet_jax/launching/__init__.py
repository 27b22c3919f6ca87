"""Ways to start training jobs, a file each: what its system takes, written without talking to it.

Those of this list are commands: `supernet launch SYSTEM`.
"""

from supernet_jax.launching.cluster_job import ClusterJob, Script
from supernet_jax.launching.gke import Gke
from supernet_jax.launching.k8s import Kubernetes
from supernet_jax.launching.local import Local
from supernet_jax.launching.pipeline import Pipeline
from supernet_jax.launching.slurm import Slurm

LAUNCHERS: dict[str, type[ClusterJob]] = {
    "gke": Gke,
    "k8s": Kubernetes,
    "slurm": Slurm,
    "local": Local,
    "pipeline": Pipeline,
}
