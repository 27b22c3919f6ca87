"""An extracted network teaches."""

import dataclasses

from supernet_jax.data import Dataset
from supernet_jax.elastic.space import Space
from supernet_jax.errors import UserError
from supernet_jax.networks import manifest, network_folder
from supernet_jax.storage import local_copy
from supernet_jax.storage.paths import expanded
from supernet_jax.tasks import ImageClassification
from supernet_jax.training.teachers.outside_network import (
    OutsideNetwork,
    of_same_task,
    teaching,
)
from supernet_jax.training.teachers.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class ExtractedNetwork:
    """An extracted network teaches all subnets, as in Once-for-All; it does not learn."""

    folder: str = dataclasses.field(metadata={"path": True})
    """of the network, as `supernet extract` wrote it"""
    file: str | None = dataclasses.field(default=None, metadata={"path": True})
    """Python file of yours that defines the network's blocks, if some are your own; it is run"""

    def build(self, *, dataset: Dataset, space: Space) -> Teacher:
        """The teacher of a run on a data set.

        Raises:
            UserError: there is no such network, or it is for other images, classes or another task.
        """
        copy = local_copy.local(expanded(self.folder))
        module, variables = network_folder.load(copy, space_file=self.file)
        if not isinstance(space.task, ImageClassification):
            return of_same_task(self.folder, module, variables, space.task)
        about = manifest.read_description(copy)
        if about.get("version") == manifest.GENERAL_VERSION:
            raise UserError(
                f"the teacher {self.folder} is no classifier of images, but {dataset.name} is "
                "images; give one for images"
            )
        numbers = about["classes"], about["mean"], about["std"]
        return teaching(OutsideNetwork(self.folder, module, variables, *numbers), dataset)
