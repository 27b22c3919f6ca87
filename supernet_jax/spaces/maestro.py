"""Maestro (Horvath et al. 2023, arXiv 2308.14929): layers of two factors, of elastic rank.

Every linear layer of a perceptron is a product of two factors. A subnet has the leading columns of
the first and rows of the second. Trained by `samplers.OrderedDropout`, factors are ordered by what
they are worth: of one linear layer, the truncated singular value decomposition is found. With
`optimizers.GroupLasso` the ranks that are not needed become exactly zero.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from supernet_jax.elastic import choices
from supernet_jax.elastic.choices import Arch, Choice, Menu
from supernet_jax.elastic.elastic_block import Deployed, Tree, elastic
from supernet_jax.elastic.space import Space
from supernet_jax.elastic.strategies import chain
from supernet_jax.errors import require
from supernet_jax.nn.blocks.factored import FactoredLayer, FactoredLayerSpec
from supernet_jax.tasks import ImageClassification, Task


def maestro_mlp(
    name: str,
    *,
    resolution: int,
    hidden: tuple[int, ...],
    task: Task,
    ranks: tuple[int, ...] = (),
    outputs: int,
    input_channels: int,
) -> Space:
    """A perceptron of factored layers with ReLU between them.

    Its menu is `{"resolution", "rank": [layers...]}`. A network that is taken out has two factors
    where these have fewer numbers, `r (I + O) < I O`, and their product elsewhere.

    Args:
        name: of the space.
        resolution: of the images, pixels.
        hidden: numbers that each layer but the last puts out.
        task: what the space is for.
        ranks: on offer in each layer whose smaller side is as large, beside that side itself; none
            for all ranks.
        outputs: of the last layer, as classes.
        input_channels: of the images.

    Raises:
        UserError: a rank below 1, or above the smaller side of every layer.
    """
    sizes = [resolution**2 * input_channels, *hidden, outputs]
    sides = [min(pair) for pair in itertools.pairwise(sizes)]
    for rank in ranks:
        require(
            1 <= rank <= max(sides),
            f"space.ranks has {rank}; a rank is at least 1 and at most the smaller side of a "
            f"layer, and those of this space are {', '.join(map(str, sides))}",
        )
    menu: Menu = {
        "resolution": Choice((resolution,)),
        "rank": [
            Choice(tuple(sorted({*(r for r in ranks or range(1, side) if r < side), side})))
            for side in sides
        ],
    }
    blocks = {}
    for i, (inputs, out) in enumerate(itertools.pairwise(sizes)):
        same = {"c_in": inputs if i else input_channels, "inputs": inputs, "outputs": out}
        same["relu"] = i + 1 < len(sides)
        blocks[f"layer{i + 1}"] = elastic(
            FactoredLayer,
            lambda rank, same=same: FactoredLayerSpec(rank=rank, **same),
            menu=menu,
            decisions=[("rank", i)],
            relaxed=("down",),
            deployed=Deployed(cheapest, in_its_form),
        )
    return Space(name, menu, blocks, chain(tuple(blocks)), task, static=(("resolution",),))


def cheapest(spec: FactoredLayerSpec) -> FactoredLayerSpec:
    """Two factors or one matrix, whichever has fewer numbers."""
    factors = spec.rank * (spec.inputs + spec.outputs)
    return spec if factors < spec.inputs * spec.outputs else dataclasses.replace(spec, rank=0)


def in_its_form(spec: FactoredLayerSpec, params: Tree) -> Tree:
    """The weights of two factors as those of the `cheapest` form."""
    if cheapest(spec).rank:
        return params
    down, up = params["down"]["kernel"], params["up"]["kernel"]
    return {"up": {**params["up"], "kernel": jnp.dot(down, up, precision="highest")}}


def needed_ranks(space: Space, params: Tree) -> Arch:
    """The smallest arch that has every rank of which both factors are not zero, concrete.

    What it leaves out computes nothing: its network is that of the largest arch.

    Args:
        space: of `maestro_mlp`.
        params: shared parameters.
    """
    arch = choices.largest(space.menu)
    for i, choice in enumerate(space.menu["rank"]):
        layer = params[f"layer{i + 1}"]
        down, up = (np.asarray(layer[name]["kernel"]) for name in ("down", "up"))
        (alive,) = np.nonzero(np.any(down, 0) & np.any(up, 1))
        rank = int(alive[-1]) + 1 if len(alive) else 1
        option = np.int32(np.searchsorted(choice.values, rank))
        arch = choices.replace(arch, ("rank", i), option)
    return arch


@dataclasses.dataclass(frozen=True)
class MaestroMlp:
    """A perceptron whose layers are products of two factors, of elastic rank."""

    name: ClassVar[str] = "maestro_mlp"  # on the command line
    resolution: int = 8
    """size of images, pixels"""
    hidden: tuple[int, ...] = (128, 64)
    """numbers that each layer but the last puts out"""
    ranks: tuple[int, ...] = ()
    """ranks on offer beside the full one, in each layer that is as large; none for all ranks"""

    def build(self, *, classes: int = 10, input_channels: int = 1) -> Space:
        """The space for data with so many classes and channels."""
        require(self.resolution >= 1, f"space.resolution is {self.resolution}; give 1 or more")
        require(
            min(self.hidden, default=1) >= 1, f"space.hidden is {self.hidden}; give 1 or more each"
        )
        offers: dict[str, Any] = {"hidden": self.hidden, "ranks": self.ranks}
        return maestro_mlp(
            self.name,
            resolution=self.resolution,
            task=ImageClassification(input_channels, classes),
            outputs=classes,
            input_channels=input_channels,
            **offers,
        )
