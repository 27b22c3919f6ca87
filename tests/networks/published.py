"""Folders of random networks of a tiny space, as `supernet extract` would write them."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import tiny_space

from supernet_jax.elastic import choices, shared_params
from supernet_jax.networks import extract, network_folder
from supernet_jax.networks.formats import table
from supernet_jax.networks.formats.format import Export

SPACE = tiny_space.tiny()
SIZE = 8  # pixels of the images
MEAN, STD = (0.5, 0.25), (0.3, 0.2)
CLASSES = SPACE.task.classes
ARCHS = {
    "small": choices.smallest(SPACE.menu),
    "large": jax.tree.map(np.asarray, choices.sample(SPACE.menu, jax.random.key(1), ())),
}


@functools.cache
def _shared() -> tuple[Any, Any]:
    """Parameters and statistics of the supernet, in which nothing is zero."""
    rng = np.random.default_rng(0)

    def filled(shapes: Any, low: float) -> Any:
        return jax.tree.map(
            lambda s: rng.uniform(low, low + 1.0, s.shape).astype(np.float32), shapes
        )

    params = jax.eval_shape(functools.partial(shared_params.init, SPACE), jax.random.key(0))
    stats = jax.eval_shape(functools.partial(shared_params.zero_stats, SPACE))
    return filled(params, -0.5), filled(stats, 0.5)


@functools.cache
def network(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """Module, variables and description of an arch."""
    params, stats = _shared()
    arch = ARCHS[name]
    module, variables = extract.extract(SPACE, params, arch, stats)
    description = extract.describe(
        SPACE,
        arch,
        module,
        variables,
        mean=MEAN,
        std=STD,
        accuracy={"held-out": 0.625, "test": 0.5},
        calibration=(2, 64),
        source={
            "run": "/home/jane/secret/runs/tiny",
            "checkpoint": 7,
            "data": "npz:/home/jane/a.npz",
        },
        proof=0.0,
        proof_images=3,
    )
    return module, variables, description


def write(folder: pathlib.Path, name: str, *formats: str) -> pathlib.Path:
    """Writes a network, by default as Orbax has it."""
    module, variables, description = network(name)
    chosen = table.chosen(formats or ("orbax",), pixels=False, size=None)
    export = Export(module, variables, description, (SIZE, SIZE), False)
    images = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 2), np.uint8)
    writer = table.writer(chosen, export, table.fed(images, export))
    card = table.card(chosen)
    network_folder.save(folder, module, variables, description=description, write=writer, card=card)
    return folder


def same(ours: tuple[Any, Any], name: str) -> bool:
    """Whether a module and its variables are those of an arch, to the bit."""
    module, variables, _ = network(name)
    found = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), ours[1], variables
    )
    return ours[0] == module and all(jax.tree.leaves(found))
