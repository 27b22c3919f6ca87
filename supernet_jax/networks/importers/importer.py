"""What an importer found in a file. Every importer has one door, `load(tensors, space)`:

    def load(tensors: Mapping[str, np.ndarray], space: Space) -> tuple[Tree, Report]

It returns the space's shared parameters, NumPy float32 in the tree of `shared_params.init`, and
raises a `UserError` that names the tensor if one is missing, unknown or of another shape.
"""

from typing import NamedTuple


class Report(NamedTuple):
    """What became of the tensors of a file.

    Attributes:
        mapped: names of those that became parameters, in the order of the space.
        left: `NAME: why` of those that did not.
    """

    mapped: tuple[str, ...]
    left: tuple[str, ...]
