"""An extracted network teaches."""

import dataclasses

from supernet_jax.data import Dataset
from supernet_jax.networks import manifest, network_folder
from supernet_jax.storage import local_copy
from supernet_jax.storage.paths import expanded
from supernet_jax.training.teachers.outside_network import OutsideNetwork, teaching
from supernet_jax.training.teachers.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class ExtractedNetwork:
    """An extracted network teaches all subnets, as in Once-for-All; it does not learn."""

    folder: str = dataclasses.field(metadata={"path": True})
    """of the network, as `supernet extract` wrote it"""
    file: str | None = dataclasses.field(default=None, metadata={"path": True})
    """Python file of yours that defines the network's blocks, if some are your own; it is run"""

    def build(self, *, dataset: Dataset) -> Teacher:
        """The teacher of a run on a data set.

        Raises:
            UserError: there is no such network, or it is for other images or classes.
        """
        copy = local_copy.local(expanded(self.folder))
        module, variables = network_folder.load(copy, space_file=self.file)
        about = manifest.read_description(copy)
        numbers = about["classes"], about["mean"], about["std"]
        return teaching(OutsideNetwork(self.folder, module, variables, *numbers), dataset)
