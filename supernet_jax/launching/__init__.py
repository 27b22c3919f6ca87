"""Ways to start training jobs, a file each: what its system takes, written without talking to it.

Those of this list are commands: `supernet launch SYSTEM`.
"""

from supernet_jax.launching.cluster_job import ClusterJob, Script
from supernet_jax.launching.gke import Gke
from supernet_jax.launching.k8s import Kubernetes
from supernet_jax.launching.local import Local
from supernet_jax.launching.pipeline import Pipeline
from supernet_jax.launching.sky import Sky
from supernet_jax.launching.slurm import Slurm
from supernet_jax.launching.tpu import Tpu

LAUNCHERS: dict[str, type[ClusterJob]] = {
    "tpu": Tpu,
    "gke": Gke,
    "k8s": Kubernetes,
    "slurm": Slurm,
    "sky": Sky,
    "local": Local,
    "pipeline": Pipeline,
}
