"""Draws `network.png`, a network inside the largest of its space, and `importance.png`, of a run.

supernet quickstart --out runs/quickstart
python docs/pictures/networks.py runs/quickstart
"""

import pathlib
import sys

import matplotlib.figure

import supernet_jax as sj
from supernet_jax.elastic import notation
from supernet_jax.experiment import arch_picture
from supernet_jax.experiment.importance import importance

A3 = {  # of AttentiveNAS and AlphaNet, as `tests/goldens/attentivenas.json` has it
    "resolution": 224,
    "width": [16, 16, 24, 32, 64, 112, 208, 224, 1984],
    "depth": [2, 3, 3, 4, 3, 5, 1],
    "kernel_size": [3, 3, 3, 5, 3, 3, 3],
    "expand_ratio": [1, 4, 4, 4, 4, 6, 6],
}


def axes(height: float) -> matplotlib.axes.Axes:
    """Of a picture as wide as a page."""
    return matplotlib.figure.Figure(figsize=(9.0, height), dpi=90, layout="constrained").subplots()


def main(run: str) -> None:
    """Draws both."""
    space = sj.spaces.AttentiveNAS().build(classes=1000, input_channels=3)
    network = axes(2.6)
    arch = notation.from_notation(space.menu, A3)
    arch_picture.draw(network, space, arch, title="AlphaNet-A3 inside the largest of its space")
    decisions = importance(sj.open_run(run, read=False)).plot(axes(3.6))
    folder = pathlib.Path(__file__).parent
    for name, drawn in (("network", network), ("importance", decisions)):
        drawn.figure.savefig(folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
