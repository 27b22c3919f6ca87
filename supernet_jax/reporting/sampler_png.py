"""A picture of what a sampler visits."""

import pathlib

import numpy as np

from supernet_jax.storage import files

COLOURS = {"random": "tab:blue", "smallest": "tab:green", "largest": "tab:orange"}


def draw(path: pathlib.Path, macs: dict[str, np.ndarray], *, title: str, note: str = "") -> None:
    """Draws the MACs of a sampler's members as PNG.

    Args:
        path: of the picture.
        macs: by role, of each member of each step.
        title: of the picture.
        note: what has to be known about it; under the axis.
    """
    from matplotlib.figure import Figure  # whose import takes time that others need not
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(7.0, 4.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    every = np.concatenate(list(macs.values()))
    edges = np.linspace(every.min(), max(every.max(), every.min() + 1), 61)
    random = macs.get("random", np.zeros(0))
    if len(random):
        axes.hist(random, bins=edges.tolist(), color=COLOURS["random"], label="random members")
    for role in ("smallest", "largest"):
        if len(macs.get(role, ())):
            axes.axvline(macs[role].mean(), color=COLOURS[role], label=f"{role}, in its steps")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("MACs" + (f"\n{note}" if note else ""))
    axes.set_ylabel("subnets")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3)
    files.write_bytes(path, lambda file: figure.savefig(file, format="png"))
