"""A subnet of another supernet teaches."""

import dataclasses
from collections.abc import Callable

from supernet_jax.data import Dataset
from supernet_jax.training.teachers.outside_network import (
    OutsideNetwork,
    check_is_of_images,
    teaching,
)
from supernet_jax.training.teachers.teacher import Teacher

Subnet = Callable[[str, str, str | None], OutsideNetwork]  # of (run, arch, file)


@dataclasses.dataclass(frozen=True)
class OtherSupernet:
    """A subnet of another run teaches all subnets; it does not learn.

    It is what `supernet extract` makes of it: calibrated, with weights of its own.
    """

    run: str = dataclasses.field(metadata={"path": True})
    """folder of the other run"""
    arch: str = "largest"
    """which of its subnets: largest, smallest, or an arch as JSON or in a JSON file"""
    file: str | None = dataclasses.field(default=None, metadata={"path": True})
    """config file of yours that defines the other run's parts, if some are your own; it is run"""

    def build(self, *, dataset: Dataset, subnet: Subnet) -> Teacher:
        """The teacher of a run on a data set.

        Args:
            dataset: of the run.
            subnet: `(run, arch, file) -> OutsideNetwork`: opens the other run and takes it out.

        Raises:
            UserError: there is no such run or arch, or it is for other images or classes.
        """
        check_is_of_images(self.run, dataset)
        return teaching(subnet(self.run, self.arch, self.file), dataset)
