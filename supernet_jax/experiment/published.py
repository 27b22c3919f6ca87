"""Published networks of ImageNet, to lay a front beside, and where that may be done.

`published.csv` names the source of each row. Recipes differ, in teachers, epochs and augmentation,
so a point tells what has been reached with so many MACs, not whose search space is better.
"""

import csv
import importlib.resources
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from supernet_jax.experiment import point_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # whose import takes time that a report need not


FILE = "published.csv"
CLASSES = 1000
# The last part of a name, without marks between words, as of `tfds:imagenet2012`. Others that begin
# so are of other images or classes: imagenet_a, imagenet_resized/64x64.
NAMES = ("imagenet", "imagenet1k", "imagenet2012", "ilsvrc", "ilsvrc2012")
MARKERS = "s^Dv<>o"  # of families, in the order of the table
COLOURS = ("green", "purple", "red", "brown", "olive", "pink", "gray")
AROUND = 2.0  # how far beyond the MACs of one's own subnets published ones are still beside them


class Published(NamedTuple):
    """A network, as somebody published it.

    Attributes:
        name: as its source calls it.
        family: that it belongs to.
        top1: per cent of the 50,000 validation images.
        macs: multiply-accumulates of one image, as exactly as the source says them.
        parameters: how many; None where the source does not say it.
        resolution: pixels of a side of its images, or None likewise.
        source: where the numbers are from.
    """

    name: str
    family: str
    top1: float
    macs: int
    parameters: int | None
    resolution: int | None
    source: str

    @property
    def called(self) -> str:
        """Its name without how its weights were trained, which timm writes after a point."""
        return re.split(r"\.(?=[a-z])", self.name)[0]


def networks() -> tuple[Published, ...]:
    """All of the table, by family."""
    text = importlib.resources.files(__package__).joinpath(FILE).read_text("utf-8")
    return tuple(
        Published(
            row["name"],
            row["family"],
            float(row["top1"]),
            int(row["macs"]),
            int(row["parameters"]) if row["parameters"] else None,
            int(row["resolution"]) if row["resolution"] else None,
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def is_comparable(data: str, classes: object) -> bool:
    """Whether accuracies on some data may be laid beside published ones.

    The one rule: its name is that of ImageNet (`NAMES`), and it has 1,000 classes. Which images
    stand behind a name cannot be known.

    Args:
        data: name of the dataset, as configurations have it.
        classes: how many the space tells apart; None where it has none.
    """
    unversioned = re.sub(r":[\d.*]+$", "", data).rstrip("/\\")
    last = re.split(r"[/\\:]", unversioned)[-1]
    return classes == CLASSES and re.sub(r"[-_ .]", "", last.lower()) in NAMES


def beside(macs: Sequence[float]) -> tuple[Published, ...]:
    """Those whose MACs are at least half the least of some, and at most twice the most."""
    if not macs:
        return ()
    low, high = min(macs) / AROUND, max(macs) * AROUND
    return tuple(one for one in networks() if low <= one.macs <= high)


def draw(ax: "Axes", own: Sequence[tuple[float, float]]) -> None:
    """Draws those beside some subnets into axes of MACs and per cent, a mark for each family.

    Args:
        ax: Matplotlib axes.
        own: MACs and per cent of one's own subnets, in whose way no name stands.
    """
    found = beside([macs for macs, _ in own])
    for i, family in enumerate(dict.fromkeys(one.family for one in found)):
        related = [one for one in found if one.family == family]
        ax.scatter(
            [one.macs for one in related],
            [one.top1 for one in related],
            s=22,
            marker=MARKERS[i % len(MARKERS)],
            facecolors="none",
            edgecolors=f"tab:{COLOURS[i % len(COLOURS)]}",
            label=f"{family}, published",
        )
    if not found:
        return
    ax.autoscale_view()
    points = ax.transData.transform([*((one.macs, one.top1) for one in found), *own])
    letter = 0.6 * 6 * ax.figure.dpi / 72  # pixels of one at 6 points
    widths = [letter * len(one.called) for one in found]
    right = ax.transAxes.transform((1, 1))[0]
    free = point_names.apart(points[:, 0], points[:, 1], widths, height=1.6 * letter)
    for one, place, width, is_free in zip(found, points[: len(found)], widths, free, strict=True):
        if is_free and place[0] + width < right:
            ax.annotate(
                one.called, (one.macs, one.top1), xytext=(4, -2), textcoords="offset points",
                fontsize=6, color="0.35", parse_math=False,
            )  # fmt: skip
