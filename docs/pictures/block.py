"""Draws `block.png`: one elastic block at three sizes, over one set of weights.

python docs/pictures/block.py
"""

import pathlib

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

SIZES = (  # name, input and output channels, expansion, kernel
    ("largest", 6, 6, 3, 5),
    ("another", 5, 4, 2, 3),
    ("smallest", 4, 4, 1, 3),
)
WIDEST, EXPANDED, KERNEL = 6, 18, 5
USED, UNUSED, LINE = "#3b6ea8", "#e6e8eb", "#ffffff"


def grid(axes: plt.Axes, at: tuple[float, float], shape: tuple[int, int], used: list) -> None:
    """A matrix of `shape` (rows, columns); `used` has the slices of rows and columns in use."""
    for row in range(shape[0]):
        for column in range(shape[1]):
            inside = row in range(*used[0]) and column in range(*used[1])
            corner = (at[0] + column * 0.2, at[1] - row * 0.2)
            colour = USED if inside else UNUSED
            axes.add_patch(Rectangle(corner, 0.2, -0.2, facecolor=colour, edgecolor=LINE, lw=0.6))


def main() -> None:
    """Draws three rows: the same weights, and what each size uses of them."""
    matplotlib.rcParams["font.size"] = 9
    figure, axes = plt.subplots(figsize=(9.6, 4.6))
    for i, (name, c_in, c_out, ratio, kernel) in enumerate(SIZES):
        top, middle, start = -i * 2.1, c_in * ratio, (KERNEL - kernel) // 2
        axes.text(-3.2, top - 0.45, name, fontsize=11, weight="bold")
        text = f"{c_in} to {c_out} channels\nexpansion {ratio}, kernel {kernel}"
        axes.text(-3.2, top - 1.05, text, color="#555555")
        grid(axes, (0, top), (WIDEST, EXPANDED), [(0, c_in), (0, middle)])
        for j, channel in enumerate((0, 6, 12)):  # three of the kernels, one of each third
            box = [(start, start + kernel)] * 2 if channel < middle else [(0, 0), (0, 0)]
            grid(axes, (4.1 + 1.2 * j, top), (KERNEL, KERNEL), box)
        grid(axes, (7.9, top), (WIDEST, EXPANDED), [(0, c_out), (0, middle)])
    for x, text in ((0, "expand, 1 x 1"), (4.1, "depthwise kernels"), (7.9, "project, 1 x 1")):
        axes.text(x, 0.15, text)
    axes.set(xlim=(-3.3, 11.6), ylim=(-5.6, 0.5), aspect="equal")
    axes.axis("off")
    path = pathlib.Path(__file__).with_name("block.png")
    figure.savefig(path, bbox_inches="tight", dpi=110)


if __name__ == "__main__":
    main()
